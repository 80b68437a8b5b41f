"""Which events are to learn from, to choose with and to report: decided by their numbers, nothing is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hpctrain.data.mixing import Permutation
from hpctrain.ingest.chunks import stable_hash

SPLITS = ("train", "validation", "test")

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Division:
    """Which split each of ``events`` events goes to: exact fractions, at random but decided by (seed, name) alone."""

    name: str
    events: int
    fractions: Mapping[str, float]
    seed: int

    @cached_property
    def edges(self) -> Ints:
        """Where each split begins in the shuffled events, and where the last ends; int64 (4,)."""
        shares = np.cumsum([self.fractions[name] for name in SPLITS])
        return np.array([0, *np.rint(shares[:-1] * self.events), self.events], dtype=np.int64)

    @property
    def counts(self) -> Ints:
        """Events of each split, int64 (3,)."""
        return np.diff(self.edges)

    def of(self, rows: Ints) -> tuple[Ints, Ints]:
        """Number of the split of each event, and the event's number among those of its split."""
        place = self._shuffle.place(rows)
        split = np.searchsorted(self.edges, place, side="right") - 1
        # A split without events begins where the next one does, which is then the one found.
        return split, place - self.edges[split]

    @cached_property
    def _shuffle(self) -> Permutation:
        return Permutation(self.events, (self.seed, stable_hash("split:" + self.name)))
