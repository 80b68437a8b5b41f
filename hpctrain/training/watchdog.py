"""A rank that does not come: every rank notes where it is, and one that waits too long names those that are missing."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hpctrain.files import write_json

_BEAT_S = 1.0
_NOTE = "{places:12d} {where}"


@dataclass(frozen=True)
class Beat:
    """The last sign of life of a rank."""

    places: int
    """At how many places it has been where ranks meet."""
    where: str
    time_ns: int
    """By the clock of the file system that all ranks share."""


class Watchdog:
    """One thread a rank. It writes where the rank is (``STEP.rank-R.beat``), and ends a job that hangs.

    Only time in which this process itself runs is counted: a job suspended as a whole, or a busy machine, is no hang.
    """

    def __init__(
        self, folder: Path, step: str, note: Path, *, rank: int, size: int, timeout_s: float | None
    ) -> None:
        self.note = note
        self.rank = rank
        self.size = size
        self.timeout_s = timeout_s
        self._files = [folder / f"{step}.rank-{r}.beat" for r in range(size)]
        self._places, self._where, self._waiting = 0, "the start", False
        self._ended = threading.Event()
        if size > 1 and timeout_s is not None:
            self._beat()
            threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    @contextlib.contextmanager
    def meeting(self, where: str) -> Iterator[None]:
        """Inside, this rank may wait for others; every rank comes through the same places in the same order."""
        self._where = where
        self._places += 1
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _watch(self) -> None:
        tick = min(_BEAT_S, (self.timeout_s or _BEAT_S) / 4)
        place, waited, last = 0, 0.0, time.monotonic()
        while not self._ended.wait(tick):
            now = time.monotonic()
            waited, last = waited + min(now - last, 2 * tick), now
            if not self._waiting or self._places != place:
                place, waited = self._places, 0.0
            self._beat()
            if self.timeout_s is not None and waited > self.timeout_s:
                self._end(waited)

    def _beat(self) -> None:
        with contextlib.suppress(OSError):
            text = _NOTE.format(places=self._places, where=self._where)
            descriptor = os.open(self._files[self.rank], os.O_CREAT | os.O_WRONLY, 0o644)
            try:
                os.pwrite(descriptor, text.ljust(120).encode(), 0)
            finally:
                os.close(descriptor)

    def _end(self, waited: float) -> None:
        if not self.note.exists():  # nobody was faster
            beats = [_read(file) for file in self._files]
            text = hang(beats, self._where, waited, silent_s=max(3.0, (self.timeout_s or 0.0) / 2))
            print(text, file=sys.stderr, flush=True)
            with contextlib.suppress(Exception):
                write_json(self.note, {"message": text, "rank": self.rank})
        self._ended.wait(
            15.0
        )  # hpctrain reads the note and ends all of us; where there is none we go ourselves
        os._exit(1)


def hang(beats: list[Beat | None], where: str, waited: float, *, silent_s: float) -> str:
    """One line on a hang, as seen by a rank that waits at ``where``: missing are those behind it, and the silent."""
    furthest = max(beat.places for beat in beats if beat is not None)
    latest = max(beat.time_ns for beat in beats if beat is not None)
    missing = []
    for rank, beat in enumerate(beats):
        if beat is None:
            missing.append(f"rank {rank} (which never started)")
        elif beat.places < furthest or latest - beat.time_ns > silent_s * 1e9:
            silent = latest - beat.time_ns > silent_s * 1e9
            missing.append(f"rank {rank} ({'silent' if silent else 'alive'}, last at {beat.where})")
    who = ", ".join(missing) or "none in particular: every rank is there and waits"
    return f"hung at {where} for {waited:.0f} s; missing: {who}"


def _read(file: Path) -> Beat | None:
    try:
        places, where = file.read_text().strip().split(" ", 1)
        return Beat(int(places), where.strip(), file.stat().st_mtime_ns)
    except (OSError, ValueError):
        return None
