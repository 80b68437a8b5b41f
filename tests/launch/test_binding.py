"""Who has bound a rank, judged from variables and masks; and really: ranks started, their affinity read back."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from hpctrain.errors import UserError
from hpctrain.launch.binding import PLACEMENT, Wish, decide, slurm_masks
from hpctrain.launch.local import LocalLauncher, mpiexec
from hpctrain.parallel.environment import Ranks

ALL = "0-255"
SLURM = {"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_NODEID": "1"}


def decided(machine, ranks, wish=None, environment=None, allowed=None):
    return decide(wish or Wish(), machine("perlmutter-cpu", allowed), ranks, environment or {})


def test_each_rank_of_ours_gets_its_part(machine_named):
    settled = decided(machine_named, Ranks(3, 4, 3, "MPICH"), Wish(ranks=4, cpus=ALL))
    assert str(settled) == ("cores 96-127 (2 hyperthreads each), NUMA 6-7, 32 threads; bound by hpctrain")
    assert (settled.ours, settled.pinned) == (True, True)


def test_fewer_threads_than_cores_are_not_pinned_unless_asked(machine_named):
    ranks, wish = Ranks(0, 4, 0, "MPICH"), Wish(ranks=4, cpus=ALL, threads=2)
    assert not decided(machine_named, ranks, wish).pinned
    asked = Wish(ranks=4, cpus=ALL, threads=2, bind="cores")
    assert decided(machine_named, ranks, asked).pinned


def test_what_mpiexec_bound_stays(machine_named):
    settled = decided(machine_named, Ranks(1, 2, 1, "Open MPI"), Wish(ranks=2, cpus=ALL), allowed={5, 133})
    assert str(settled) == "core 5 (2 hyperthreads each), NUMA 0, 1 thread; bound by Open MPI"
    assert not settled.ours


def test_slurms_own_masks_stay(machine_named):
    environment = {**SLURM, "SLURM_CPU_BIND_TYPE": "mask_cpu:", "SLURM_CPU_BIND_LIST": "0x3,0xC,0x30,0xC0"}
    settled = decided(machine_named, Ranks(6, 8, 2, "Slurm"), None, environment, allowed={4, 5})
    assert str(settled) == "cores 4-5, NUMA 0, 2 threads; bound by Slurm"
    assert (settled.ours, settled.pinned) == (False, True)


def test_ranks_that_slurm_gave_one_mask_share_it(machine_named):
    environment = {**SLURM, "SLURM_CPU_BIND_TYPE": "mask_cpu:", "SLURM_CPU_BIND_LIST": "0xF,0xF0,0xF,0xF0"}
    settled = decided(machine_named, Ranks(6, 8, 2, "Slurm"), None, environment, allowed={0, 1, 2, 3})
    assert str(settled) == ("cores 2-3, NUMA 0, 2 threads; bound by Slurm, and by hpctrain within that")
    assert settled.ours


def test_masks_that_slurm_announced_and_never_set(machine_named):
    """As TaskPlugin=task/none does."""
    environment = {**SLURM, "SLURM_CPU_BIND_TYPE": "map_cpu:", "SLURM_CPU_BIND_LIST": "0,1,2,3"}
    settled = decided(machine_named, Ranks(6, 8, 2, "Slurm"), None, environment)
    assert settled.place.nodes == (4, 5)
    assert str(settled).endswith("32 threads; bound by hpctrain")


def test_an_mpi_that_bound_ranks_we_did_not_start(machine_named):
    ranks, environment = Ranks(1, 4, 1, "Open MPI"), {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
    assert "bound by Open MPI" in str(decided(machine_named, ranks, None, environment, allowed={7}))
    assert "bound by hpctrain" in str(decided(machine_named, ranks, None, environment))


def test_a_launcher_that_does_not_say_how_many_are_here(machine_named):
    settled = decided(machine_named, Ranks(1, 4, 1, "PALS"))
    assert "not bound: PALS does not say how many ranks are on this machine" in str(settled)
    assert not settled.ours


@pytest.mark.parametrize(
    ("machine", "wish", "why"),
    [
        ("perlmutter-cpu", Wish(ranks=2, cpus=ALL, bind="none"), "launch.bind=none"),
        ("container-v1", Wish(ranks=2, cpus="0-7"), "a cgroup gives the time of 2.5 of 8 CPUs"),
        ("container-v1", Wish(ranks=9, cpus="0-7", bind="cores"), "9 ranks on 8 CPUs"),
        ("laptop-hybrid", Wish(ranks=1, cpus="0-15"), "all CPUs are its own, on one NUMA node"),
    ],
)
def test_why_not(machine_named, machine, wish, why):
    found = machine_named(machine)
    settled = decide(wish, found, Ranks(0, wish.ranks, 0, "MPICH"), {})
    assert str(settled).endswith(f"not bound: {why}")
    assert settled.place.cpus == found.cpus
    assert (settled.ours, settled.pinned) == (False, False)


@pytest.mark.parametrize("variable", ["OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY"])
def test_threads_that_the_user_bound_stay(machine_named, variable):
    wish = Wish(ranks=2, cpus=ALL)
    settled = decided(machine_named, Ranks(0, 2, 0, "MPICH"), wish, {variable: "close"})
    assert (settled.ours, settled.pinned) == (True, False)


def test_one_rank_on_several_nodes_is_pinned(machine_named):
    settled = decided(machine_named, Ranks(0, 1, 0, "a single process"), Wish(ranks=1, cpus=ALL))
    assert (settled.place.threads, settled.pinned) == (128, True)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"SLURM_CPU_BIND_TYPE": "none", "SLURM_CPU_BIND_LIST": ""},
        {"SLURM_CPU_BIND_TYPE": "mask_cpu:", "SLURM_CPU_BIND_LIST": "0x3*2"},
        {"SLURM_CPU_BIND_TYPE": "cores", "SLURM_CPU_BIND_LIST": "cores"},
    ],
)
def test_no_masks_of_slurm(variables):
    assert slurm_masks(variables) == []


def test_a_wish_travels():
    wish = Wish(bind="cores", threads=3, ranks=2, cpus="0-3")
    assert Wish.read(wish.to_environment()) == wish
    assert Wish.read({"OMP_NUM_THREADS": "3"}) == Wish(threads=3)


PROGRAM = """
import os, json, sys, threading
from pathlib import Path
from hpctrain.errors import UserError
from hpctrain.launch.binding import Seat
seat = Seat(os.environ)
import torch
seat.loaded()
torch.relu(torch.rand(1_000_000))
def masks():
    files = Path("/proc/self/task").glob("*/status")
    return sorted(line.split()[1] for f in files for line in f.read_text().splitlines() if line.startswith("Cpus_allowed_list"))
team = masks()
beside = []
thread = threading.Thread(target=lambda: beside.append(sorted(os.sched_getaffinity(0))))
thread.start()
thread.join()
sys.stdout.write(json.dumps({
    "line": seat.line, "team": team, "beside": beside[0], "threads": torch.get_num_threads(), "places": os.environ.get("OMP_PLACES"),
}) + "\\n")
"""
two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


def two() -> list[int]:
    return sorted(os.sched_getaffinity(0))[:2]


def told(text: str) -> list[dict]:
    lines = [json.loads(found) for found in re.findall(r"\{.*\}", text)]
    return sorted(lines, key=lambda line: line["line"])


@two_cores
def test_a_team_is_one_thread_a_core_and_what_runs_beside_is_free(run_program):
    first, second = two()
    wish = Wish(bind="cores", ranks=1, threads=2, cpus=f"{first},{second}").to_environment()
    (rank,) = told(run_program(["taskset", "-c", f"{first},{second}", sys.executable, "-c", PROGRAM], **wish))
    assert rank["line"].endswith("2 threads; bound by hpctrain")
    assert (rank["threads"], rank["places"]) == (2, None)
    assert str(second) in rank["team"]  # the other thread of the team
    assert rank["beside"] == [first, second]


@two_cores
@pytest.mark.parametrize("engine", ["mpi", "gloo"])
def test_two_ranks_of_a_real_training_keep_to_their_cores(toy_run, engine):
    """Two of our launcher on two cores; what they are is read from the kernel, again and again while they train."""
    before, pair = os.sched_getaffinity(0), two()
    os.sched_setaffinity(0, set(pair))
    try:
        run = toy_run("toy", "launch.ranks=2", f"launch.engine={engine}", "training.epochs=1")
        log = run.logs / "train.log"
        job = run.experiment.launch.build().start(["worker", "train", str(run.path)], log, parallel=True)
        seen: dict[str, set[str]] = {}
        while job.poll() is None:
            text = log.read_text()
            for rank, pid in re.findall(r"rank (\d) is process (\d+)\n", text):
                if f"rank {rank}: core" in text:
                    seen.setdefault(rank, set()).update(_masks(int(pid)))
            time.sleep(0.05)
        assert job.poll() == 0, log.read_text()
    finally:
        os.sched_setaffinity(0, before)
    assert seen == {"0": {str(pair[0])}, "1": {str(pair[1])}}
    for rank in (0, 1):
        assert f"rank {rank}: core {pair[rank]}, NUMA " in log.read_text()
        assert log.read_text().count("1 thread; bound by hpctrain") == 2


def _masks(pid: int) -> set[str]:
    """What the threads of a process may run on."""
    found = set()
    for file in Path(f"/proc/{pid}/task").glob("*/status"):
        try:
            found |= set(re.findall(r"Cpus_allowed_list:\s*(\S+)", file.read_text()))
        except OSError:
            continue
    return found


@two_cores
def test_what_mpiexec_really_bound(run_program):
    """MPICH's mpiexec binds when it is told to; ranks under it are left as they are."""
    first, second = two()
    wish = Wish(ranks=2, cpus=f"{first},{second}").to_environment()
    command = [mpiexec(), "-n", "2", "-bind-to", f"user:{second},{first}", sys.executable, "-c", PROGRAM]
    ranks = told(run_program(["taskset", "-c", f"{first},{second}", *command], **wish))
    assert [rank["beside"] for rank in ranks] == [[second], [first]]
    assert all("bound by MPICH" in rank["line"] for rank in ranks)


@pytest.fixture
def run_program():
    """Runs a command to its end; what it printed."""

    def run(command: list[str], **variables: str) -> str:
        environment = {k: v for k, v in os.environ.items() if k not in {"OMP_NUM_THREADS", PLACEMENT}}
        done = subprocess.run(
            command, env={**environment, **variables}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def binding_slurm(slurm_class):
    """A node of two CPUs whose Slurm binds."""
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
        cluster = slurm_class(Path(folder), nodes=("127.0.0.1",), task_plugin="task/affinity")
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()


@two_cores
@pytest.mark.parametrize(
    ("option", "cpus", "words"),
    [
        ("cores", [[0], [1]], "bound by Slurm"),
        ("map_cpu:1,0", [[1], [0]], "bound by Slurm"),
        ("mask_cpu:0x3,0x3", [[0], [1]], "bound by Slurm, and by hpctrain within that"),
        ("none", [[0], [1]], "bound by hpctrain"),
    ],
)
def test_what_slurm_really_bound(binding_slurm, monkeypatch, option, cpus, words):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    ranks = told(binding_slurm("srun", "-n2", f"--cpu-bind={option}", sys.executable, "-c", PROGRAM))
    assert [rank["beside"] for rank in ranks] == cpus
    assert all(rank["line"].endswith(f"1 thread; {words}") for rank in ranks), ranks


def test_no_core_left():
    with pytest.raises(
        UserError, match=r"launch.spare_cores=9999 leaves none of the \d+ cores here. Give fewer"
    ):
        LocalLauncher.Config(spare_cores=9999).build().check(parallel=True)
