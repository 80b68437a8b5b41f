"""How the events of one rank lie in its memory: arrays one after the other, as a shard has them in its file."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hpctrain.data.checksums import BLOCK_ROWS
from hpctrain.data.columns import Array, SparseRows, index_dtype
from hpctrain.data.schema import Fields
from hpctrain.data.shards import ShardDataset

READ_BYTES = 2**24
"""Read from disk in one piece while filling."""


@dataclass(frozen=True)
class Stored:
    """One array in the memory of a rank."""

    dtype: str
    shape: tuple[int, ...]
    """Of an item."""
    items: int
    place: int
    """Of its first byte."""

    @property
    def row_bytes(self) -> int:
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)

    def empty(self, items: int) -> Array:
        """Room for so many items."""
        return np.empty((items, *self.shape), dtype=self.dtype)

    def of(self, memory: NDArray[np.uint8]) -> Array:
        """The array itself."""
        whole = memory[self.place : self.place + self.items * self.row_bytes]
        return whole.view(self.dtype).reshape(self.items, *self.shape)


@dataclass(frozen=True)
class Part:
    """The events ``start`` to ``stop`` in the memory of one rank: its arrays, one after the other."""

    start: int
    stop: int
    arrays: Mapping[str, Stored]
    """By path, as in a shard: ``label``; ``particles/offsets``, ``particles/values``."""
    size: int

    @classmethod
    def measure(cls, dataset: ShardDataset, fields: Fields, start: int, stop: int) -> Self:
        """How much room these events need. Reads offsets only."""
        arrays: dict[str, Stored] = {}
        place = 0
        for name, field in fields.items():
            wanted: list[tuple[str, Any, tuple[int, ...], int]]
            if field.kind == "dense":
                wanted = [(name, field.dtype, field.shape, stop - start)]
            else:
                items = int(dataset.counts(start, stop, name).sum()) if start < stop else 0
                wanted = [(f"{name}/offsets", "int64", (), stop - start + 1)]
                if field.kind == "sparse":
                    wanted.append((f"{name}/indices", index_dtype(math.prod(field.shape)), (), items))
                wanted.append(
                    (f"{name}/values", field.dtype, field.shape if field.kind == "ragged" else (), items)
                )
            for path, dtype, shape, length in wanted:
                arrays[path] = Stored(np.dtype(dtype).str, shape, length, place)
                place += -(-length * arrays[path].row_bytes // 64) * 64
        return cls(start, stop, arrays, place)

    def load(self, dataset: ShardDataset, memory: NDArray[np.uint8]) -> None:
        """Read the events into ``memory``, a piece at a time. Raises ``UserError`` (damaged shards)."""
        arrays = {path: array.of(memory) for path, array in self.arrays.items()}
        filled = dict.fromkeys(arrays, 0)
        for path, array in arrays.items():
            if path.endswith("/offsets"):
                array[0], filled[path] = 0, 1
        names = list(dict.fromkeys(path.split("/")[0] for path in arrays))
        rows = max(1, int(READ_BYTES / max(dataset.row_bytes, 1)) // BLOCK_ROWS) * BLOCK_ROWS
        start = self.start
        while start < self.stop:
            stop = min((start // rows + 1) * rows, self.stop)  # whole blocks: none is read twice
            for name, values in dataset.read_range(start, stop, names).items():
                if isinstance(values, np.ndarray):
                    pieces = {name: values}
                else:
                    offsets = values.offsets[1:] + filled[f"{name}/values"]
                    pieces = {f"{name}/offsets": offsets, f"{name}/values": values.values}
                    if isinstance(values, SparseRows):
                        pieces[f"{name}/indices"] = values.indices
                for path, piece in pieces.items():
                    arrays[path][filled[path] : filled[path] + len(piece)] = piece
                    filled[path] += len(piece)
            start = stop
