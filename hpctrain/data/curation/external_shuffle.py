"""Events put into any order with bounded memory: first to the bucket of their place, then sorted bucket by bucket.

The classical distribution shuffle: a dataset larger than memory is read once in its own order, written once to
files that each hold a range of places, and each of these is sorted in memory. What fits in memory stays there.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hpctrain.data import checksums
from hpctrain.data.columns import (
    Array,
    Columns,
    RaggedRows,
    Rows,
    SparseRows,
    concatenate,
    index_dtype,
    nbytes,
    offsets_of,
    part,
    take,
)
from hpctrain.data.schema import DenseField, Fields
from hpctrain.errors import InternalError, UserError
from hpctrain.files import as_user_error

_PLACE = "_place"  # no field may be called so
_PIECE = 2**24
_PARTS = {"dense": ("",), "sparse": ("/offsets", "/indices", "/values"), "ragged": ("/offsets", "/values")}

Ints = NDArray[np.int64]


class ExternalShuffle:
    """Takes events with the place of each, 0 to ``events``, and gives them back in the order of their places.

    ``total_bytes`` is what all events take in memory; ``memory`` bounds what is held at once. More than a third
    of that goes through files in ``folder``, removed as they are read.
    """

    def __init__(self, folder: Path, fields: Fields, events: int, total_bytes: int, memory: int) -> None:
        self.folder = folder
        self.events = events
        self.fields = {**fields, _PLACE: DenseField(dtype="int64")}
        # Events are held thrice while they are sorted: in pieces, in one, and in order.
        self._limit = max(1, memory // 3)
        buckets = max(1, math.ceil((total_bytes + 8 * events) / self._limit))
        self._bucket = max(1, math.ceil(events / buckets))
        self._pending: list[Columns] = []
        self._given = 0
        self._held = 0
        self._spilled = False

    def add(self, columns: Columns, places: Ints) -> None:
        """Events, and where each belongs. Raises ``UserError`` when the disk is full."""
        piece: Columns = {**columns, _PLACE: np.asarray(places, dtype=np.int64)}
        self._pending.append(piece)
        self._held += nbytes(piece)
        if self._held > self._limit:
            self._spill()

    def pieces(self) -> Iterator[Columns]:
        """All events in order, some 16 MiB at a time; can be gone through once.

        Raises ``InternalError`` when a place was given twice or never.
        """
        if not self._spilled:
            yield from self._sorted(self._pending)
            self._complete(self.events)
            return
        self._spill()
        for path in sorted(self.folder.glob("bucket-*")):
            blocks = list(self._read(path))
            path.unlink()
            yield from self._sorted(blocks)
        self._complete(self.events)

    def _sorted(self, blocks: list[Columns]) -> Iterator[Columns]:
        if not blocks:
            return
        columns = concatenate(blocks)
        blocks.clear()
        places = columns.pop(_PLACE)
        if not isinstance(places, np.ndarray):
            raise TypeError("places are an array")
        order = np.argsort(places)
        if not np.array_equal(places[order], np.arange(self._given, self._given + len(order))):
            self._complete(-1)
        self._given += len(order)
        rows = max(1, _PIECE * len(order) // max(1, nbytes(columns)))
        for start in range(0, len(order), rows):
            yield take(columns, order[start : start + rows])

    def _complete(self, events: int) -> None:
        if self._given != events:
            raise InternalError(f"not all of {self.events} places are taken once (after {self._given})")

    def _spill(self) -> None:
        """Write what is held behind what each bucket has."""
        if not self._pending:
            return
        columns = concatenate(self._pending)
        self._pending, self._held, self._spilled = [], 0, True
        places: Any = columns[_PLACE]
        bucket = places // self._bucket
        order = np.argsort(bucket, kind="stable")
        columns = take(columns, order)
        numbers, starts = np.unique(bucket[order], return_index=True)
        for number, start, stop in zip(numbers, starts, [*starts[1:], len(order)], strict=True):
            path = self.folder / f"bucket-{number:08d}"
            try:
                self.folder.mkdir(exist_ok=True)
                with path.open("ab") as stream:
                    self._write(stream, part(columns, int(start), int(stop)))
            except OSError as error:
                raise as_user_error(error, path) from error

    def _write(self, stream: IO[bytes], columns: Columns) -> None:
        ordered = {name: columns[name] for name in self.fields}
        for _, array, _ in checksums.arrays(ordered):
            for piece in (np.ascontiguousarray(array), _checksum(array)):
                np.save(_Stream(stream), piece, allow_pickle=False)

    def _read(self, path: Path) -> Iterator[Columns]:
        """The blocks of a bucket, held to their checksums: what is written as shards next is what was read."""
        size = path.stat().st_size
        with path.open("rb") as stream:
            while stream.tell() < size:
                columns: Columns = {}
                for name, field in self.fields.items():
                    columns[name] = _rows([_load(stream, path) for _ in _PARTS[field.kind]])
                yield columns


class _Stream:
    """Hides from numpy that it writes to a file: its own way of doing so does not say when a disk is full."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.write = stream.write


def memory_bytes(fields: Fields, events: int, items: dict[str, int]) -> int:
    """Bytes that events take in memory; ``items`` is how many items or cells each ragged or sparse field has."""
    total = 0
    for name, field in fields.items():
        item = np.dtype(field.dtype).itemsize
        size = math.prod(field.shape)
        if field.kind == "dense":
            total += events * item * size
        elif field.kind == "ragged":
            total += 8 * events + items[name] * item * size
        else:
            total += 8 * events + items[name] * (item + index_dtype(size)().itemsize)
    return total


def _checksum(array: Array) -> Array:
    return checksums.checksums(array, np.array([0, len(array)]))


def _load(stream: IO[bytes], path: Path) -> Array:
    try:
        array: Array = np.load(stream, allow_pickle=False)
        same = bool((np.load(stream, allow_pickle=False) == _checksum(array)).all())
    except (OSError, ValueError, EOFError):
        same = False
    if not same:
        raise UserError(
            f"{path} is not what was written a moment ago", hint="Look after that disk, and write elsewhere"
        )
    return array


def _rows(arrays: list[Array]) -> Rows:
    if len(arrays) == 1:
        return arrays[0]
    return RaggedRows(*arrays) if len(arrays) == 2 else SparseRows(*arrays)


def running(ids: Ints, seen: Ints) -> Ints:
    """How many of the same id came before each, ``seen`` of earlier ones included; ``seen`` is brought up to date.

    >>> seen = np.array([10, 0])
    >>> running(np.array([0, 1, 0, 0, 1]), seen).tolist(), seen.tolist()
    ([10, 0, 11, 12, 1], [13, 2])
    """
    counts = np.bincount(ids, minlength=len(seen))
    order = np.argsort(ids, kind="stable")
    within = np.arange(len(ids)) - np.repeat(offsets_of(counts)[:-1], counts)
    numbers = np.empty(len(ids), dtype=np.int64)
    numbers[order] = within
    numbers += seen[ids]
    seen += counts
    return numbers
