"""Event bootstrap: the statistical error of any figure computed from weighted events.

A replica gives every event a Poisson(1) multiplicity (the Poisson bootstrap). It fits simulated
samples better than drawing n events out of n: the number of events of every process fluctuates as
it would in a new sample, processes stay independent of each other, and the multiplicities of one
event do not depend on the others, so a million events are resampled block by block.

One replica is one weight vector for *all* models, so a difference of two models on the same events
is resampled as a difference and their common fluctuation cancels in its error.

What it does not cover: the training (another seed gives another network) and the model of the
simulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpctrain.errors import UserError
from hpctrain.evaluate.roc import Floats

INTERVAL = (15.865, 84.135)
"""Percentiles of the central 68.27 % interval."""

BLOCK_BYTES = 64 * 2**20
"""Memory of one block of weight vectors in float64; the peak is a few times this."""

Figures = Mapping[str, Floats]
Statistic = Callable[[Floats], Figures]


@dataclass(frozen=True)
class Estimate:
    """A figure of the full sample with the spread of its bootstrap replicas.

    ``error`` is the standard deviation of the replicas, ``low`` and ``high`` their central 68 %
    interval. With ``undefined`` replicas (a class lost all its events) these speak of the rest.
    """

    value: float
    error: float
    low: float
    high: float
    undefined: int = 0

    def as_dict(self) -> dict[str, float | None]:
        """Plain JSON: value, error, low, high; None where a number is not finite."""
        parts = {"value": self.value, "error": self.error, "low": self.low, "high": self.high}
        return {name: number if math.isfinite(number) else None for name, number in parts.items()}


def multiplicities(events: int, replicas: int, seed: int) -> Iterator[Floats]:
    """Blocks of Poisson(1) multiplicities, each (block, events), ``replicas`` rows in all.

    Replica r depends on (seed, r) and the number of events alone, never on the size of the block.
    """
    block = max(1, min(replicas, BLOCK_BYTES // (8 * max(events, 1))))
    streams = np.random.SeedSequence(seed).spawn(replicas)
    for start in range(0, replicas, block):
        rows = [
            np.random.default_rng(stream).poisson(1.0, events) for stream in streams[start : start + block]
        ]
        yield np.asarray(rows, dtype=np.float64)


def resample(statistic: Statistic, events: int, *, replicas: int, seed: int) -> dict[str, Floats]:
    """Replicas of every figure that ``statistic`` computes.

    ``statistic`` takes multiplicities (block, events) and returns named arrays (block, ...); the
    result has the same names and shapes (replicas, ...).
    """
    if replicas < 2:
        raise UserError(f"{replicas} bootstrap replicas give no error", hint="use at least 2, better 500")
    blocks = [statistic(rows) for rows in multiplicities(events, replicas, seed)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def estimate(value: float, replicas: NDArray[np.float64]) -> Estimate:
    """Error and 68 % interval of a figure ``value`` from its replicas (r,)."""
    usable = replicas[np.isfinite(replicas)]
    if usable.size < 2:
        return Estimate(float(value), math.nan, math.nan, math.nan, replicas.size - usable.size)
    low, high = np.percentile(usable, INTERVAL)
    return Estimate(
        float(value), float(usable.std(ddof=1)), float(low), float(high), replicas.size - usable.size
    )


def bootstrap(statistic: Statistic, events: int, *, replicas: int, seed: int) -> dict[str, Estimate]:
    """Every scalar figure of ``statistic`` on the sample itself, with its bootstrap error.

    ``statistic`` takes multiplicities (block, events) and returns named arrays (block,).

    >>> sample = np.arange(20.0)
    >>> mean = lambda m: {"mean": (m * sample).sum(axis=1) / m.sum(axis=1)}
    >>> bootstrap(mean, 20, replicas=100, seed=1)["mean"].value
    9.5
    """
    truth = statistic(np.ones((1, events)))
    spread = resample(statistic, events, replicas=replicas, seed=seed)
    return {name: estimate(float(values[0]), spread[name]) for name, values in truth.items()}


def band(replicas: NDArray[np.float64]) -> tuple[Floats, Floats]:
    """Pointwise 68 % band (low, high), each (points,), of replicas (r, points); NaN where undefined."""
    defined = replicas[np.isfinite(replicas).all(axis=1)]
    if not len(defined):
        nothing = np.full(replicas.shape[1], np.nan)
        return nothing, nothing
    low, high = np.percentile(defined, INTERVAL, axis=0)
    return low, high
