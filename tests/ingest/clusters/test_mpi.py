"""With the mpiexec beside this Python. Functions given to workers are inside the tests: they travel by value."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from hpctrain.errors import UserError
from hpctrain.ingest.clusters import mpi as room
from hpctrain.ingest.clusters.mpi import MpiRanks
from hpctrain.ingest.workers import run_tasks


def _ranks(**settings: Any) -> MpiRanks:
    return MpiRanks(MpiRanks.Config.model_validate({"interface": "lo", **settings}))


def _alive(pids: set[int], within_s: float = 15.0) -> list[int]:
    """Those that still live when the time is up."""
    _, alive = psutil.wait_procs([psutil.Process(p) for p in pids if psutil.pid_exists(p)], timeout=within_s)
    return [p.pid for p in alive]


def test_a_worker_that_is_killed_is_replaced_by_its_rank(tmp_path: Path) -> None:
    """A rank that is killed takes all with it, and all are started again: test_generation."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def work(item: int) -> tuple[int, int, int, str]:
        mark = tmp_path / "died"
        if item == 3 and not mark.exists():
            mark.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return item, os.getpid(), os.getppid(), os.environ["OMP_NUM_THREADS"]

    results = list(run_tasks(work, range(12), cluster=_ranks(), workers=2, scratch=scratch, logs=tmp_path))
    assert sorted(item for item, *_ in results) == list(range(12))
    assert {threads for *_, threads in results} == {"1"}
    workers, ranks = {pid for _, pid, _, _ in results}, {rank for _, _, rank, _ in results}
    dead = int((tmp_path / "died").read_text())
    assert dead != next(pid for item, pid, _, _ in results if item == 3)
    assert len(ranks) <= 2
    assert _alive(workers | ranks | {dead}) == []
    assert list(scratch.iterdir()) == []
    assert [p.name for p in (tmp_path / "workers").iterdir()] == ["mpi-1.log"]


def test_no_rank_outlives_hpctrain(tmp_path: Path) -> None:
    script = """
import os, sys, time
from pathlib import Path
from hpctrain.ingest.clusters.mpi import MpiRanks
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with MpiRanks(MpiRanks.Config(interface="lo")).connect(2, folder, folder) as connection:
        connection.client.wait_for_workers(2)
        print("here", flush=True)
        time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        family = {child.pid for child in psutil.Process(process.pid).children(recursive=True)}
        assert len(family) > 4  # mpiexec, its proxy, two ranks with their workers, and the guard
    finally:
        process.kill()
        process.wait()
    assert _alive(family) == []


def test_inside_a_slurm_job_with_srun(slurm: Any, tmp_path: Path) -> None:
    """A batch job of two tasks on two nodes starts the ranks with srun; their number comes from Slurm."""
    script = tmp_path / "script.py"
    script.write_text("""
import os, sys
from pathlib import Path
from hpctrain.ingest.clusters.mpi import MpiRanks
from hpctrain.ingest.workers import run_tasks
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    cluster = MpiRanks(MpiRanks.Config(interface="lo", command="srun --mpi=pmi2 -n {workers}"))
    cluster.check()
    def work(item):
        import os, time
        time.sleep(0.3)
        return item, os.environ["SLURM_PROCID"]
    found = list(run_tasks(work, range(10), cluster=cluster, workers=None, scratch=folder, logs=folder))
    print(sorted(item for item, _ in found), sorted({rank for _, rank in found}), flush=True)
""")
    slurm(
        "sbatch", "--nodes=2", "--ntasks=2", "--time=2", "--chdir", str(Path.cwd()),
        f"--output={tmp_path}/out", "--wrap", f"{sys.executable} {script} {tmp_path}",
    )  # fmt: skip
    until = time.monotonic() + 60
    while slurm.jobs() and time.monotonic() < until:
        time.sleep(0.1)
    assert (tmp_path / "out").read_text().strip() == f"{list(range(10))} ['0', '1']"


def test_ranks_that_end_before_their_workers_come_end_the_run_with_their_last_words(tmp_path: Path) -> None:
    cluster = _ranks(command="/bin/sh -c 'echo no PMI in {workers} ranks >&2; exit 3'")
    with pytest.raises(
        UserError, match=r"/bin/sh .* ended with code 3 3 times .*: no PMI in 2 ranks"
    ) as caught:
        next(run_tasks(str, [1, 2], cluster=cluster, workers=2, scratch=tmp_path, logs=tmp_path))
    assert "generate.cluster.command" in caught.value.hint


def test_a_missing_program_is_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="there is no launch-me here"):
        _ranks(command="launch-me -n {workers}").check()

    def none() -> str:
        raise UserError("no mpiexec")

    monkeypatch.setattr(room, "mpiexec", none)
    with pytest.raises(UserError, match="there is no mpiexec here"):
        _ranks().check()


def test_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    assert _ranks().workers(5) == 5
    assert _ranks().workers(None) >= 1
    monkeypatch.setenv("SLURM_NTASKS", "48")
    assert _ranks().workers(None) == 48
