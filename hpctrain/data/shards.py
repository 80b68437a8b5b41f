"""Reading shards: HDF5 files of events beside a ``dataset.json``. Written once, whole, never changed.

``docs/data.md`` is the specification, ``shard_writer`` what writes them.
"""

import os
import resource
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpctrain.data.checksums import BLOCK_ROWS
from hpctrain.data.columns import Array, Columns, part, take
from hpctrain.data.schema import DatasetInfo, Fields, no_events
from hpctrain.data.shard_file import CURE, ShardFile
from hpctrain.data.stretch import room
from hpctrain.errors import UserError


class ShardDataset:
    """Reads a shard directory: any rows of any fields, each held to its checksum.

    Keeps the files used last open. Threads may read at the same time; a forked process opens its own.
    """

    OPEN_FILES = 1024
    """At most, and at most a quarter of what the process may open (``ulimit -n``): it reads other datasets, too."""

    def __init__(self, directory: Path, info: DatasetInfo) -> None:
        self.directory = directory
        self.info = info
        self._starts = np.concatenate([[0], np.cumsum([shard.events for shard in info.shards])]).astype(
            np.int64
        )
        self._forget()

    def _forget(self) -> None:
        """Begin with no file open."""
        self._open: OrderedDict[int, ShardFile] = OrderedDict()
        self._opening = threading.Lock()
        self._process = os.getpid()

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.directory, self.info)

    @classmethod
    def open(cls, directory: Path) -> "ShardDataset":
        """Open a directory that a ``ShardWriter`` closed. Raises ``UserError`` (missing or truncated shards too)."""
        info = DatasetInfo.read(directory)
        for shard in info.shards:
            path = directory / shard.file
            try:
                size = path.stat().st_size
            except FileNotFoundError as error:
                raise UserError(f"shard {path} is missing", hint=CURE) from error
            except OSError as error:
                raise UserError(f"cannot read shard {path}: {error.strerror}", hint=CURE) from error
            if size != shard.bytes:
                raise UserError(
                    f"shard {path} is not what was written ({size} bytes, {shard.bytes} were written)",
                    hint=CURE,
                )
        return cls(directory, info)

    def __len__(self) -> int:
        return self.info.events

    @property
    def events(self) -> int:
        return self.info.events

    @property
    def fields(self) -> Fields:
        return self.info.fields

    @property
    def provenance(self) -> dict[str, Any]:
        return self.info.provenance

    @property
    def scale(self) -> dict[str, Any]:
        return self.info.scale

    @property
    def row_bytes(self) -> float:
        """Mean size of an event in memory, over a few of the shards: on disk they may be compressed."""
        shards = range(0, len(self.info.shards), max(1, len(self.info.shards) // 8))
        events = sum(self.info.shards[number].events for number in shards)
        return sum(self._shard(number).nbytes for number in shards) / max(1, events)

    def read_range(self, start: int, stop: int, names: Sequence[str] | None = None) -> Columns:
        """Events ``start`` to ``stop``: one long read of each array of each shard. There may be none."""
        return self.read_ranges([(start, stop)], names)

    def read_ranges(self, ranges: Sequence[tuple[int, int]], names: Sequence[str] | None = None) -> Columns:
        """Events of all ``ranges`` (start, stop), one after the other: read where they stay, nothing is copied."""
        fields = {name: self.fields[name] for name in (self.fields if names is None else names)}
        pieces = [piece for start, stop in ranges for piece in self._pieces(start, stop)]
        if not pieces:
            return no_events(fields)
        # Shards by number, not open: there may be more of them than files may be.
        measured = [
            (shard, self._shard(shard).measure(low, high, list(fields))) for shard, low, high in pieces
        ]
        columns = room(fields, [stretch for _, stretch in measured])
        place = 0
        for shard, stretch in measured:
            self._shard(shard).fill(part(columns, place, place + len(stretch)), stretch)
            place += len(stretch)
        return columns

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """(shard, first row in it, past the last row in it) of the shards that hold events ``start`` to ``stop``."""
        if not 0 <= start <= stop <= self.events:
            raise IndexError(f"rows {start} to {stop} must lie in 0 to {self.events}")
        shard = int(np.searchsorted(self._starts, start, side="right")) - 1
        while start < stop:
            begin, end = int(self._starts[shard]), int(self._starts[shard + 1])
            if start < end:
                yield shard, start - begin, min(stop, end) - begin
            start, shard = max(start, end), shard + 1

    def counts(self, start: int, stop: int, name: str) -> Any:
        """Items (or stored cells) that events ``start`` to ``stop`` have in a ragged (sparse) field, int64; no values are read."""
        found = [np.zeros(0, dtype=np.int64)]
        for shard, low, high in self._pieces(start, stop):
            found.append(self._shard(shard).measure(low, high, [name]).counts(name))
        return np.concatenate(found)

    def read(self, rows: Array, names: Sequence[str] | None = None) -> Columns:
        """The events ``rows`` (int (n,), any order, repeats allowed), in that order."""
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) == 0 or rows.min() < 0 or rows.max() >= self.events:
            raise IndexError(f"rows must be some of 0 to {self.events - 1}")
        # Neighbouring blocks are read in one piece.
        blocks = np.unique(rows // BLOCK_ROWS)
        runs = np.split(blocks, np.flatnonzero(np.diff(blocks) > 1) + 1)
        starts = np.array([run[0] for run in runs]) * BLOCK_ROWS
        stops = np.minimum((np.array([run[-1] for run in runs]) + 1) * BLOCK_ROWS, self.events)
        columns = self.read_ranges(list(zip(starts.tolist(), stops.tolist(), strict=True)), names)
        places = np.concatenate([[0], np.cumsum(stops - starts)])
        run_of_row = np.searchsorted(starts, rows, side="right") - 1
        return take(columns, rows - starts[run_of_row] + places[run_of_row])

    def column(self, name: str) -> Any:
        """One field of every event, in order."""
        return self.read_range(0, self.events, [name])[name]

    def chunks(self, names: Sequence[str], events: int = 2**16) -> Iterator[Any]:
        """The fields named of all events, so many at a time: what no memory need hold at once."""
        for start in range(0, self.events, events):
            yield self.read_range(start, min(start + events, self.events), names)

    def describe(self) -> str:
        """One line for logs."""
        return f"{self.directory}: {self.events} events in {len(self.info.shards)} shards"

    def _shard(self, number: int) -> ShardFile:
        if self._process != os.getpid():
            self._forget()  # the parent's: HDF5 files do not survive a fork, nor do locks
        with self._opening:
            if number not in self._open:
                info = self.info.shards[number]
                self._open[number] = ShardFile(self.directory / info.file, self.fields, info)
                while len(self._open) > min(self.OPEN_FILES, _quarter_of_files()):
                    # It closes with its last user: another thread may be reading from it.
                    self._open.popitem(last=False)
            self._open.move_to_end(number)
            return self._open[number]


def _quarter_of_files() -> int:
    """A quarter of the files that this process may have open at once."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if allowed == resource.RLIM_INFINITY else max(1, allowed // 4)
