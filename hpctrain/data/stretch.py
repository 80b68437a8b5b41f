"""Rows that are about to be read: how much room they take, so that they are read where they stay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hpctrain.data import schema
from hpctrain.data.columns import Columns
from hpctrain.data.schema import Fields


@dataclass(frozen=True)
class Stretch:
    """Neighbouring rows of a shard, measured: what it takes to make room for them before they are read."""

    start: int
    stop: int
    first: int
    """Row with which the first of their blocks begins; checksums are of whole blocks."""
    last: int
    offsets: Mapping[str, NDArray[np.int64]]
    """Of sparse and ragged fields: where rows ``first`` to ``last`` begin in the shard's values, and the last ends."""

    def __len__(self) -> int:
        return self.stop - self.start

    def counts(self, name: str) -> NDArray[np.int64]:
        """Values of each row in a sparse or ragged field."""
        return np.diff(self.offsets[name][self.start - self.first : self.stop - self.first + 1])

    @property
    def whole(self) -> bool:
        """They are all rows of their blocks."""
        return self.start == self.first and self.stop == self.last

    @property
    def blocks(self) -> "Stretch":
        """All rows of their blocks."""
        return replace(self, start=self.first, stop=self.last)


def room(fields: Fields, stretches: Sequence[Stretch]) -> Columns:
    """Columns to read these rows into, one stretch after the other; offsets are set."""
    counts = {
        name: np.concatenate([stretch.counts(name) for stretch in stretches])
        for name, field in fields.items()
        if field.kind != "dense"
    }
    return schema.room(fields, sum(map(len, stretches)), counts)
