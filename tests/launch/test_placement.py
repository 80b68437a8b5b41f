"""Where ranks run on machines we do not have, and what holds on any."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.launch.placement import plan
from hpctrain.topology import Core, Node, Topology


def cores(places) -> list[list[int]]:
    return [[core.cpus[0] for core in place.cores] for place in places]


def test_the_two_ranks_of_knights_landing(machine_named):
    places = plan(machine_named("knl-quad-cache"), 2, spare_cores=2)
    assert cores(places) == [list(range(33)), list(range(33, 66))]
    assert str(places[0]) == "cores 0-32 (4 hyperthreads each), NUMA 0, 33 threads"
    assert places[0].slots[1] == (1, 69, 137, 205)


def test_hyperthreads_compute_when_asked(machine_named):
    place = plan(machine_named("knl-quad-cache"), 1, spare_cores=2, hyperthreads=True)[0]
    assert (place.threads, len(place.slots), place.slots[:2]) == (264, 264, ((0,), (68,)))


def test_clusters_of_unequal_size(machine_named):
    machine = machine_named("knl-snc4-flat")
    places = plan(machine, 4)
    assert [(len(p.cores), p.nodes, p.threads) for p in places] == [(16, (n,), 16) for n in range(4)]
    assert cores(plan(machine, 4, spare_cores=4))[0] == list(range(16))  # the larger nodes give first


def test_eight_nodes(machine_named):
    machine = machine_named("perlmutter-cpu")
    assert [p.nodes for p in plan(machine, 2)] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert [(p.nodes, p.threads) for p in plan(machine, 8)] == [((n,), 16) for n in range(8)]
    sixteen = plan(machine, 16)
    assert {len(p.nodes) for p in sixteen} == {1}
    assert sixteen[1].cpus == {*range(8, 16), *range(136, 144)}


def test_ranks_that_do_not_divide_share_the_memory_of_all_nodes(machine_named):
    places = plan(machine_named("perlmutter-cpu"), 9)
    assert {len(p.cores) for p in places} == {8}
    assert {p.nodes for p in places} == {(n,) for n in range(8)}


def test_more_threads_than_a_node_has_are_worth_crossing_for(machine_named):
    machine = machine_named("perlmutter-cpu")
    assert {len(p.cores) for p in plan(machine, 9, threads=14)} == {14}
    assert {(len(p.cores), p.threads) for p in plan(machine, 8, threads=1)} == {(16, 1)}


def test_slow_cores_are_taken_only_where_they_help(machine_named):
    machine = machine_named("laptop-hybrid")
    assert len(plan(machine, 1)[0].cores) == 12  # 12 at half speed are more than 4
    fast = Topology((*machine.cores[:4], *machine.cores[4:7]), machine.nodes, 16)
    assert cores(plan(fast, 1)) == [[0, 2, 4, 6]]
    assert len(cores(plan(fast, 5))) == 5


def test_the_time_of_a_cgroup_is_shared_out(machine_named):
    assert [p.threads for p in plan(machine_named("container-v1"), 1)] == [2]
    assert [p.threads for p in plan(machine_named("container-v1"), 2)] == [1, 1]
    assert [p.threads for p in plan(machine_named("container-v1"), 2, threads=4)] == [4, 4]


def test_more_ranks_than_cores_take_hardware_threads(machine_named):
    places = plan(machine_named("knl-quad-cache"), 136)
    assert (places[0].cpus, places[1].cpus, places[0].threads) == ({0, 68}, {136, 204}, 1)
    assert len(plan(machine_named("nothing", frozenset({0})), 3)) == 3


@pytest.mark.parametrize(("ranks", "spare"), [(0, 0), (1, 1), (1, 5), (1, -1)])
def test_no_place(machine_named, ranks, spare):
    with pytest.raises(ValueError, match="no place"):
        plan(machine_named("nothing", frozenset({0})), ranks, spare_cores=spare)


@st.composite
def machines(draw) -> Topology:
    found, cpu = [], 0
    for node, size in enumerate(draw(st.lists(st.integers(1, 20), min_size=1, max_size=6))):
        for _ in range(size):
            threads = draw(st.integers(1, 4))
            found.append(Core(tuple(range(cpu, cpu + threads)), node, 0))
            cpu += threads
    nodes = tuple(Node(n, frozenset()) for n in {core.node for core in found})
    return Topology(tuple(found), nodes, cpu)


@given(machines(), st.data())
def test_what_holds_on_any_machine(machine, data):
    spare = data.draw(st.integers(0, len(machine.cores) - 1))
    left = len(machine.cores) - spare
    ranks = data.draw(st.integers(1, left))
    hyperthreads = data.draw(st.booleans())
    places = plan(machine, ranks, spare_cores=spare, hyperthreads=hyperthreads)
    taken = [cpu for place in places for cpu in place.cpus]
    assert len(taken) == len(set(taken))
    assert set(taken) <= machine.cpus
    assert [place.local_rank for place in places] == list(range(ranks))
    assert len({len(place.cores) for place in places}) == 1
    assert len({place.threads for place in places}) == 1
    assert all(1 <= place.threads <= len(place.slots) for place in places)
    if ranks >= len(machine.cpu_nodes):
        assert all(len(place.nodes) == 1 for place in places)
    if ranks == 1:
        assert sum(len(place.cores) for place in places) == left


@given(machines(), st.integers(1, 20), st.integers(1, 64))
def test_threads_that_were_asked_for_are_given(machine, ranks, threads):
    places = plan(machine, min(ranks, len(machine.cores)), threads)
    assert {place.threads for place in places} == {threads}
