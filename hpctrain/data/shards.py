"""Shards: HDF5 files of events beside a ``dataset.json``. Written once, whole, never changed.

``docs/data.md`` is the specification. A shard is built in memory and reaches the disk in one write, so it is
either there with the checksums that ``dataset.json`` gives or not there at all.
"""

import contextlib
import copy
import fcntl
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from pydantic import ValidationError

from hpctrain.data import schema
from hpctrain.data.checksums import BLOCK_ROWS
from hpctrain.data.columns import (
    Array,
    Columns,
    RaggedRows,
    SparseRows,
    concatenate,
    count,
    part,
    row_bytes,
    take,
)
from hpctrain.data.schema import (
    DatasetInfo,
    DenseField,
    Fields,
    RaggedField,
    ShardInfo,
    SparseField,
    first_problem,
)
from hpctrain.data.shard_file import Compression, ShardFile, read_shard, write_shard
from hpctrain.errors import UserError
from hpctrain.files import as_user_error, write_json

__all__ = [
    "DenseField",
    "RaggedField",
    "RaggedRows",
    "ShardDataset",
    "ShardWriter",
    "SparseField",
    "SparseRows",
    "read_shard",
    "write_shard",
]

_LOCK = ".writing"


class ShardWriter:
    """Streams events into shards; ``dataset.json`` is written last, on a clean exit.

    A shard ends at ``events_per_shard`` events or ``shard_bytes`` bytes, whichever comes first, so memory is
    bounded by a few shards and the largest piece appended. ``provenance`` and ``scale`` may be filled until the
    writer is closed. Raises ``UserError`` when ``directory`` holds a dataset or is being written by another.
    """

    def __init__(
        self,
        directory: Path,
        fields: Fields,
        *,
        provenance: dict[str, Any] | None = None,
        scale: dict[str, Any] | None = None,
        events_per_shard: int = 2**16,
        shard_bytes: int = 64 * 2**20,
        compression: Compression = "none",
    ) -> None:
        if (directory / "dataset.json").exists():
            raise UserError(f"{directory} already holds a dataset", hint="Delete it or write elsewhere")
        self.directory = directory
        self.fields = fields
        self.provenance = {} if provenance is None else provenance
        self.scale = {} if scale is None else scale
        self.events_per_shard = events_per_shard
        self.shard_bytes = shard_bytes
        self.compression = compression
        self._pending: list[Columns] = []
        self._events = 0
        self._bytes = 0
        self._shards: list[ShardInfo] = []
        self._lock: IO[str] | None = None
        self._closed: DatasetInfo | None = None
        self._torn = False
        """Whether an append failed half-way."""
        self._document()  # what cannot be written is refused before there are events

    def append(self, columns: Columns) -> None:
        """Add events; full shards are written at once."""
        if not schema.check(columns, self.fields, str(self.directory)):
            return
        self._claim()
        self._torn = True
        start, events = 0, count(columns)
        size = row_bytes(columns)
        while start < events:
            # Where a shard ends depends on the events alone, not on the pieces in which they come.
            seen = self._events + np.arange(1, events - start + 1)
            reached = self._bytes + np.cumsum(size[start:])
            full = (seen == self.events_per_shard) | (
                (seen % BLOCK_ROWS == 0) & (reached >= self.shard_bytes)
            )
            stop = start + int(full.argmax()) + 1 if full.any() else events
            self._pending.append(
                copy.deepcopy(part(columns, start, stop))
            )  # the caller may use its arrays again
            self._events = int(seen[stop - start - 1])
            self._bytes = int(reached[stop - start - 1])
            start = stop
            if full.any():
                self._write()
        self._torn = False

    def _claim(self) -> None:
        """Keep other writers away from the directory, for as long as this process lives."""
        if self._lock is not None:
            return
        path = self.directory / _LOCK
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            stream = path.open("w")
        except OSError as error:
            raise as_user_error(error, path) from error
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = _is_at(stream, path)
        except BlockingIOError:
            alone = False
        except OSError:
            alone = True  # a file system without locks: one writer a directory is then up to the user
        if not alone:
            stream.close()
            raise UserError(
                f"another process is writing a dataset into {self.directory}",
                hint="Give each writer a directory of its own, then join them: `hpctrain data merge`",
            )
        self._lock = stream
        if (self.directory / "dataset.json").exists():  # another finished between our look and our lock
            self._release()
            raise UserError(f"{self.directory} already holds a dataset", hint="Delete it or write elsewhere")

    def _release(self) -> None:
        if self._lock is not None:
            with contextlib.suppress(OSError):
                Path(self._lock.name).unlink()
            self._lock.close()
            self._lock = None

    def _write(self) -> None:
        columns = concatenate(self._pending)
        path = self.directory / f"shard-{len(self._shards):05d}.h5"
        self._shards.append(write_shard(path, self.fields, columns, compression=self.compression))
        self._pending, self._events, self._bytes = [], 0, 0

    def close(self) -> DatasetInfo:
        """Write what is left and ``dataset.json``; may be called again after an error, once its cause is gone."""
        if self._closed is not None:
            return self._closed
        if self._torn:
            raise UserError(
                f"{self.directory}: not all events that were given could be written",
                hint="Write the dataset again",
            )
        self._claim()
        try:
            if self._events:
                self._write()
            self._closed, document = self._document()
            write_json(self.directory / "dataset.json", document)
        except BaseException:
            self._closed = None
            raise
        finally:
            self._release()
        return self._closed

    def _document(self) -> tuple[DatasetInfo, Any]:
        """What ``dataset.json`` says, checked and as JSON."""
        try:
            info = DatasetInfo(
                events=sum(shard.events for shard in self._shards),
                fields=dict(self.fields),
                shards=tuple(self._shards),
                provenance=self.provenance,
                scale=self.scale,
            )
            document = info.model_dump(mode="json")
            json.dumps(document, allow_nan=False, ensure_ascii=False).encode()
        except ValidationError as error:
            raise UserError(f"{self.directory}: {first_problem(error)}") from error
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(
                f"{self.directory}: provenance or scale is not JSON: {error}",
                hint="Give text, finite numbers, lists and mappings; of numpy's, .item() and .tolist()",
            ) from error
        return info, document

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._release()


def _is_at(stream: IO[str], path: Path) -> bool:
    """Whether a file that is open is still the one of that name: its writer may have ended and taken it away."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


class ShardDataset:
    """Reads a shard directory: any rows of any fields, each held to its checksum.

    Keeps the files used last open. Threads may read at the same time; a forked process opens its own.
    """

    OPEN_FILES = 1024

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
            except OSError as error:
                raise UserError(
                    f"shard {path} is missing",
                    hint="Copy it again from where it came, or make the dataset again",
                ) from error
            if size != shard.bytes:
                raise UserError(
                    f"shard {path} is not what was written ({size} bytes, {shard.bytes} were written)",
                    hint="Copy it again from where it came, or make the dataset again",
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
        """Events ``start`` to ``stop``: one long read of each array of each shard."""
        wanted = list(self.fields) if names is None else list(names)
        return concatenate(
            [self._shard(shard).read(low, high, wanted) for shard, low, high in self._pieces(start, stop)]
        )

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """(shard, first row in it, past the last row in it) of the shards that hold events ``start`` to ``stop``."""
        if not 0 <= start < stop <= self.events:
            raise IndexError(f"rows {start} to {stop} must lie in 0 to {self.events}")
        shard = int(np.searchsorted(self._starts, start, side="right")) - 1
        while start < stop:
            begin, end = int(self._starts[shard]), int(self._starts[shard + 1])
            if start < end:
                yield shard, start - begin, min(stop, end) - begin
            start, shard = max(start, end), shard + 1

    def counts(self, start: int, stop: int, name: str) -> Any:
        """Items (or stored cells) that events ``start`` to ``stop`` have in a ragged (sparse) field, int64; no values are read."""
        return np.concatenate(
            [self._shard(shard).counts(low, high, name) for shard, low, high in self._pieces(start, stop)]
        )

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
        parts = [self.read_range(int(a), int(b), names) for a, b in zip(starts, stops, strict=True)]
        places = np.concatenate([[0], np.cumsum(stops - starts)])
        run_of_row = np.searchsorted(starts, rows, side="right") - 1
        return take(concatenate(parts), rows - starts[run_of_row] + places[run_of_row])

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
                if len(self._open) > self.OPEN_FILES:
                    # It closes with its last user: another thread may be reading from it.
                    self._open.popitem(last=False)
            self._open.move_to_end(number)
            return self._open[number]
