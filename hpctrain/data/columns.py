"""What a batch of events is made of: dense arrays and sparse rows. No torch, no files."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class SparseRows:
    """One sparse array per event: row ``i`` owns ``indices[offsets[i]:offsets[i+1]]`` and the same of ``values``.

    ``offsets`` int64 (n+1,), ``indices`` uint16 or uint32 (nnz,): flat C-order position in the row's shape,
    ``values`` (nnz,).
    """

    offsets: Array
    indices: Array
    values: Array

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: Array) -> "SparseRows":
        """The rows named, in the order named."""
        rows = np.asarray(rows)
        counts = self.offsets[rows + 1] - self.offsets[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        source = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], counts)
        return SparseRows(offsets, self.indices[source], self.values[source])

    def dense(self, shape: Sequence[int]) -> Array:
        """(n, *shape); positions named twice in one row add up."""
        size = int(np.prod(shape))
        flat = np.zeros(len(self) * size, dtype=self.values.dtype)
        np.add.at(flat, self.row_of_value() * size + self.indices.astype(np.int64), self.values)
        return flat.reshape(len(self), *shape)

    def row_of_value(self) -> Array:
        """Row number of each value, int64 (nnz,)."""
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.offsets))

    @classmethod
    def from_dense(cls, array: Array) -> Self:
        """Keep what is not zero of (n, *shape)."""
        flat = array.reshape(len(array), math.prod(array.shape[1:]))
        row, index = np.nonzero(flat)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(flat)))])
        return cls(offsets.astype(np.int64), index.astype(index_dtype(flat.shape[1])), flat[row, index])

    @classmethod
    def concatenate(cls, parts: Sequence["SparseRows"]) -> Self:
        """Rows of all parts, one after the other."""
        counts = np.concatenate([np.diff(part.offsets) for part in parts])
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(
            offsets, np.concatenate([p.indices for p in parts]), np.concatenate([p.values for p in parts])
        )


Columns = dict[str, "Array | SparseRows"]
"""Field name → all its values for some events; every field has the same number of rows."""


def index_dtype(size: int) -> type[np.unsignedinteger[Any]]:
    """Smallest unsigned type that holds a flat index into ``size`` cells."""
    return np.uint16 if size <= 2**16 else np.uint32


def take(columns: Columns, rows: Array) -> Columns:
    """The rows named of every field."""
    return {k: v.take(rows) if isinstance(v, SparseRows) else v[rows] for k, v in columns.items()}


def concatenate(parts: Sequence[Columns]) -> Columns:
    """Events of all parts, one after the other."""
    joined: Columns = {}
    for name, first in parts[0].items():
        values: list[Any] = [part[name] for part in parts]
        joined[name] = (
            SparseRows.concatenate(values) if isinstance(first, SparseRows) else np.concatenate(values)
        )
    return joined


def count(columns: Columns) -> int:
    """Number of events. Raises ``ValueError`` when fields disagree."""
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"fields have different numbers of rows: {lengths}")
    return next(iter(lengths.values()))
