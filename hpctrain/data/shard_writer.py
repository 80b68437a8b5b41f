"""Writing shards: events stream in, whole files come out, ``dataset.json`` last.

``docs/data.md`` is the specification. A shard is built in memory and reaches the disk in one write, so it is
either there with the checksums that ``dataset.json`` gives or not there at all.
"""

import contextlib
import copy
import fcntl
import json
import os
import re
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from pydantic import ValidationError

from hpctrain.data import schema
from hpctrain.data.checksums import BLOCK_ROWS
from hpctrain.data.columns import Columns, concatenate, count, part, row_bytes
from hpctrain.data.schema import DatasetInfo, Fields, ShardInfo, first_problem
from hpctrain.data.shard_file import Compression, check_compression, write_shard
from hpctrain.errors import UserError
from hpctrain.files import as_user_error, write_json

_LOCK = ".writing"


class ShardWriter:
    """Streams events into shards; ``dataset.json`` is written last, on a clean exit.

    A shard ends at ``events_per_shard`` events or ``shard_bytes`` bytes, whichever comes first, so memory is
    bounded by a few shards and the largest piece appended. ``provenance`` and ``scale`` may be filled until the
    writer is closed. What a writer left there that did not finish is removed before the first shard is written.
    Raises ``UserError`` when ``directory`` holds a dataset or is being written by another.
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
        check_compression(compression)
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
        self._clear()

    def _clear(self) -> None:
        """Remove what a writer left that did not finish: no ``dataset.json`` will name it."""
        if self._shards:
            return
        for path in self.directory.iterdir():
            if re.fullmatch(r"shard-\d{5,}\.h5|\.(shard-\d{5,}\.h5|dataset\.json)\..*\.tmp", path.name):
                try:
                    path.unlink()
                except OSError as error:
                    self._release()
                    raise as_user_error(error, path) from error

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
