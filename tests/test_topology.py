import os

import pytest

from hpctrain import topology
from hpctrain.topology import SLOW_CORE, here


@pytest.mark.parametrize(
    ("name", "cores", "cpus", "hyperthreads", "sockets", "nodes"),
    [
        ("knl-quad-cache", 68, 272, 4, 1, (0,)),
        ("knl-quad-flat", 68, 272, 4, 1, (0,)),
        ("knl-snc4-flat", 68, 272, 4, 1, (0, 1, 2, 3)),
        ("perlmutter-cpu", 128, 256, 2, 2, tuple(range(8))),
        ("laptop-hybrid", 12, 16, 2, 1, (0,)),
        ("container-v2", 4, 4, 1, 1, (0,)),
        ("container-v1", 8, 8, 1, 1, (0,)),
    ],
)
def test_machines(machine_named, name, cores, cpus, hyperthreads, sockets, nodes):
    found = machine_named(name)
    assert (len(found.cores), len(found.cpus), found.hyperthreads) == (cores, cpus, hyperthreads)
    assert (found.sockets, found.cpu_nodes) == (sockets, nodes)
    assert found.described


def test_cores_of_knights_landing_have_their_four_threads(machine_named):
    assert machine_named("knl-quad-cache").cores[1].cpus == (1, 69, 137, 205)


def test_memory_without_cores(machine_named):
    assert machine_named("knl-quad-cache").memory_nodes == ()
    assert [node.number for node in machine_named("knl-snc4-flat").memory_nodes] == [4, 5, 6, 7]
    (mcdram,) = machine_named("knl-quad-flat").memory_nodes
    assert (mcdram.number, mcdram.memory_bytes) == (1, 16 * 2**30)


def test_sockets_and_nodes_of_two_processors(machine_named):
    core = machine_named("perlmutter-cpu").cores[64]
    assert (core.cpus, core.node, core.socket) == ((64, 192), 4, 1)


def test_cores_of_two_speeds(machine_named):
    speeds = [core.speed for core in machine_named("laptop-hybrid").cores]
    assert speeds == [1.0] * 4 + [SLOW_CORE] * 8


def test_capacities_say_more_than_names(machine_named, tmp_path):
    machine_named("laptop-hybrid")
    for cpu in range(16):
        file = tmp_path / f"laptop-hybrid/sys/devices/system/cpu/cpu{cpu}/cpu_capacity"
        file.write_text("1024\n" if cpu < 8 else "640\n")
    assert {core.speed for core in topology.read_topology(tmp_path / "laptop-hybrid").cores} == {1.0, 0.625}


def test_only_what_is_allowed_is_ours(machine_named):
    found = machine_named("perlmutter-cpu", frozenset({1, 129, 2, 80}))
    assert [core.cpus for core in found.cores] == [(1, 129), (2,), (80,)]
    assert (found.online, found.cpu_nodes) == (256, (0, 5))


def test_the_tightest_cgroup_counts(machine_named):
    found = machine_named("container-v2")
    assert found.limits.cpus == 1.5
    assert found.limits.memory_bytes == 4 * 2**30
    assert found.cpus == {2, 3, 4, 5}
    assert found.quota == 1.5


def test_cgroups_of_version_1(machine_named):
    found = machine_named("container-v1")
    assert (found.limits.cpus, found.limits.memory_bytes, found.quota) == (2.5, None, 2.5)


def test_without_sys_each_cpu_is_a_core(machine_named):
    found = machine_named("nothing", frozenset({3, 5}))
    assert [core.cpus for core in found.cores] == [(3,), (5,)]
    assert (found.cpu_nodes, found.described, found.quota) == ((0,), False, None)
    assert len(machine_named("nothing").cores) == os.cpu_count()


def test_torn_files_are_as_none(machine_named, tmp_path):
    machine_named("knl-quad-cache")
    sys = tmp_path / "knl-quad-cache/sys/devices/system"
    (sys / "cpu/cpu0/topology/thread_siblings_list").write_text("0,")
    (sys / "node/node0/meminfo").write_bytes(b"\xff\xfe")
    found = topology.read_topology(tmp_path / "knl-quad-cache")
    assert (0,) in [core.cpus for core in found.cores]
    assert found.nodes[0].memory_bytes is None


def test_this_machine():
    assert here().cpus == os.sched_getaffinity(0)
