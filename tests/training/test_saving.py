import signal
import subprocess
import sys
import threading

import pytest
import torch

from hpctrain.errors import UserError
from hpctrain.training.checkpoint import Checkpoints
from hpctrain.training.saving import Saver, copied


class Slow(Checkpoints):
    """Writes only when it may."""

    def save(self, state, step, *, best=False):
        started.append(step)
        gate.wait(20)
        return super().save(state, step, best=best)


gate = threading.Event()
started: list[int] = []


@pytest.fixture(autouse=True)
def _closed_gate():
    gate.clear()
    started.clear()


def test_training_goes_on_while_the_state_of_the_step_is_written(tmp_path):
    weight = torch.ones(3)
    with Saver(Slow(tmp_path), active=True) as saver:
        saver.save({"model": {"w": weight}, "history": [{"auc": 0.5}]}, 1)
        weight += 1  # the next step
        assert not list(tmp_path.glob("*.pt"))
        gate.set()
    state = Checkpoints(tmp_path).latest()
    assert torch.equal(state["model"]["w"], torch.ones(3))


def test_at_most_one_is_in_flight_and_the_end_waits(tmp_path):
    threading.Timer(0.3, gate.set).start()
    with Saver(Slow(tmp_path, keep=5), active=True) as saver:
        saver.save({"step": 1}, 1)
        saver.save({"step": 2}, 2)  # waits for the first
        assert (tmp_path / "step-00000001.pt.sha256").exists()
    assert started == [1, 2]
    assert Checkpoints(tmp_path).latest()["step"] == 2


def test_an_error_of_writing_comes_up_at_a_later_step(tmp_path):
    (tmp_path / "file").write_text("")
    saver = Saver(Checkpoints(tmp_path / "file"), active=True)
    saver.save({"step": 1}, 1)

    def steps():
        while True:
            saver.check()

    with pytest.raises(UserError, match="cannot write"):
        steps()


def test_an_error_of_the_last_one_comes_up_at_the_end(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="cannot write"),
        Saver(Checkpoints(tmp_path / "file"), active=True) as saver,
    ):
        saver.save({"step": 1}, 1)


def test_other_ranks_write_nothing(tmp_path):
    with Saver(Checkpoints(tmp_path), active=False) as saver:
        saver.save({"step": 1}, 1)
    assert not list(tmp_path.iterdir())
    assert saver.saved == 1


def test_a_copy_shares_nothing():
    state = {"t": torch.zeros(2), "list": [torch.zeros(1), {"n": 1}], "pair": (0.9, 0.999)}
    copy = copied(state)
    state["t"] += 1
    state["list"][0] += 1
    state["list"][1]["n"] = 2
    assert torch.equal(copy["t"], torch.zeros(2))
    assert torch.equal(copy["list"][0], torch.zeros(1))
    assert copy["list"][1] == {"n": 1}
    assert copy["pair"] == (0.9, 0.999)


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from hpctrain import files
from hpctrain.training.checkpoint import Checkpoints
from hpctrain.training.saving import Saver
folder = Path(sys.argv[1])
with Saver(Checkpoints(folder), active=True) as saver:
    saver.save({"step": 1}, 1)
    saver.wait()
    os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)  # all is written, nothing is renamed
    saver.save({"step": 2, "w": torch.zeros(1000)}, 2)
"""


def test_killed_while_writing_leaves_the_one_before(tmp_path):
    result = subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    assert result.returncode == -signal.SIGKILL
    assert list(tmp_path.glob(".*.tmp")), "the kill came too early or too late"
    assert Checkpoints(tmp_path).latest()["step"] == 1
