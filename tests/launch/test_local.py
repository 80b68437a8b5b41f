import os
import re
import signal
import sys
import time

import psutil
import pytest

from hpctrain.errors import UserError
from hpctrain.launch import local
from hpctrain.launch.local import LocalLauncher, Processes, mpiexec, reaped


def spawn(tmp_path, *programs):
    log = tmp_path / "log"
    environment = dict(os.environ)
    return Processes([local._spawn([sys.executable, "-c", p], environment, log) for p in programs], log)


def wait(job, limit=20.0):
    deadline = time.monotonic() + limit
    while (code := job.poll()) is None:
        assert time.monotonic() < deadline, "the job did not end"
        time.sleep(0.02)
    return code


def test_success_is_zero(tmp_path):
    assert wait(spawn(tmp_path, "print('a')", "print('b')")) == 0
    assert sorted((tmp_path / "log").read_text().replace("\n", "")) == ["a", "b"]  # they may share a line


def test_when_one_fails_the_others_are_stopped(tmp_path):
    job = spawn(tmp_path, "import time; time.sleep(60)", "raise SystemExit(3)")
    started = time.monotonic()
    assert wait(job) == 3
    assert time.monotonic() - started < 15
    assert job.obituary() == "rank 1 ended with exit code 3"
    assert job.killed_by() is None
    assert all(process.poll() is not None for process in job.processes)


def test_a_killed_process_is_named_with_its_signal(tmp_path):
    job = spawn(tmp_path, "import time; time.sleep(60)")
    job.processes[0].send_signal(signal.SIGKILL)
    assert wait(job) == -9
    assert job.obituary() == "the process was killed by signal 9 (SIGKILL)"
    assert job.killed_by() == signal.SIGKILL


def test_one_that_does_not_listen_is_killed(tmp_path, monkeypatch):
    job = spawn(
        tmp_path,
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
    )
    while "up" not in (tmp_path / "log").read_text():
        time.sleep(0.02)
    started = time.monotonic()
    job.stop()
    assert job.processes[0].poll() == -9
    assert time.monotonic() - started < 15


def test_ranks_that_stop_as_asked_may_end_one_after_the_other(tmp_path):
    job = spawn(
        tmp_path, "raise SystemExit(75)", "import time; time.sleep(1); print('done'); raise SystemExit(75)"
    )
    assert wait(job) == 75
    assert "done" in (tmp_path / "log").read_text()


def test_nothing_that_a_job_started_outlives_its_stop(tmp_path):
    """As under mpiexec, which puts each rank into a process group of its own; and one of them is stopped."""
    child = "import os, time; os.setpgid(0, 0); print('child', os.getpid(), flush=True); time.sleep(60)"
    job = spawn(tmp_path, f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])")
    while (told := re.search(r"child (\d+)\n", (tmp_path / "log").read_text())) is None:
        time.sleep(0.02)
    pid = int(told[1])
    os.kill(pid, signal.SIGSTOP)
    job.stop()
    wait_until_gone(pid)


def wait_until_gone(pid):
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)


TWO = """
import os, sys, time
from mpi4py import MPI
if {meet}:
    MPI.Init()
    MPI.COMM_WORLD.Barrier()
sys.stdout.write(f"rank {{os.environ['PMI_RANK']}} is process {{os.getpid()}}\\n")
time.sleep(60)
"""


@pytest.mark.parametrize("meet", [True, False], ids=["in work", "before all have met"])
@pytest.mark.parametrize("rank", ["0", "1"])
def test_the_rank_that_died_under_mpiexec_is_named(tmp_path, meet, rank):
    program = "import mpi4py; mpi4py.rc.initialize = False\n" + TWO.format(meet=meet)
    log = tmp_path / "log"
    command = [mpiexec(), "-n", "2", *reaped([sys.executable, "-u", "-c", program])]
    job = Processes([local._spawn(command, dict(os.environ), log)], log)
    while len(ranks := dict(re.findall(r"rank (\d) is process (\d+)\n", log.read_text()))) < 2:
        assert job.poll() is None
        time.sleep(0.02)
    os.kill(int(ranks[rank]), signal.SIGKILL)
    assert wait(job) == 128 + signal.SIGKILL
    assert job.obituary() == f"rank {rank} was killed by signal 9 (SIGKILL)"
    assert job.killed_by() == signal.SIGKILL
    for pid in ranks.values():
        wait_until_gone(int(pid))


@pytest.mark.parametrize(("code", "words"), [(2, "rank 1 ended with exit code 2"), (75, "")])
def test_the_code_of_the_first_under_mpiexec_is_that_of_the_job(tmp_path, code, words):
    """mpiexec itself may well end with that of a rank it killed."""
    program = f"import os, time; os._exit({code}) if os.environ['PMI_RANK'] == '1' else time.sleep(60)"
    log = tmp_path / "log"
    log.write_text("rank 0 ended with 137\n")  # an earlier job
    command = [mpiexec(), "-n", "2", *reaped([sys.executable, "-c", program])]
    since = log.stat().st_size
    job = Processes([local._spawn(command, dict(os.environ), log)], log, since=since)
    assert wait(job, limit=40) == code
    assert words in job.obituary()
    assert job.killed_by() is None


def test_no_mpiexec_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    launcher = LocalLauncher.Config(ranks=2).build()
    with pytest.raises(UserError, match=r"needs mpiexec, and there is none. pip install"):
        launcher.start(["worker"], tmp_path / "log", parallel=True)
