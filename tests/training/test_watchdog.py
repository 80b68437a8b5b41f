import subprocess
import sys
import time

from hpctrain.files import read_json
from hpctrain.training.watchdog import Beat, Watchdog, hang

NOW = 10**18


def test_who_is_behind_or_silent_is_missing():
    beats = [
        Beat(9, "step 4", NOW),
        Beat(8, "the end of step 3", NOW),
        Beat(9, "step 4", NOW - 10 * 10**9),
        None,
    ]
    text = hang(beats, "step 4", 12.3, silent_s=5.0)
    assert text == (
        "hung at step 4 for 12 s; missing: rank 1 (alive, last at the end of step 3), "
        "rank 2 (silent, last at step 4), rank 3 (which never started)"
    )


def test_all_there_is_said_too():
    text = hang([Beat(9, "step 4", NOW), Beat(9, "step 4", NOW - 10**9)], "step 4", 12.3, silent_s=5.0)
    assert "every rank is there and waits" in text


PROGRAM = """
import sys, time
from pathlib import Path
from hpctrain.training.watchdog import Watchdog
folder = Path(sys.argv[1])
dog = Watchdog(folder, "train", folder / "hang.json", rank=0, size=2, timeout_s=1.0)
{work}
"""


def watched(tmp_path, work):
    """Rank 0 of two in a process of its own: the watchdog ends the process."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(work=work), tmp_path], stderr=subprocess.PIPE
    )


def test_waiting_too_long_leaves_a_note_and_ends(tmp_path):
    process = watched(tmp_path, "with dog.meeting('step 7'): time.sleep(600)")
    deadline = time.monotonic() + 60
    while (note := read_json(tmp_path / "hang.json")) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert note["message"].startswith("hung at step 7 for ")
    assert note["message"].endswith("missing: rank 1 (which never started)")
    assert process.wait(60) == 1  # by itself: there may be no hpctrain that ends it


def test_long_work_of_its_own_and_many_short_waits_are_no_hang(tmp_path):
    work = """
time.sleep(2.5)
end = time.monotonic() + 2.5
while time.monotonic() < end:
    with dog.meeting('step'): time.sleep(0.1)
"""
    process = watched(tmp_path, work)
    assert process.wait(60) == 0
    assert not (tmp_path / "hang.json").exists()


def test_alone_nobody_is_waited_for(tmp_path):
    with (
        Watchdog(tmp_path, "train", tmp_path / "note", rank=0, size=1, timeout_s=0.1) as dog,
        dog.meeting("x"),
    ):
        time.sleep(0.5)
    assert not list(tmp_path.iterdir())
