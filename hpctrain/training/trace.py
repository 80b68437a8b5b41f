"""`--profile`: what every operation of a few steps of training cost, as a trace that chrome and perfetto open."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch.profiler import ProfilerActivity, profile, schedule

WAIT, WARM_UP, STEPS = 5, 2, 10
"""Steps that are let pass, that the profiler itself warms up in, and that are recorded."""
RANKS = 8
"""Ranks that write a trace: the first ones."""
ROWS = 10
"""Operators in the table of the log."""


class Trace:
    """Used as a ``with`` block; told after every step. Numbers are what they would be without; times are not."""

    def __init__(self, folder: Path, rank: int, device: torch.device, *, active: bool) -> None:
        self.path = folder / f"rank-{rank}.trace.json.gz"
        self.written = False
        self.active = active and rank < RANKS
        self._rank = rank
        self._gpu = device.type == "cuda"
        self._profiler: Any = None

    def step(self) -> None:
        """A step of training is over."""
        if self._profiler is None:
            return
        self._profiler.step()
        if self.written:
            self._end()

    def __enter__(self) -> Self:
        if self.active:
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._gpu else [])]
            self._profiler = profile(
                activities=activities,
                schedule=schedule(wait=WAIT, warmup=WARM_UP, active=STEPS, repeat=1),
                on_trace_ready=self._write,
                record_shapes=True,
            )
            self._profiler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What was recorded of a training that ended early is written too; of one that failed, if it can be.
        with contextlib.suppress(Exception) if kind is not None else contextlib.nullcontext():
            self._end()

    def tell(self, warn: Callable[[str], None]) -> dict[str, str]:
        """Its part of the summary; ``warn`` hears when it was asked for and there is none."""
        if self.active and not self.written:
            warn(f"the training ended before step {WAIT + WARM_UP + 1}: there is no trace")
        return {"trace": f"{self.path.parent.name}/{self.path.name}"} if self.written else {}

    def _end(self) -> None:
        profiler, self._profiler = self._profiler, None
        if profiler is not None:
            profiler.stop()

    def _write(self, profiler: Any) -> None:
        self.path.parent.mkdir(exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}")
        profiler.export_chrome_trace(str(temporary))
        temporary.replace(self.path)
        self.written = True
        if self._rank == 0:
            print(table(profiler.key_averages(), gpu=self._gpu), flush=True)


def table(averages: Any, *, gpu: bool) -> str:
    """The most expensive operators of a profile by their own time, on the GPU where there is one."""

    def own_ms(entry: Any) -> float:
        return float(entry.self_device_time_total if gpu else entry.self_cpu_time_total) / 1e3

    # The profiler's own marks of a step are no operators.
    entries = [entry for entry in averages if not entry.key.startswith("ProfilerStep")]
    total = sum(own_ms(entry) for entry in entries) or 1.0
    lines = [
        f"{'operator, ' + ('GPU' if gpu else 'CPU') + ' time of its own':<60}{'ms':>10}{'share':>8}{'calls':>8}"
    ]
    for entry in sorted(entries, key=own_ms, reverse=True)[:ROWS]:
        own = own_ms(entry)
        lines.append(f"{entry.key[:58]:<60}{own:>10.3f}{own / total:>8.1%}{entry.count:>8}")
    return "\n".join(lines)
