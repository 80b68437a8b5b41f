"""Puts events in the order of their places with bounded memory: a distribution sort through files on disk.

Pieces of events arrive in any order, each event with the *place* it shall have. As long as all of them fit in
memory they are sorted there. Otherwise they are dealt to files of neighbouring places, which are then done one
after the other in the same way; 32 MiB in memory and 256 files a level reach 8 GiB with one pass through the
disk, 2 TiB with two.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hpctrain.data.columns import Columns, RaggedRows, SparseRows, concatenate, nbytes, part, take
from hpctrain.errors import InternalError
from hpctrain.files import as_user_error

PLACE = "_place"
"""The column of places; a field's name begins with a letter, so none is called so."""
MEMORY = 32 * 2**20
"""Bytes of events sorted at a time; the process holds up to four times as many."""
FILES = 256

Ints = NDArray[np.int64]


def in_order(
    pieces: Iterable[Columns], start: int, stop: int, event_bytes: float, folder: Path, memory: int = MEMORY
) -> Iterator[Columns]:
    """The events of ``pieces`` from place ``start`` to ``stop``, each place once, without the column ``PLACE``.

    ``event_bytes`` is the mean size of an event. Files in ``folder`` are deleted as soon as they were read, so
    that they and what the caller writes never take more than the events once, and one file.
    Raises ``UserError`` when the disk is full.
    """
    if (stop - start) * event_bytes <= memory or stop - start <= 1:
        held = list(pieces)
        if held:
            yield _sorted(held, start, stop)
        return
    count = min(FILES, stop - start, int(-(-(stop - start) * event_bytes // memory)))
    edges = start + (stop - start) * np.arange(count + 1) // count
    files = _Files(folder, edges)
    files.deal(pieces, memory)
    for number, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        yield from in_order(files.read(number), low, high, event_bytes, folder / str(number), memory)
        files.drop(number)


def _sorted(pieces: list[Columns], start: int, stop: int) -> Columns:
    columns = concatenate(pieces)
    pieces.clear()  # the caller's list: room for the copy that follows
    place: Any = columns.pop(PLACE)
    order = np.argsort(place)
    if not np.array_equal(place[order], np.arange(start, stop)):
        raise InternalError(f"places {start} to {stop} are not all there once: {len(place)} events came")
    return take(columns, order)


class _Files:
    """One file for the events between each two ``edges``."""

    def __init__(self, folder: Path, edges: Ints) -> None:
        self.folder = folder
        self.edges = edges
        self._like: Columns = {}

    def deal(self, pieces: Iterable[Columns], memory: int) -> None:
        """Write each event to its file, as many at a time as ``memory`` bytes hold."""
        held: list[Columns] = []
        size = 0
        for piece in pieces:
            held.append(piece)
            size += nbytes(piece)
            if size >= memory:
                self._write(held)
                held, size = [], 0
        if held:
            self._write(held)

    def _write(self, held: list[Columns]) -> None:
        columns = concatenate(held)
        held.clear()
        place: Any = columns[PLACE]
        order = np.argsort(place)
        columns, bounds = take(columns, order), np.searchsorted(place[order], self.edges)
        self._like = part(columns, 0, 0)
        for number, (low, high) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
            if low == high:
                continue
            path = self._path(number)
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with path.open("ab") as stream:
                    for array in _arrays(part(columns, low, high)):
                        np.save(stream, array, allow_pickle=False)
            except OSError as error:
                raise as_user_error(error, path) from error

    def read(self, number: int) -> Iterator[Columns]:
        """The pieces in a file, in the order in which they were written."""
        try:
            stream = self._path(number).open("rb")
        except FileNotFoundError:
            return
        with stream:
            end = stream.seek(0, 2)
            stream.seek(0)
            while stream.tell() < end:
                yield {name: _load(stream, values) for name, values in self._like.items()}

    def drop(self, number: int) -> None:
        self._path(number).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # of the files one level down
            (self.folder / str(number)).rmdir()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number}.events"


def _arrays(columns: Columns) -> Iterator[NDArray[Any]]:
    for values in columns.values():
        if isinstance(values, SparseRows):
            yield from (values.offsets, values.indices, values.values)
        elif isinstance(values, RaggedRows):
            yield from (values.offsets, values.values)
        else:
            yield values


def _load(stream: IO[bytes], like: Any) -> Any:
    if isinstance(like, SparseRows):
        return SparseRows(np.load(stream), np.load(stream), np.load(stream))
    if isinstance(like, RaggedRows):
        return RaggedRows(np.load(stream), np.load(stream))
    return np.load(stream)
