"""What a batch of events is made of: dense arrays, sparse and ragged rows. No torch, no files."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class _Rows:
    """What rows of several values each have in common: where each begins."""

    offsets: Array

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> Array:
        """Values (stored cells, items) of each row, int64 (n,)."""
        return np.diff(self.offsets)

    def row_of_value(self) -> Array:
        """Row number of each value, int64 (values,)."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.counts)


@dataclass(frozen=True)
class SparseRows(_Rows):
    """One sparse array per event: row ``i`` owns ``indices[offsets[i]:offsets[i+1]]`` and the same of ``values``.

    ``offsets`` int64 (n+1,), ``indices`` uint16 or uint32 (nnz,): flat C-order position in the row's shape,
    ``values`` (nnz,).
    """

    offsets: Array
    indices: Array
    values: Array

    def take(self, rows: Array) -> "SparseRows":
        """The rows named, in the order named."""
        found: SparseRows = _gather([(self, np.asarray(rows))])
        return found

    def part(self, start: int, stop: int) -> "SparseRows":
        """Rows ``start`` to ``stop``; indices and values are views."""
        first, last = self.offsets[start], self.offsets[stop]
        return SparseRows(
            self.offsets[start : stop + 1] - first, self.indices[first:last], self.values[first:last]
        )

    def dense(self, shape: Sequence[int]) -> Array:
        """(n, *shape); positions named twice in one row add up."""
        size = int(np.prod(shape))
        flat = np.zeros(len(self) * size, dtype=self.values.dtype)
        np.add.at(flat, self.row_of_value() * size + self.indices.astype(np.int64), self.values)
        return flat.reshape(len(self), *shape)

    @property
    def nbytes(self) -> int:
        return self.offsets.nbytes + self.indices.nbytes + self.values.nbytes

    @classmethod
    def from_dense(cls, array: Array) -> Self:
        """Keep what is not zero of (n, *shape)."""
        flat = array.reshape(len(array), math.prod(array.shape[1:]))
        row, index = np.nonzero(flat)
        offsets = offsets_of(np.bincount(row, minlength=len(flat)))
        return cls(offsets, index.astype(index_dtype(flat.shape[1])), flat[row, index])

    @classmethod
    def concatenate(cls, parts: Sequence["SparseRows"]) -> Self:
        """Rows of all parts, one after the other."""
        return cls(
            offsets_of(np.concatenate([part.counts for part in parts])),
            np.concatenate([p.indices for p in parts]),
            np.concatenate([p.values for p in parts]),
        )


@dataclass(frozen=True)
class RaggedRows(_Rows):
    """A list of items per event (particles, hits, tracks): row ``i`` owns ``values[offsets[i]:offsets[i+1]]``.

    ``offsets`` int64 (n+1,), ``values`` (items, *shape).
    """

    offsets: Array
    values: Array

    def take(self, rows: Array) -> "RaggedRows":
        """The rows named, in the order named."""
        found: RaggedRows = _gather([(self, np.asarray(rows))])
        return found

    def part(self, start: int, stop: int) -> "RaggedRows":
        """Rows ``start`` to ``stop``; values are a view."""
        first, last = self.offsets[start], self.offsets[stop]
        return RaggedRows(self.offsets[start : stop + 1] - first, self.values[first:last])

    @property
    def nbytes(self) -> int:
        return self.offsets.nbytes + self.values.nbytes

    @classmethod
    def from_lists(cls, lists: Sequence[Any], shape: Sequence[int] = (), dtype: Any = np.float32) -> Self:
        """One array-like of (items, *shape) per event; an event may have none."""
        arrays = [np.asarray(items, dtype=dtype).reshape(-1, *shape) for items in lists]
        values = np.concatenate([np.zeros((0, *shape), dtype), *arrays])
        return cls(offsets_of(np.array([len(items) for items in arrays], dtype=np.int64)), values)

    @classmethod
    def concatenate(cls, parts: Sequence["RaggedRows"]) -> Self:
        """Rows of all parts, one after the other."""
        return cls(
            offsets_of(np.concatenate([part.counts for part in parts])),
            np.concatenate([p.values for p in parts]),
        )


Rows = Array | SparseRows | RaggedRows
Columns = dict[str, Rows]
"""Field name → all its values for some events; every field has the same number of rows."""


def index_dtype(size: int) -> type[np.unsignedinteger[Any]]:
    """Smallest unsigned type that holds a flat index into ``size`` cells."""
    return np.uint16 if size <= 2**16 else np.uint32


def offsets_of(counts: Array) -> Array:
    """int64 (n+1,): where each row begins, and where the last one ends.

    >>> offsets_of(np.array([2, 0, 3])).tolist()
    [0, 2, 2, 5]
    """
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def take(columns: Columns, rows: Array) -> Columns:
    """The rows named of every field."""
    return gather([(columns, rows)])


def gather(parts: Sequence[tuple[Columns, Array]]) -> Columns:
    """The rows named of each part, one part after the other, in one go."""
    return {name: _gather([(columns[name], rows) for columns, rows in parts]) for name in parts[0][0]}


def part(columns: Columns, start: int, stop: int) -> Columns:
    """Rows ``start`` to ``stop`` of every field, as views where that can be."""
    return {
        k: v[start:stop] if isinstance(v, np.ndarray) else v.part(start, stop) for k, v in columns.items()
    }


def copy_into(columns: Columns, others: Columns) -> None:
    """Overwrite every value with that of ``others``, which have as many in each row."""
    for name, values in columns.items():
        other: Any = others[name]
        if isinstance(values, np.ndarray):
            values[...] = other
            continue
        values.values[...] = other.values
        if isinstance(values, SparseRows):
            values.indices[...] = other.indices


def concatenate(parts: Sequence[Columns]) -> Columns:
    """Events of all parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    joined: Columns = {}
    for name, first in parts[0].items():
        values: list[Any] = [part[name] for part in parts]
        joined[name] = (
            np.concatenate(values) if isinstance(first, np.ndarray) else type(first).concatenate(values)
        )
    return joined


def count(columns: Columns) -> int:
    """Number of events. Raises ``ValueError`` when fields disagree."""
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"fields have different numbers of rows: {lengths}")
    return next(iter(lengths.values()))


def nbytes(columns: Columns) -> int:
    """Bytes of all arrays."""
    return sum(values.nbytes for values in columns.values())


def row_bytes(columns: Columns) -> Array:
    """Bytes that each event takes on disk, int64 (n,)."""
    total = np.zeros(count(columns), dtype=np.int64)
    for values in columns.values():
        if isinstance(values, SparseRows):
            total += 8 + values.counts * (values.indices.itemsize + values.values.itemsize)
        elif isinstance(values, RaggedRows):
            total += 8 + values.counts * values.values.itemsize * math.prod(values.values.shape[1:])
        else:
            total += values.itemsize * math.prod(values.shape[1:])
    return total


LONG_ROW = 48
"""Items from which copying a row as one slice is faster than gathering its items one by one."""


def _gather(parts: Sequence[tuple[Any, Array]]) -> Any:
    """Rows of one field."""
    kind = type(parts[0][0])
    if kind is np.ndarray:
        return np.concatenate([values[rows] for values, rows in parts])
    bounds = [(values.offsets[rows], values.offsets[rows + 1]) for values, rows in parts]
    offsets = offsets_of(np.concatenate([stops - starts for starts, stops in bounds]))
    pick = _slices if offsets[-1] >= LONG_ROW * (len(offsets) - 1) > 0 else _items

    def items(name: str) -> Array:
        arrays = [getattr(values, name) for values, _ in parts]
        return pick(arrays, bounds).reshape(int(offsets[-1]), *arrays[0].shape[1:])

    if kind is SparseRows:
        return SparseRows(offsets, items("indices"), items("values"))
    return RaggedRows(offsets, items("values"))


def _slices(arrays: Sequence[Array], bounds: Sequence[tuple[Array, Array]]) -> Array:
    """The items of each array between each of its starts and its stop, copied row by row."""
    width = arrays[0].itemsize * math.prod(arrays[0].shape[1:])
    pieces: list[memoryview] = []
    for array, (starts, stops) in zip(arrays, bounds, strict=True):
        # Python joins slices of bytes in half the time that numpy takes to concatenate slices of an array.
        whole = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        pieces += map(whole.__getitem__, map(slice, (starts * width).tolist(), (stops * width).tolist()))
    return np.frombuffer(bytearray().join(pieces), dtype=arrays[0].dtype)


def _items(arrays: Sequence[Array], bounds: Sequence[tuple[Array, Array]]) -> Array:
    """The same, gathered one by one."""
    taken = []
    for array, (starts, stops) in zip(arrays, bounds, strict=True):
        offsets = offsets_of(stops - starts)
        taken.append(array[np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], stops - starts)])
    found: Array = np.concatenate(taken)
    return found
