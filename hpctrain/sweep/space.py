"""What is swept: dotted keys of the experiment, each with values to choose from or a range to draw from."""

import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, model_validator
from pydantic_core import PydanticCustomError

from hpctrain.section import Section

DIGITS = 5
"""Significant digits of a number drawn from a range: enough to search, few enough to be read and typed."""


class Choices(Section):
    """Values to choose from; a list is the same. A value may be a whole section (``{kind: sgd, momentum: 0.9}``)."""

    choices: tuple[Any, ...]
    """In the order of a grid; any YAML."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.choices:
            raise PydanticCustomError("choices", "no value is given to choose from")
        texts = [label(value) for value in self.choices]
        twice = [text for number, text in enumerate(texts) if text in texts[:number]]
        if twice:
            raise PydanticCustomError("choices", "{text} stands twice", {"text": twice[0]})
        return self

    def probes(self) -> tuple[Any, ...]:
        """Values whose being right says that all are."""
        return self.choices

    def at(self, fraction: float) -> Any:
        """The value at 0 ≤ ``fraction`` < 1 of the way through."""
        return self.choices[min(math.floor(fraction * len(self.choices)), len(self.choices) - 1)]


class Range(Section):
    """Numbers from ``low`` to ``high``, both included."""

    low: float
    """Smallest."""
    high: float
    """Largest."""
    log: bool = False
    """Evenly in the logarithm."""
    int: bool = False
    """Whole numbers only."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise PydanticCustomError("range", "low must be below high, and both finite")
        if self.log and self.low <= 0:
            raise PydanticCustomError("range", "a logarithmic range starts above 0")
        if self.int and not (self.low.is_integer() and self.high.is_integer()):
            raise PydanticCustomError("range", "low and high of whole numbers are whole numbers")
        return self

    def probes(self) -> tuple[Any, ...]:
        """The ends, and something between that is no whole number unless all are."""
        return self.at(0.0), self.at(0.3819), self.at(1.0)

    def at(self, fraction: float) -> Any:
        """The value at 0 ≤ ``fraction`` ≤ 1 of the way through: every whole number has the same share of it."""
        # A whole number stands for half a unit on each side of it.
        low, high = (self.low - 0.5, self.high + 0.5) if self.int else (self.low, self.high)
        value = (
            math.exp(math.log(low) + fraction * (math.log(high) - math.log(low)))
            if self.log
            else low + fraction * (high - low)
        )
        rounded = round(value) if self.int else float(f"{value:.{DIGITS - 1}e}")
        return type(rounded)(min(max(rounded, self.low), self.high))


def _axis(value: Any) -> Any:
    if isinstance(value, Choices | Range):
        return value
    if isinstance(value, list | tuple):
        value = {"choices": value}
    if not isinstance(value, Mapping):
        raise PydanticCustomError(
            "not_a_section", "expected a list of values, or low and high; got {got}", {"got": repr(value)}
        )
    if "choices" in value:
        choices = value["choices"]
        return Choices.model_validate({**value, "choices": [_number(v) for v in choices] if isinstance(choices, list | tuple) else choices})  # fmt: skip
    return Range.model_validate(dict(value))


def _number(value: Any) -> Any:
    """YAML takes 1e-3 for text: it wants a point and a sign, 1.0e-3 and 1.0e+3."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+", value):
        return float(value)
    return value


Axis = Annotated[Choices | Range, BeforeValidator(_axis)]
"""What one key is swept over: a list, ``{choices: […]}`` or ``{low, high, log, int}``."""

Space = Mapping[str, Choices | Range]
"""Dotted key → what it is swept over, in the order of the file."""


def label(value: Any) -> str:
    """A value as text, the same for the same value: what tables and Optuna call it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
