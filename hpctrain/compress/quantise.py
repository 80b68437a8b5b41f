"""Fixed-point training: weights, biases and activations on their grids, exact sums in between.

Everything between two quantisers is a sum of products of grid values, so it is exact in any order as long as the
arithmetic holds enough bits: float64 does (53 bits), and so does the accumulator type derived here. This is what
makes bit-for-bit agreement with firmware possible rather than lucky.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from hpctrain.compress.fixed_point import FixedPoint, fake_quantise
from hpctrain.compress.prune import MaskedConv1d, MaskedConv2d, MaskedLayer, MaskedLinear, rebuild
from hpctrain.compress.straight import AVERAGE_POOL, MAX_POOL

_EXPONENTS = 64
"""Powers of two counted in calibration: 2^-32 … 2^31."""
_BIAS_GROWTH = 8
"""Bits by which a bias may grow in fixed-point training; what is not used costs nothing (``layer_types`` narrows)."""
_EXACT_BITS = 53
"""What float64 holds exactly."""


class Quantiser(nn.Module):
    """Values onto the grid of ``kind``, with the straight-through gradient.

    In ``eval`` it counts: non-zero values ``seen`` and how many of them ``saturated``, so that the ratio is the
    quantity which ``Calibration.types`` limits. (Zero never saturates; an image is almost all zeros.)
    """

    def __init__(self, kind: FixedPoint) -> None:
        super().__init__()
        self.kind = kind
        self.reset()

    def reset(self) -> None:
        self.seen = 0
        self.saturated = 0

    def forward(self, values: Tensor) -> Tensor:
        if not self.training:
            self.seen += int(values.count_nonzero())
            self.saturated += int(self.kind.overflows(values).count_nonzero())
        return fake_quantise(values, self.kind)

    def extra_repr(self) -> str:
        return str(self.kind)


class QuantisedLayer(MaskedLayer):
    """A masked layer whose weights and biases act as fixed-point numbers; training changes what lies beneath."""

    weight_type: FixedPoint
    bias_type: FixedPoint

    def effective(self) -> tuple[Tensor, Tensor]:
        weight = fake_quantise(self.weight * self.mask, self.weight_type)
        return weight, self.exact_bias().to(self.bias.dtype)

    def exact_bias(self) -> Tensor:
        """The bias on its grid, (outputs,) float64: the grid of 16-bit products is finer than float32 can round to."""
        return fake_quantise(self.bias.double(), self.bias_type)

    def saturated(self) -> tuple[int, int]:
        """How many weights, and how many biases, lie beyond the range of their type."""
        weights = self.weight_type.overflows(self.weight * self.mask)
        return int(weights.sum()), int(self.bias_type.overflows(self.bias.double()).sum())


class QuantisedConv1d(QuantisedLayer, MaskedConv1d):
    pass


class QuantisedConv2d(QuantisedLayer, MaskedConv2d):
    pass


class QuantisedLinear(QuantisedLayer, MaskedLinear):
    pass


QUANTISED: dict[type[nn.Module], type[QuantisedLayer]] = {
    MaskedConv1d: QuantisedConv1d,
    MaskedConv2d: QuantisedConv2d,
    MaskedLinear: QuantisedLinear,
}


def quantiser_places(network: nn.Sequential) -> list[str]:
    """Names of the layers whose output is quantised, after "input".

    These are ReLU, average pooling and every Conv or Linear whose output reaches another layer without a ReLU in
    between. What the last layer with weights gives out (the logits) stays exact.
    """
    names, layers = [name for name, _ in network.named_children()], list(network.children())
    places = ["input"]
    for position, (name, layer) in enumerate(zip(names, layers, strict=True)):
        rest = [item for item in layers[position + 1 :] if not isinstance(item, (*MAX_POOL, nn.Flatten))]
        if isinstance(layer, (nn.ReLU, *AVERAGE_POOL)) or (
            isinstance(layer, MaskedLayer) and rest and not isinstance(rest[0], nn.ReLU)
        ):
            places.append(name)
    return places


class Calibration:
    """How large the values at each quantiser's place are on given events: counts by power of two.

    ``counts`` is (places, 2, 64) int64, [place, 0] for positive and [place, 1] for negative values, the last
    axis floor(log2|v|) + 32. Counts of several ranks add up (``all_reduce``), so all choose the same types.
    """

    def __init__(self, network: nn.Sequential) -> None:
        self.network = network
        self.places = quantiser_places(network)
        self.counts = torch.zeros(len(self.places), 2, _EXPONENTS, dtype=torch.int64)

    @torch.no_grad()
    def add(self, inputs: Tensor) -> None:
        """Count the values that ``inputs`` (events first) cause everywhere. The network must be in ``eval``."""
        values = inputs
        self._count("input", values)
        for name, layer in self.network.named_children():
            values = layer(values)
            if name in self.places:
                self._count(name, values)

    def _count(self, place: str, values: Tensor) -> None:
        values = values[values != 0]
        exponents = (torch.frexp(values).exponent - 1 + _EXPONENTS // 2).clamp(0, _EXPONENTS - 1).long()
        for side, chosen in enumerate((values > 0, values < 0)):
            counts = torch.bincount(exponents[chosen], minlength=_EXPONENTS)
            self.counts[self.places.index(place), side] += counts.cpu()

    def types(self, bits: int, input_bits: int, saturated: float) -> dict[str, FixedPoint]:
        """Place → type: the finest step for which at most the fraction ``saturated`` of the non-zero values
        is too large. Signed only where a negative value was seen."""
        chosen = {}
        for place, (positive, negative) in zip(self.places, self.counts, strict=True):
            either = positive + negative
            allowed = saturated * int(either.sum())
            above = int(either.sum()) - either.cumsum(0)  # values of a larger power of two than this one
            fits = torch.nonzero(above <= allowed)
            largest = int(fits[0]) - _EXPONENTS // 2 if int(either.sum()) else -1
            signed = bool(negative.sum() > 0)
            width = input_bits if place == "input" else bits
            chosen[place] = FixedPoint(width, largest + 1 + signed, signed)
        return chosen


def quantise_network(
    network: nn.Sequential, activations: dict[str, FixedPoint], weight_bits: int
) -> nn.Sequential:
    """A copy of a masked chain with fixed-point weights and a ``Quantiser`` at each place of ``activations``.

    Integer bits of a layer's weights come from the largest of them. Biases lie on the grid of the products
    (weight step × input step), so adding them needs no rounding.
    """
    chain: OrderedDict[str, nn.Module] = OrderedDict(input_quantiser=Quantiser(activations["input"]))
    grid = activations["input"].fraction
    for name, layer in network.named_children():
        if isinstance(layer, MaskedLayer):
            new = rebuild(layer, QUANTISED[type(layer)])
            new.hold(layer.mask)  # type: ignore[operator]
            weight = (layer.weight * layer.mask).detach()
            kind = FixedPoint.for_range(float(weight.min()), float(weight.max()), weight_bits, signed=True)
            grid += kind.fraction
            new.weight_type, new.bias_type = kind, bias_type(new.bias, grid)  # type: ignore[assignment, arg-type]
            chain[name] = new
        else:
            chain[name] = copy.deepcopy(layer)
        if name in activations:
            chain[f"{name}_quantiser"] = Quantiser(activations[name])
            grid = activations[name].fraction
    return nn.Sequential(chain)


def bias_type(bias: Tensor, fraction: int) -> FixedPoint:
    """The type with ``fraction`` bits after the point for ``bias`` (any shape) and what training makes of it.

    A bias of 1 is the least that is reckoned with: biases may begin at zero. Above 53 bits, where float64 ends,
    room to grow is given up first.
    """
    integer = max(math.frexp(float(bias.detach().abs().max()))[1], 1) + 1
    width = max(integer + fraction, min(integer + _BIAS_GROWTH + fraction, _EXACT_BITS), 2)
    return FixedPoint(width, width - fraction)


def exact(network: nn.Sequential) -> nn.Sequential:
    """A copy in float64 and ``eval``: the reference, free of rounding anywhere but in the quantisers."""
    return copy.deepcopy(network).double().eval()


def narrowest(lowest: float, highest: float, fraction: int) -> FixedPoint:
    """The signed type with ``fraction`` bits after the point that just holds a range; nothing is ever rounded."""
    width = 2
    while True:
        kind = FixedPoint(width, width - fraction, True, "TRN", "WRAP")
        if kind.lowest <= lowest and highest <= kind.highest:
            return kind
        width += 1


def accumulator(weight: Tensor, bias: Tensor, inputs: FixedPoint, fraction: int) -> FixedPoint:
    """The narrowest type that holds every partial sum, in any order, of bias + Σ weight·input.

    ``weight`` is (outputs, …), ``bias`` (outputs,), both on their grids; inputs may be any value of their type,
    or zero (padding). ``fraction`` is the number of bits after the point of the products.
    """
    flat = weight.double().flatten(1)
    up, down = flat.clamp_min(0), flat.clamp_max(0)
    high, low = inputs.highest, min(inputs.lowest, 0.0)
    highest = (up * high + down * low).sum(1) + bias.double().clamp_min(0)
    lowest = (down * high + up * low).sum(1) + bias.double().clamp_max(0)
    return narrowest(float(lowest.min()), float(highest.max()), fraction)
