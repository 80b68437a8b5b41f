"""Emulated firmware against the quantised network in exact arithmetic: event by event, then layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hpctrain.compress.fixed_point import FixedPoint
from hpctrain.compress.quantise import Quantiser
from hpctrain.firmware.project import quiet
from hpctrain.firmware.twin import firmware_name

Array = NDArray[np.float64]
TRACED_EVENTS = 8
"""Events that are traced layer by layer when something differs: the worst ones."""
RANDOM_INPUTS = 64
"""Inputs that nature did not choose, compared beside the held-out events."""


@dataclass(frozen=True)
class Comparison:
    """Network against emulation over all outputs of all events."""

    events: int
    mismatches: int
    """Events of which any output differs by more than the tolerance (NaN always does)."""
    max_abs_difference: float
    worst: tuple[int, ...]
    """Events in order of falling difference, ``TRACED_EVENTS`` at most."""
    distinct_outputs: int
    """Different outputs of the network among the events; equality says the less the fewer there are."""


@dataclass(frozen=True)
class Difference:
    """The first layer at which network and emulation part."""

    layer: str
    max_abs_difference: float
    values: int
    of: int


def channels_last(array: Array) -> Array:
    """(events, channels, …) → (events, …, channels), contiguous; other arrays as they are."""
    return np.ascontiguousarray(np.moveaxis(array, 1, -1) if array.ndim > 2 else array)


@torch.no_grad()
def expected_outputs(network: nn.Sequential, inputs: Array, batch: int = 64) -> Array:
    """Outputs (events, outputs) of the exact (float64) network for ``inputs`` (events, channels, …)."""
    parts = [network(torch.from_numpy(inputs[i : i + batch])) for i in range(0, len(inputs), batch)]
    result: Array = torch.cat(parts).flatten(1).numpy()
    return result


def compare(expected: Array, emulated: Array, tolerance: float) -> Comparison:
    """Both (events, outputs); ``tolerance`` is the largest difference that passes, 0 for bit-exact."""
    difference = np.abs(expected - emulated)
    difference[~np.isfinite(difference)] = np.inf
    per_event = difference.max(axis=1)
    worst = np.argsort(-per_event, kind="stable")[:TRACED_EVENTS]
    return Comparison(
        events=len(expected),
        mismatches=int((per_event > tolerance).sum()),
        max_abs_difference=float(per_event.max()),
        worst=tuple(int(i) for i in worst),
        distinct_outputs=distinct(expected),
    )


def distinct(outputs: Array) -> int:
    """How many different rows ``outputs`` (events, outputs) has."""
    return len(np.unique(outputs, axis=0))


def random_inputs(kind: FixedPoint, shape: tuple[int, ...], seed: int = 0) -> Array:
    """``RANDOM_INPUTS`` inputs (events, *shape) float64 for an entrance of type ``kind``.

    Held-out events are sparse, mostly soft and alike: layers, channels and bits that they leave at rest could be
    wrong unseen. Here every cell is filled now and then. The filled fraction goes from all cells down to 1/128, and
    values go up to 5/4 of the type's range, then to 1/2, 1/4 and 1/8 of that, so that many of the inputs do not drive
    everything into saturation.
    """
    rng = np.random.default_rng(seed)
    events = (RANDOM_INPUTS, *shape)
    number = np.arange(RANDOM_INPUTS).reshape(-1, *[1] * len(shape))
    filled, reach = 2.0 ** -(number % 8), 1.25 * 2.0 ** -(number // 8 % 4)
    values = rng.uniform(kind.lowest, kind.highest, events) * reach
    result: Array = (values * (rng.random(events) < filled)).astype(np.float32).astype(np.float64)
    return result


@torch.no_grad()
def layer_outputs(network: nn.Sequential, inputs: Array) -> dict[str, Array]:
    """Firmware layer name → its output (events, values), channels last, quantiser included."""
    found: dict[str, Array] = {}
    values, name = torch.from_numpy(inputs), ""
    for child, layer in network.named_children():
        values = layer(values)
        if not isinstance(layer, Quantiser):
            name = firmware_name(child)
        if name:
            found[name] = channels_last(values.numpy()).reshape(len(inputs), -1)
    return found


def first_difference(
    graph: Any, network: nn.Sequential, inputs: Array, tolerance: float, log: Path
) -> Difference | None:
    """Trace the emulation (recompiled with tracing) and find the first layer that differs; None if none does.

    ``inputs`` (events, channels, …) should be few. Layers whose order of values hls4ml changed (Flatten) are
    passed over: their values are those of the layer before.
    """
    with quiet(log):
        _, traced = graph.trace(channels_last(inputs))
    for name, expected in layer_outputs(network, inputs).items():
        if name not in traced or isinstance(network.get_submodule(_module(network, name)), nn.Flatten):
            continue
        emulated = np.asarray(traced[name], dtype=np.float64).reshape(len(inputs), -1)
        difference = np.abs(expected - emulated)
        if not (difference <= tolerance).all():
            return Difference(
                name, float(difference.max()), int((difference > tolerance).sum()), difference.size
            )
    return None


def _module(network: nn.Sequential, name: str) -> str:
    return next(child for child, _ in network.named_children() if firmware_name(child) == name)


def golden_vectors(inputs: Array, outputs: Array) -> tuple[str, str]:
    """The two files of the vendor's test bench: a line an event, values exact in decimal.

    ``inputs`` are quantised values, channels last, (events, …); ``outputs`` (events, outputs).
    """

    def lines(array: Array) -> str:
        return (
            "\n".join(" ".join(map(_decimal, row)) for row in array.reshape(len(array), -1).tolist()) + "\n"
        )

    return lines(inputs), lines(outputs)


def _decimal(value: float) -> str:
    """The shortest decimal that reads back as the same double."""
    return repr(int(value)) if value.is_integer() else repr(value)
