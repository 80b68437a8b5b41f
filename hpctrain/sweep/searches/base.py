"""What a sweep knows of a search: how many trials there are, and which parameters each has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from hpctrain.sweep.space import Space

Parameters = dict[str, Any]
"""Dotted key → value."""


@dataclass(frozen=True)
class Told:
    """What a search may learn from: one trial that has ended."""

    number: int
    parameters: Mapping[str, Any]
    value: float | None
    """Of the objective; None when the trial failed."""


@dataclass(frozen=True)
class Past:
    """All that a search that learns goes by."""

    trials: Sequence[Told]
    """In order of their number."""
    direction: Literal["maximise", "minimise"]
    folder: Path
    """Of the sweep: a search may keep a file of its own here, which processes of several machines share."""


class Search(Protocol):
    """One way of searching. A class attribute ``learns`` says whether ``parameters`` depends on what was found."""

    learns: bool

    def check(self, space: Space) -> None:
        """Raise ``UserError`` when it cannot search this space, or something it needs is missing."""
        ...

    def count(self, space: Space) -> int:
        """How many trials there are."""
        ...

    def parameters(self, space: Space, number: int, past: Past) -> Parameters:
        """Those of trial ``number``; of ``number`` (and its settings) alone unless the search ``learns``."""
        ...

    def learn(self, space: Space, past: Past) -> None:
        """Told after every trial that has ended."""
        ...
