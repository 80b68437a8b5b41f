"""Against a real Slurm (see conftest.py). Functions given to workers are inside the tests: they travel by value."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpctrain.errors import UserError
from hpctrain.ingest.clusters import slurm as room
from hpctrain.ingest.clusters.slurm import JOB_NAME, SlurmJobs
from hpctrain.ingest.workers import run_tasks

SETTINGS = {"interface": "lo", "memory": "500MB", "check_s": 0.3}


def _jobs(**changed: Any) -> SlurmJobs:
    return SlurmJobs(SlurmJobs.Config.model_validate({**SETTINGS, **changed}))


def _until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


def test_a_job_lost_in_the_middle_of_a_task_is_replaced_and_the_task_done_again(
    slurm: Any, tmp_path: Path
) -> None:
    """One job of two workers; it is cancelled when one of them says that the task runs."""
    scratch, dying = tmp_path / "scratch", tmp_path / "dying"
    scratch.mkdir()

    def work(item: int) -> tuple[int, str, str]:
        job = os.environ["SLURM_JOB_ID"]
        if item == 3:
            try:
                with dying.open("x") as stream:
                    stream.write(job)
                time.sleep(60)
            except FileExistsError:
                pass
        time.sleep(0.05)
        return item, job, os.environ["OMP_NUM_THREADS"]

    results, cancelled = [], ""
    cluster = _jobs(processes=2)
    for result in run_tasks(work, range(16), cluster=cluster, workers=None, scratch=scratch, logs=tmp_path):
        results.append(result)
        if not cancelled and len(results) == 2:
            _until(lambda: dying.exists() and dying.read_text() != "")
            cancelled = dying.read_text()
            assert list(slurm.jobs()) == [cancelled]
            slurm("scancel", cancelled)
    assert sorted(item for item, _, _ in results) == list(range(16))
    jobs = {job for _, job, _ in results}
    assert next(job for item, job, _ in results if item == 3) != cancelled
    assert len(jobs) == 2
    assert cancelled in jobs
    assert {threads for _, _, threads in results} == {"1"}
    _until(lambda: slurm.jobs() == {})
    assert list(scratch.iterdir()) == []
    logs = {path.name for path in (tmp_path / "workers").glob("*.err")}
    assert {f"-{job}.err" for job in jobs} <= {name[name.rindex("-") :] for name in logs}
    assert all(name.startswith(JOB_NAME) for name in logs)


def test_an_interruption_cancels_what_runs_and_what_waits(slurm: Any, tmp_path: Path) -> None:
    def work(item: int) -> int:
        time.sleep(item)
        return item

    # Four nodes' worth of jobs for two nodes: some wait in the queue.
    tasks = run_tasks(
        work, [0, *[60] * 7], cluster=_jobs(cores=2), workers=4, scratch=tmp_path, logs=tmp_path
    )
    assert next(tasks) == 0
    states = set(slurm.jobs().values())
    assert {"RUNNING", "PENDING"} <= states
    with pytest.raises(KeyboardInterrupt):
        tasks.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    _until(lambda: slurm.jobs() == {})


def test_jobs_go_when_hpctrain_is_killed(slurm: Any, tmp_path: Path) -> None:
    """SIGKILL, which no one can catch: running and waiting jobs are cancelled all the same."""
    script = """
import sys, time
from pathlib import Path
from hpctrain.ingest.clusters.slurm import SlurmJobs
if __name__ == "__main__":
    cluster = SlurmJobs(SlurmJobs.Config(interface="lo", memory="500MB", cores=2, death_timeout_s=600))
    with cluster.connect(4, Path(sys.argv[1]), Path(sys.argv[1])):
        time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", script, tmp_path])
    try:
        _until(lambda: sorted(slurm.jobs().values()) == ["PENDING", "PENDING", "RUNNING", "RUNNING"])
    finally:
        process.kill()
        process.wait()
    _until(lambda: slurm.jobs() == {}, within_s=10)


def test_what_sbatch_says_reaches_the_user(slurm: Any, tmp_path: Path) -> None:
    cluster = _jobs(partition="nowhere")
    with pytest.raises(UserError, match=r"Slurm refuses the jobs: .*invalid partition specified: nowhere"):
        next(run_tasks(str, [1], cluster=cluster, workers=1, scratch=tmp_path, logs=tmp_path))
    _until(lambda: slurm.jobs() == {})


def test_jobs_that_end_before_their_workers_come_end_the_run_with_their_last_words(
    slurm: Any, tmp_path: Path
) -> None:
    cluster = _jobs(prologue=("echo module python/3.99: not found >&2", "exit 3"))
    with pytest.raises(UserError, match=r"3 Slurm jobs ended before .*: module python/3.99: not found"):
        next(run_tasks(str, range(9), cluster=cluster, workers=3, scratch=tmp_path, logs=tmp_path))
    _until(lambda: slurm.jobs() == {})


def test_the_script_says_what_the_configuration_does(tmp_path: Path) -> None:
    cluster = _jobs(
        partition="regular", account="m1234", walltime="0:30:00", processes=3, cores=6, memory="1.5GB",
        extra=("--constraint=cpu", "--qos=debug"), skip=("--mem",), prologue=("module load python",),
    )  # fmt: skip
    with cluster._cluster("hpctrain-abc", tmp_path, tmp_path / "workers") as made:
        lines = made.job_script().splitlines()
        assert made.scheduler_address.startswith("tls://127.0.0.1:")
    assert [line for line in lines if line.startswith("#SBATCH")] == [
        "#SBATCH -J hpctrain-abc",
        f"#SBATCH -e {tmp_path}/workers/hpctrain-abc-%J.err",
        f"#SBATCH -o {tmp_path}/workers/hpctrain-abc-%J.out",
        "#SBATCH -p regular",
        "#SBATCH -A m1234",
        "#SBATCH -n 1",
        "#SBATCH --cpus-per-task=6",
        "#SBATCH -t 0:30:00",
        "#SBATCH --constraint=cpu",
        "#SBATCH --qos=debug",
    ]
    assert lines.index("module load python") < lines.index("export OMP_NUM_THREADS=1") < len(lines) - 1
    for words in ("--nthreads 1", "--nworkers 3", "--memory-limit 1.40GiB", "--death-timeout 60"):
        assert words in lines[-1]


def test_workers() -> None:
    assert _jobs().workers(None) == 1
    assert _jobs(jobs=3, processes=4).workers(None) == 12
    assert _jobs(jobs=3, processes=4).workers(7) == 7


def test_a_machine_without_slurm_is_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room.shutil, "which", lambda command: None)
    with pytest.raises(UserError, match="there is no sbatch here"):
        _jobs().check()


def test_a_folder_with_a_space_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "my runs"
    folder.mkdir()
    with pytest.raises(UserError, match="has a space in its name"), _jobs().connect(1, folder, folder):
        pass


def test_an_interface_that_is_not_there_is_named(slurm: Any) -> None:
    with pytest.raises(UserError, match=r"no network interface 'l0' here.*(did you mean|there are).*lo"):
        _jobs(interface="l0").check()
    _jobs().check()


@pytest.mark.parametrize(
    ("given", "walltime"),
    [("0:30:00", "0:30:00"), ("1-12:00:00", "1-12:00:00"), (7200, "02:00:00"), (360_061, "100:01:01")],
)
def test_walltimes_as_yaml_reads_them(given: Any, walltime: str) -> None:
    assert SlurmJobs.Config(walltime=given).walltime == walltime


@pytest.mark.parametrize("walltime", ["1 hour", "90", "1:2:3:4", "-01:00:00", True, 1.5])
def test_walltimes_are_slurms(walltime: Any) -> None:
    with pytest.raises(ValueError, match="walltime"):
        _jobs(walltime=walltime)
