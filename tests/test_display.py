"""What is seen on a terminal, and what is left of it in a file or a pipe."""

import io

import pytest
from rich.console import Console

from hpctrain import display
from hpctrain.display import Terminal
from hpctrain.steps import STEPS

TRAIN = STEPS["train"]
RECORD = {"wall_s": 12.34, "peak_memory_bytes": 2**29, "summary": {"headline": "AUC [0.99]"}}
HALF = {"step": "train", "done": 500.0, "total": 1000.0, "unit": "samples", "epoch": "1/2", "loss": 0.25}


def shown(*, terminal, quiet_s=20.0, monkeypatch=None):
    """What a step of training shows."""
    if monkeypatch is not None:
        monkeypatch.setattr(display, "QUIET_S", quiet_s)
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120, soft_wrap=True, _environ={})
    with Terminal(console) as screen:
        screen.started(TRAIN, 2, "runs/x/logs/train.log")
        screen.progress(HALF)
        if screen._live is not None:
            screen._live.refresh()
        screen.warned("a rank is [slow]")
        screen.restarted(TRAIN, "rank 1 was killed", 1, 3)
        screen.finished(TRAIN, RECORD)
    return stream.getvalue()


def test_without_a_terminal_there_are_few_plain_lines():
    assert shown(terminal=False).splitlines() == [
        "… Train on 2 ranks (log: runs/x/logs/train.log)",
        "! a rank is [slow]",
        "↻ rank 1 was killed: going on by itself (1 of 3)",
        "✓ Train                  12.3 s  0.50 GiB  AUC [0.99]",
    ]


def test_without_a_terminal_progress_is_told_now_and_then(monkeypatch):
    lines = shown(terminal=False, quiet_s=-1.0, monkeypatch=monkeypatch).splitlines()
    assert lines[1] == "    500/1,000 samples  epoch 1/2  loss 0.25"


def test_a_terminal_has_a_bar_that_goes_away():
    text = shown(terminal=True)
    assert "\x1b[" in text
    assert "50%" in text
    assert "500/1,000 samples" in text
    assert text.rstrip().splitlines()[-1].endswith("AUC [0.99]")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_step_done_before_is_said_to_be(terminal):
    stream = io.StringIO()
    Terminal(Console(file=stream, force_terminal=terminal, width=120)).skipped(TRAIN, RECORD)
    assert "done before, same inputs" in stream.getvalue()
    assert ("\x1b[" in stream.getvalue()) is terminal
