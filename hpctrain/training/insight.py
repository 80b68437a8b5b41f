"""What a training says of its own speed: the parts of its time, MFU against a measured peak, energy."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from hpctrain.data.loader import Loader
from hpctrain.parallel.communicator import Communicator
from hpctrain.tasks.base import Phase
from hpctrain.training.clock import PARTS, Clock, Seconds, clock_of
from hpctrain.training.energy import POWERCAP, EnergyMeter, meter_of
from hpctrain.training.flops import step_flops
from hpctrain.training.peak import Peak, measure_peak

SAMPLES = 32
"""Events whose FLOPs are counted, from all over the training split: those of ragged events differ."""
NO_ENERGY = "not readable here"


class Insight:
    """Keeps the clock of a training and makes figures of it; every rank calls the same methods in turn.

    When not ``active`` there are only the seconds of this rank, and nothing is measured or gathered.
    """

    def __init__(self, communicator: Communicator, *, active: bool, powercap: Path = POWERCAP) -> None:
        self.communicator = communicator
        self.active = active
        self.clock: Clock = clock_of(communicator.device) if active else Clock()
        self.flops_per_sample: float | None = None
        self.peak: Peak | None = None
        self._meter: EnergyMeter | None = None
        self._counted: list[str] = []
        if active:
            self._meter, self._counted = meter_of(communicator, powercap)
        self._begin = 0.0
        self._totals = {"seconds": 0.0, "samples": 0, "joules": 0.0}
        self._parts: Seconds = dict.fromkeys(PARTS, 0.0)

    def measure(
        self,
        phases: Sequence[Phase],
        model: nn.Module,
        loader: Loader,
        *,
        at_once: int,
        warn: Callable[[str], None],
        dtype: torch.dtype | None = None,
    ) -> None:
        """Count the FLOPs of a sample and measure the peak, some 0.3 s; every rank calls it.

        ``at_once``: samples that a rank is known to have memory for. ``warn`` hears when the FLOPs cannot be counted.
        ``dtype``: what matrix products are computed in; None: what the parameters are.
        """
        if not self.active:
            return
        problem = ""
        try:
            self.flops_per_sample = _flops_per_sample(phases, model, loader, min(SAMPLES, at_once))
        except Exception as error:  # noqa: BLE001 - a network that cannot be counted can still be trained
            problem = f"{type(error).__name__}: {error}"
        problems = [text for text in self.communicator.gather(problem) if text]
        if problems:
            self.flops_per_sample = None
            warn(f"the FLOPs of this network cannot be counted, so there is no MFU: {problems[0]}")
            return
        dtype = dtype or next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        self.peak = measure_peak(self.communicator, dtype)

    def start(self) -> None:
        """An epoch begins."""
        self._begin = self._meter.joules() if self._meter else 0.0
        self.clock.start()

    def end(self, samples: int) -> dict[str, Any]:
        """Figures of the epoch that ends, in which all ranks together went through ``samples``."""
        mine = self.clock.read()
        if self._meter is None:
            seconds = sum(mine.values())
            return {"seconds": seconds, "samples_per_second": samples / seconds}
        ranks, joules = zip(
            *self.communicator.gather((mine, self._meter.joules() - self._begin)), strict=True
        )
        parts = _mean(ranks)
        seconds = sum(parts.values())
        for part in PARTS:
            self._parts[part] += parts[part]
        self._totals["seconds"] += seconds
        self._totals["samples"] += samples
        self._totals["joules"] += sum(joules)
        return {
            "seconds": seconds,
            "samples_per_second": samples / seconds,
            **{f"seconds_{part}": value for part, value in parts.items()},
            **(_slowest(ranks) if len(ranks) > 1 else {}),
            **self._speed(samples, seconds),
            **self._energy(samples, sum(joules)),
        }

    def summary(self) -> dict[str, Any]:
        """Figures of all epochs that have ended; empty when there are none."""
        seconds, samples = self._totals["seconds"], int(self._totals["samples"])
        if not samples:
            return {}
        found: dict[str, Any] = {"seconds_by_part": dict(self._parts), **self._speed(samples, seconds)}
        if self.peak is not None:
            found |= {
                "flops_per_sample": self.flops_per_sample,
                "peak_flops_per_second": self.peak.flops_per_second,
                "peak_measured_with": self.peak.measured_with,
            }
        energy = self._energy(samples, self._totals["joules"])
        return found | {"energy": {**energy, "counted": self._counted} if energy else NO_ENERGY}

    def _speed(self, samples: int, seconds: float) -> dict[str, float]:
        if self.flops_per_sample is None or self.peak is None:
            return {}
        rate = self.flops_per_sample * samples / seconds
        return {"flops_per_second": rate, "mfu": rate / self.peak.flops_per_second}

    def _energy(self, samples: int, joules: float) -> dict[str, float]:
        return {"joules": joules, "joules_per_sample": joules / samples} if self._counted else {}

    def __enter__(self) -> Self:
        if self._meter is not None:
            self._meter.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._meter is not None:
            self._meter.end()


def _flops_per_sample(phases: Sequence[Phase], model: nn.Module, loader: Loader, samples: int) -> float:
    events = loader.dataset.events
    rows = np.unique(np.linspace(0, events - 1, min(samples, events)).astype(np.int64))
    return step_flops(phases, model, loader.load(rows)) / len(rows)


def _mean(ranks: tuple[Seconds, ...]) -> Seconds:
    return {part: sum(seconds[part] for seconds in ranks) / len(ranks) for part in PARTS}


def _slowest(ranks: tuple[Seconds, ...]) -> dict[str, float]:
    """The rank that the others wait for: it has the most to do itself, and what it communicates is not waiting."""
    own = [sum(seconds.values()) - seconds["communication"] for seconds in ranks]
    slowest = own.index(max(own))
    return {
        "slowest_rank": slowest,
        "seconds_communication_slowest": ranks[slowest]["communication"],
    }
