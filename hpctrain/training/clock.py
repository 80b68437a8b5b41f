"""Where the time of training goes: one reading of a clock between two parts of a step, and no waiting for a GPU."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch

Part = Literal["data", "forward", "backward", "communication", "optimiser", "other"]
PARTS: tuple[Part, ...] = get_args(Part)
"""``data``: waiting for the next batch; ``communication``: exposed, that is not hidden behind computation, with the
waiting for slower ranks in it; ``optimiser``: the update with clipping and checks; ``other``: logging, checkpoints,
and all else between steps."""

Seconds = dict[Part, float]
"""Every part, in the order of ``PARTS``."""


class Clock:
    """Laps of the host: ``lap(part)`` gives the time since the lap before to ``part``; one costs some 0.1 µs."""

    def __init__(self) -> None:
        self._seconds: Seconds = dict.fromkeys(PARTS, 0.0)
        self._last = time.perf_counter()

    def start(self) -> None:
        """Begin an interval: what was before is nobody's."""
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._last = time.perf_counter()

    def lap(self, part: Part) -> None:
        """The time since the lap before (or ``start``) was ``part``."""
        now = time.perf_counter()
        self._seconds[part] += now - self._last
        self._last = now

    def read(self) -> Seconds:
        """Seconds of each part since ``start``; together they are the interval up to now."""
        self.lap("other")
        return dict(self._seconds)


def _cuda_event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


class StreamClock(Clock):
    """Laps of a CUDA stream: events that the stream passes, read when it has passed them.

    A part is then what the stream did, or waited for, between two events: kernels of the forward pass that run while
    the host is already at the next batch count as forward. Only ``start`` and ``read`` wait for the stream.
    """

    PENDING = 512
    """Events that may wait to be read before those that the stream has passed are."""

    def __init__(self, new_event: Callable[[], Any] = _cuda_event) -> None:
        super().__init__()
        self._new_event = new_event
        self._free: list[Any] = []
        self._pending: deque[tuple[Part, Any]] = deque()
        self._passed = self._record()

    def start(self) -> None:
        self._pending.clear()
        self._free.clear()
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._passed = self._record()
        self._passed.synchronize()

    def lap(self, part: Part) -> None:
        self._pending.append((part, self._record()))
        if len(self._pending) >= self.PENDING:
            self._take(wait=False)

    def read(self) -> Seconds:
        self.lap("other")
        self._take(wait=True)
        return dict(self._seconds)

    def _record(self) -> Any:
        event = self._free.pop() if self._free else self._new_event()
        event.record()
        return event

    def _take(self, *, wait: bool) -> None:
        if wait:
            self._pending[-1][1].synchronize()
        while self._pending and (wait or self._pending[0][1].query()):
            part, event = self._pending.popleft()
            self._seconds[part] += self._passed.elapsed_time(event) / 1e3  # it counts milliseconds
            self._free.append(self._passed)
            self._passed = event


def clock_of(device: torch.device) -> Clock:
    """The clock by which work on ``device`` is measured."""
    return StreamClock() if device.type == "cuda" else Clock()
