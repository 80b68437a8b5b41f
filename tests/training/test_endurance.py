"""Trainings that are asked to stop, killed, frozen: each goes on to the bits of the uninterrupted one."""

import itertools
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from hpctrain import stopping
from hpctrain.errors import Stopped
from hpctrain.files import read_json
from hpctrain.parallel.communicator import SingleCommunicator
from hpctrain.steps import fingerprint
from hpctrain.track import read_metrics
from hpctrain.training.checkpoint import Checkpoints
from hpctrain.worker import lives

SETTINGS = ("training.checkpoint_steps=2", "training.epochs=12", "launch.ranks=2", "launch.threads=1")


@pytest.fixture
def ready(toy_run):
    """A toy run for the command line, which wants to know that generate is done."""

    def make(name, *settings):
        run = toy_run(name, *settings)
        inputs = fingerprint("generate", run.experiment, run)
        run.finish_step("generate", {"fingerprint": inputs, "summary": {}})
        return run

    return make


def start(run, *options):
    return subprocess.Popen(
        [sys.executable, "-m", "hpctrain", "train", str(run.path), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def until(condition, process, run):
    while not (found := condition()):
        assert process.poll() is None, (process.communicate(), (run.logs / "train.log").read_text())
        time.sleep(0.01)
    return found


def pids(run):
    log = run.logs / "train.log"
    text = log.read_text() if log.exists() else ""
    return {int(r): int(p) for r, p in re.findall(r"rank (\d+) is process (\d+)", text)}


def steps(run):
    return sum(line["event"] == "step" for line in read_metrics(run.metrics_path))


def finish(run):
    """Go on to the end; the last checkpoint."""
    process = start(run)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return Checkpoints(run.checkpoints).latest()


def require_same(a, b):
    assert a["step"] == b["step"]
    assert a["position"] == b["position"]
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])


def ended(process, seconds=120):
    """Exit code and the one line."""
    _, errors = process.communicate(timeout=seconds)
    assert len(errors.splitlines()) == 1, errors
    return process.returncode, errors


def test_wherever_training_is_asked_to_stop_it_goes_on_to_the_same_bits(toy_run, monkeypatch):
    """Before the first step, after every one, and in both validations: 203 events in batches of 32, two epochs."""

    def train(run):
        training = run.experiment.training.build()
        return training.run(run, run.tracker("train"), SingleCommunicator())

    whole = toy_run("whole")
    train(whole)
    seen = []
    for place in itertools.count(1):
        run = toy_run(f"stopped-{place}")
        calls = itertools.count(1)
        monkeypatch.setattr(stopping, "requested", lambda c=calls, p=place: "SIGTERM" if next(c) >= p else "")
        try:
            train(run)
        except Stopped:
            state = Checkpoints(run.checkpoints).latest()
            mark = read_json(run.stopped_path("train"))
            assert mark["step"] == (state["step"] if state else 0)
            seen.append((mark["step"], state["position"]["samples_seen"] if state else 0))
            monkeypatch.setattr(stopping, "requested", str)  # nobody asks the one that goes on
            train(run)
        else:
            break
        require_same(Checkpoints(whole.checkpoints).latest(), Checkpoints(run.checkpoints).latest())
        histories = [
            [{k: v for k, v in line.items() if k.startswith(("train_", "valid"))} for line in read_metrics(r.metrics_path)
             if line["event"] == "epoch"] for r in (whole, run)
        ]  # fmt: skip
        assert histories[0] == histories[1]
    assert seen[0] == (0, 0)
    assert seen.count((7, 203)) == 2, "after the last step of the epoch, and in validation"
    assert len(seen) == 1 + 2 * (7 + 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "signum", "rank"),
    [("mpi", signal.SIGUSR2, 1), ("mpi", signal.SIGTERM, None), ("gloo", signal.SIGUSR1, 1)],
)
def test_a_signal_to_any_process_stops_all_at_a_step_to_go_on_later(ready, engine, signum, rank):
    settings = (*SETTINGS, f"launch.engine={engine}")
    run = ready("stopped", *settings)
    process = start(run)
    until(lambda: steps(run) > 10, process, run)
    os.kill(process.pid if rank is None else pids(run)[rank], signum)
    code, line = ended(process)
    who = "hpctrain" if rank is None else f"rank {rank}"
    assert code == 75, line
    assert re.search(rf"train stopped after \d+ steps \({signum.name} to {who}\); the same command", line)
    step = Checkpoints(run.checkpoints).latest()["step"]
    assert f"after {step} steps" in line
    assert step == read_metrics(run.metrics_path)[-1]["global_step"], "steps were lost"
    require_same(finish(ready("whole", *settings)), finish(run))


@pytest.mark.slow
def test_a_signal_at_start_up_is_heard_too(ready):
    run = ready("early", *SETTINGS)
    process = start(run)
    until(lambda: pids(run), process, run)
    process.send_signal(signal.SIGTERM)
    code, line = ended(process)
    assert code == 75
    assert "train stopped after 0 steps (SIGTERM to hpctrain)" in line
    assert not list(run.checkpoints.glob("*.pt"))
    assert finish(run)["position"]["epoch"] == 12


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["mpi", "gloo"])
def test_a_rank_killed_at_start_up_is_named(ready, engine):
    run = ready("killed", *SETTINGS, f"launch.engine={engine}")
    process = start(run)
    os.kill(until(lambda: pids(run).get(1), process, run), signal.SIGKILL)
    code, line = ended(process, seconds=30)
    assert code == 2
    assert "train: rank 1 was killed by signal 9 (SIGKILL)" in line


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["mpi", "gloo"])
def test_a_frozen_rank_is_missed_and_named_and_nothing_of_it_stays(ready, engine):
    run = ready(
        "frozen", *SETTINGS, f"launch.engine={engine}", "training.hang_timeout_s=10", "training.epochs=4000"
    )
    process = start(run)
    until(lambda: steps(run) > 10, process, run)
    frozen = pids(run)[1]
    os.kill(frozen, signal.SIGSTOP)
    code, line = ended(process)
    assert code == 2
    assert re.search(
        r"train: hung at (the end of )?step \d+ for 1\d s; missing: rank 1 \(silent, last at ", line
    ), line
    # Killed by now, but its parent may have ended before the kernel was done with it.
    for _ in range(500):
        if not lives(frozen):
            return
        time.sleep(0.01)
    pytest.fail(f"rank 1, process {frozen}, is still there")


@pytest.mark.slow
def test_max_restarts_goes_on_by_itself(ready):
    run = ready("again", *SETTINGS)
    process = start(run, "--max-restarts", "2")
    for _ in range(2):
        before = steps(run)
        until(lambda before=before: steps(run) > before + 5, process, run)
        victim = pids(run)[1]
        os.kill(victim, signal.SIGKILL)
        until(lambda victim=victim: len(pids(run)) == 2 and victim not in pids(run).values(), process, run)
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "going on by itself (2 of 2)" in out
    require_same(finish(ready("whole", *SETTINGS)), Checkpoints(run.checkpoints).latest())
