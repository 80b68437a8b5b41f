"""Signals in a process of their own: what is heard, when, and with which exit code it ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

from hpctrain import stopping

WORK = """
import sys, time
from pathlib import Path
from hpctrain import stopping
time.sleep({before})
stopping.listen()
stopping.watch(Path(sys.argv[1]), "rank 3")
{then}
print("up", flush=True)
while not stopping.requested():
    time.sleep(0.01)
print(stopping.requested(), flush=True)
{after}
"""


def start(tmp_path, *, before="0", then="", after=""):
    program = WORK.format(before=before, then=then, after=after)
    with stopping.held_back():
        return subprocess.Popen(
            [sys.executable, "-c", program, tmp_path / "stop"], stdout=subprocess.PIPE, text=True
        )


@pytest.mark.parametrize("signum", stopping.STOP_SIGNALS)
def test_a_signal_is_a_request_not_the_end(tmp_path, signum):
    process = start(tmp_path)
    assert process.stdout.readline() == "up\n"
    process.send_signal(signum)
    assert process.stdout.readline() == f"{signal.Signals(signum).name} to rank 3\n"
    assert process.wait(20) == 0


def test_a_signal_before_anyone_listens_is_kept(tmp_path):
    process = start(tmp_path, before="1")
    process.send_signal(signal.SIGTERM)  # the interpreter has not even started
    assert process.stdout.readlines()[-1].startswith("SIGTERM to ")
    assert process.wait(20) == 0


def test_a_file_asks_too(tmp_path):
    process = start(tmp_path)
    assert process.stdout.readline() == "up\n"
    (tmp_path / "stop").write_text("SIGUSR2 to hpctrain")
    assert process.stdout.readline() == "SIGUSR2 to hpctrain\n"
    assert process.wait(20) == 0


def test_a_second_signal_ends_at_once_even_deep_in_a_library(tmp_path):
    """The main thread waits in C, where no handler written in Python ever runs."""
    process = start(tmp_path, after="import threading; lock = threading.Lock(); lock.acquire(); "
                    "import ctypes; ctypes.CDLL(None).sleep(600); ctypes.CDLL(None).sleep(600)")  # fmt: skip
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "SIGTERM to rank 3\n"
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == stopping.GO_ON_LATER


def test_work_that_cannot_be_left_ends_at_the_first(tmp_path):
    process = start(tmp_path, then="stopping.end_at_once()")
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == -signal.SIGTERM


def test_work_that_cannot_be_left_and_was_asked_before(tmp_path):
    process = start(tmp_path, before="1", then="time.sleep(0.5); stopping.end_at_once()")
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == stopping.GO_ON_LATER


def test_hpctrain_hears_signals_only_while_it_works():
    before = signal.getsignal(signal.SIGUSR1)
    with stopping.Warned() as warned:
        os.kill(os.getpid(), signal.SIGUSR1)
        deadline = time.monotonic() + 10
        while not warned.signals:
            assert time.monotonic() < deadline
    assert warned.signals == ["SIGUSR1"]
    assert signal.getsignal(signal.SIGUSR1) is before
