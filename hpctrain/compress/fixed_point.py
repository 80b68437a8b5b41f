"""Fixed-point numbers in the convention of ap_fixed<W, I, Q, O> (AMD UG1399, "Arbitrary Precision Fixed-Point")."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from hpctrain.errors import UserError

Rounding = Literal["TRN", "RND"]
Saturation = Literal["WRAP", "SAT"]

_TEXT = re.compile(r"^(u?)fixed<(\d+),(-?\d+)(?:,(TRN|RND))?(?:,(WRAP|SAT))?>$")


@dataclass(frozen=True)
class FixedPoint:
    """A fixed-point type: ``width`` bits, ``integer`` of them before the point (the sign among them).

    The step is 2^(integer − width), so ``integer`` may be negative or exceed ``width``.
    ``TRN`` rounds towards minus infinity, ``RND`` to the nearest with halves upwards;
    ``WRAP`` drops the upper bits of a number that does not fit, ``SAT`` takes the nearest end of the range.
    """

    width: int
    integer: int
    signed: bool = True
    rounding: Rounding = "RND"
    saturation: Saturation = "SAT"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UserError(f"a fixed-point type of {self.width} bits", hint="take at least one bit")

    @property
    def fraction(self) -> int:
        """Bits after the point; the step is 2^−fraction."""
        return self.width - self.integer

    @property
    def step(self) -> float:
        return math.ldexp(1.0, -self.fraction)

    @property
    def lowest(self) -> float:
        return -math.ldexp(1.0, self.integer - 1) if self.signed else 0.0

    @property
    def highest(self) -> float:
        return math.ldexp(1.0, self.integer - self.signed) - self.step

    def __str__(self) -> str:
        """The type in hls4ml's words, every field written: ``ufixed<8,3,RND,SAT>``."""
        prefix = "" if self.signed else "u"
        return f"{prefix}fixed<{self.width},{self.integer},{self.rounding},{self.saturation}>"

    @classmethod
    def parse(cls, text: str) -> FixedPoint:
        """The inverse of ``str``; what is left out has ap_fixed's default (TRN, WRAP).

        >>> FixedPoint.parse("ufixed<8,3,RND,SAT>").highest
        7.96875
        """
        match = _TEXT.match(text.replace(" ", ""))
        if match is None:
            raise UserError(f"'{text}' is not a fixed-point type", hint="write it like fixed<8,1,RND,SAT>")
        unsigned, width, integer, rounding, saturation = match.groups()
        modes: dict[str, Any] = {"rounding": rounding or "TRN", "saturation": saturation or "WRAP"}
        return cls(int(width), int(integer), signed=not unsigned, **modes)

    @classmethod
    def for_range(
        cls, lowest: float, highest: float, width: int, *, signed: bool | None = None
    ) -> FixedPoint:
        """The type of ``width`` bits with the finest step whose range holds ``lowest`` … ``highest``.

        Unsigned when ``lowest`` is not negative, unless ``signed`` says otherwise. The upper end may lie up to
        half a step above the highest code, where rounding still reaches it without saturating.
        """
        signed = lowest < 0 if signed is None else signed
        largest = max(abs(lowest), abs(highest))
        if not math.isfinite(largest):
            raise UserError(f"no fixed-point type holds the range {lowest} … {highest}", hint="look for NaN")
        if largest == 0.0:
            return cls(width, int(signed), signed)
        integer = math.frexp(largest)[1] + signed - 1
        while True:
            kind = cls(width, integer, signed)
            if kind.lowest <= lowest and highest < kind.highest + kind.step / 2:
                return kind
            integer += 1

    def quantise(self, values: Tensor) -> Tensor:
        """``values`` (any shape) on this type's grid, same dtype; exact where the dtype holds 2·width bits."""
        scaled = values * math.ldexp(1.0, self.fraction)
        codes = torch.floor(scaled + 0.5 if self.rounding == "RND" else scaled)
        low, high = self.lowest / self.step, self.highest / self.step
        if self.saturation == "SAT":
            codes = codes.clamp(low, high)
        else:
            codes = torch.remainder(codes - low, math.ldexp(1.0, self.width)) + low
        return codes * self.step

    def overflows(self, values: Tensor) -> Tensor:
        """Boolean, same shape: where rounding leaves a number that this type cannot hold."""
        half = 0.5 * self.step if self.rounding == "RND" else 0.0
        return (values + half < self.lowest) | (values + half >= self.highest + self.step)


class _StraightThrough(torch.autograd.Function):
    """Quantise forwards; backwards the identity inside the range and zero where the value saturated."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, kind: FixedPoint) -> Tensor:
        ctx.save_for_backward(kind.overflows(values))
        return kind.quantise(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        (outside,) = ctx.saved_tensors
        return gradients[0].masked_fill(outside, 0.0), None


def fake_quantise(values: Tensor, kind: FixedPoint) -> Tensor:
    """``values`` on the grid of ``kind``, with the straight-through gradient (Bengio et al. 2013, arXiv:1308.3432)."""
    result: Tensor = _StraightThrough.apply(values, kind)  # type: ignore[no-untyped-call]
    return result
