"""With the mpiexec beside this Python. Functions given to workers are inside the tests: they travel by value."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
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


def test_the_death_of_a_worker_and_of_a_rank_are_survived(tmp_path: Path) -> None:
    """A killed worker is replaced by its rank. A killed rank takes all with it, and all are started again."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def work(item: int) -> int:
        log = tmp_path / f"attempts-{item}"
        first = not log.exists()
        with log.open("a") as stream:
            stream.write(f"{os.getpid()} {os.getppid()}\n")
        if first and item == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if first and item == 7:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        return item

    results = list(run_tasks(work, range(12), cluster=_ranks(), workers=2, scratch=scratch, logs=tmp_path))
    assert sorted(results) == list(range(12))
    attempts = {n: np.loadtxt(tmp_path / f"attempts-{n}", dtype=int, ndmin=2) for n in range(12)}
    assert len(set(attempts[3][:, 0])) >= 2  # another worker
    assert len(set(attempts[7][:, 1])) == 2  # another rank
    assert _alive({int(pid) for pids in attempts.values() for pid in pids.ravel()}) == []
    assert list(scratch.iterdir()) == []
    assert sorted(p.name for p in (tmp_path / "workers").iterdir()) == ["mpi-1.log", "mpi-2.log"]


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
