"""The type of every number in a quantised network, layer by layer: what firmware has to be told."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from hpctrain.compress.fixed_point import FixedPoint
from hpctrain.compress.quantise import QuantisedLayer, Quantiser, accumulator, narrowest
from hpctrain.compress.straight import AVERAGE_POOL, window_size
from hpctrain.errors import UserError


@dataclass(frozen=True)
class LayerTypes:
    """Types of one layer of the chain: what it gives out, and inside it where it has weights or sums."""

    name: str
    layer: nn.Module | None
    """The layer itself; None for the input."""
    inputs: FixedPoint
    result: FixedPoint
    weight: FixedPoint | None = None
    bias: FixedPoint | None = None
    accumulator: FixedPoint | None = None

    def precision(self) -> dict[str, str]:
        """In hls4ml's words: ``{"result": "ufixed<8,3,RND,SAT>", "weight": …, "bias": …, "accum": …}``."""
        named = {"result": self.result, "weight": self.weight, "bias": self.bias, "accum": self.accumulator}
        return {key: str(kind) for key, kind in named.items() if kind is not None}


def layer_types(network: nn.Sequential) -> list[LayerTypes]:
    """Every type of a quantised chain, the input first, the quantisers merged into the layer they follow.

    Accumulators are derived from the weights as they are, so that no sum is ever rounded or overflows.
    Raises ``UserError`` if exact sums would need more than the 53 bits that the float64 reference has.
    """
    children = list(network.named_children())
    if not isinstance(children[0][1], Quantiser):
        raise TypeError("not a quantised network: it does not begin with a Quantiser")
    now = children[0][1].kind
    found = [LayerTypes("input", None, now, now)]
    for position, (name, layer) in enumerate(children[1:], start=1):
        if isinstance(layer, Quantiser):
            continue
        following = children[position + 1][1] if position + 1 < len(children) else None
        inputs, parts = now, {}
        if isinstance(layer, QuantisedLayer):
            parts = _weighted(layer, now)
            now = parts["accumulator"]
        elif isinstance(layer, AVERAGE_POOL):
            parts = {"accumulator": _mean(layer, now)}
            now = parts["accumulator"]
        if isinstance(following, Quantiser):
            now = following.kind
        widest = max(kind.width for kind in (now, *parts.values()))
        if widest > 53:
            raise UserError(
                f"layer '{name}' needs {widest} bits for exact sums",
                hint="quantise to fewer bits (compress.weight_bits)",
            )
        found.append(LayerTypes(name, layer, inputs, now, **parts))
    return found


@torch.no_grad()
def _weighted(layer: QuantisedLayer, inputs: FixedPoint) -> dict[str, FixedPoint]:
    weight, bias = layer.effective()[0], layer.exact_bias()
    fraction = inputs.fraction + layer.weight_type.fraction
    return {
        "weight": layer.weight_type,
        "bias": narrowest(float(bias.min()), float(bias.max()), fraction),
        "accumulator": accumulator(weight, bias, inputs, fraction),
    }


def _mean(layer: nn.Module, inputs: FixedPoint) -> FixedPoint:
    """Room for the sum of the window above the point and for the division by 2^n below it."""
    extra = window_size(layer).bit_length() - 1
    return FixedPoint(inputs.width + 2 * extra, inputs.integer + extra, inputs.signed, "TRN", "WRAP")
