"""Shards: HDF5 files of events beside a ``dataset.json``. Written once, whole, never changed.

A shard is built in memory and reaches the disk in one write, so it is either there with the checksum that
``dataset.json`` gives or not there at all. Reading checks the checksum the first time a shard is opened.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np

from hpctrain.data import schema
from hpctrain.data.columns import Array, Columns, SparseRows, concatenate, take
from hpctrain.data.schema import DatasetInfo, DenseField, Fields, ShardInfo, SparseField
from hpctrain.errors import UserError
from hpctrain.files import write_atomically, write_json

__all__ = [
    "DenseField",
    "ShardDataset",
    "ShardWriter",
    "SparseField",
    "SparseRows",
    "read_shard",
    "write_shard",
]


def write_shard(path: Path, fields: Fields, columns: Columns) -> ShardInfo:
    """Write events as one HDF5 file, whole or not at all. Raises ``UserError`` (schema, full disk)."""
    events = schema.check(columns, fields, str(path))
    with h5py.File(path.name, "w", driver="core", backing_store=False, track_order=True) as file:
        for name in fields:
            values = columns[name]
            if isinstance(values, SparseRows):
                group = file.create_group(name)
                group["offsets"] = values.offsets.astype(np.int64)
                group["indices"] = values.indices
                group["values"] = values.values
            else:
                file[name] = values
        file.flush()
        image = file.id.get_file_image()
    write_atomically(path, image)
    return ShardInfo(
        file=path.name, events=events, bytes=len(image), sha256=hashlib.sha256(image).hexdigest()
    )


def read_shard(path: Path, info: ShardInfo | None = None, names: Sequence[str] | None = None) -> Columns:
    """All events of a shard; with ``info`` its size and checksum are checked first.

    Raises ``UserError`` when the file is missing, changed, truncated or not HDF5.
    """
    hint = "Copy it again from where it came, or generate the dataset again"
    try:
        image = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read shard {path}: {error.strerror}", hint=hint) from error
    if info is not None and hashlib.sha256(image).hexdigest() != info.sha256:
        size = "" if len(image) == info.bytes else f" ({len(image)} bytes, {info.bytes} were written)"
        raise UserError(f"shard {path} is not what was written{size}: its checksum differs", hint=hint)
    columns: Columns = {}
    try:
        # The image just checked is what is read: the file on disk may change meanwhile, our bytes do not.
        with h5py.File.in_memory(image) as file:
            for name in names if names is not None else list(file):
                item = file[name]
                if isinstance(item, h5py.Group):
                    columns[name] = SparseRows(item["offsets"][:], item["indices"][:], item["values"][:])
                else:
                    columns[name] = item[()]
    except (OSError, KeyError, RuntimeError) as error:
        raise UserError(f"shard {path} is not a readable HDF5 shard: {error}", hint=hint) from error
    return columns


class ShardWriter:
    """Streams events into shards of ``events_per_shard``; ``dataset.json`` is written last, on a clean exit.

    Memory is bounded by one shard and the largest piece appended. Raises ``UserError`` when ``directory``
    already holds a dataset.
    """

    def __init__(
        self,
        directory: Path,
        fields: Fields,
        *,
        provenance: dict[str, Any] | None = None,
        scale: dict[str, Any] | None = None,
        events_per_shard: int = 2048,
    ) -> None:
        if (directory / "dataset.json").exists():
            raise UserError(f"{directory} already holds a dataset", hint="Delete it or write elsewhere")
        self.directory = directory
        self.fields = fields
        self.provenance = provenance or {}
        self.scale = scale or {}
        self.events_per_shard = events_per_shard
        self._pending: list[Columns] = []
        self._events = 0
        self._shards: list[ShardInfo] = []

    def append(self, columns: Columns) -> None:
        """Add events; full shards are written at once."""
        self._events += schema.check(columns, self.fields, str(self.directory))
        self._pending.append(columns)
        while self._events >= self.events_per_shard:
            self._write(self.events_per_shard)

    def _write(self, events: int) -> None:
        joined = concatenate(self._pending)
        path = self.directory / f"shard-{len(self._shards):05d}.h5"
        self._shards.append(write_shard(path, self.fields, take(joined, np.arange(events))))
        self._events -= events
        self._pending = [take(joined, np.arange(events, events + self._events))] if self._events else []

    def close(self) -> DatasetInfo:
        """Write what is left and ``dataset.json``."""
        if self._events:
            self._write(self._events)
        info = DatasetInfo(
            events=sum(shard.events for shard in self._shards),
            fields=dict(self.fields),
            shards=tuple(self._shards),
            provenance=self.provenance,
            scale=self.scale,
        )
        write_json(self.directory / "dataset.json", info.model_dump(mode="json"))
        return info

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()


class ShardDataset:
    """Reads a shard directory. Keeps the shards used last in memory, up to ``cache_bytes``."""

    def __init__(self, directory: Path, info: DatasetInfo, cache_bytes: int = 512 * 2**20) -> None:
        self.directory = directory
        self.info = info
        self._starts = np.concatenate([[0], np.cumsum([shard.events for shard in info.shards])])
        self._cache: OrderedDict[int, Columns] = OrderedDict()
        self._cache_bytes = cache_bytes

    @classmethod
    def open(cls, directory: Path) -> "ShardDataset":
        """Open a directory that a ``ShardWriter`` closed. Raises ``UserError``."""
        info = DatasetInfo.read(directory)
        for shard in info.shards:
            if not (directory / shard.file).is_file():
                raise UserError(
                    f"shard {directory / shard.file} is missing", hint="Generate the dataset again"
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

    def read(self, rows: Array, names: Sequence[str] | None = None) -> Columns:
        """The events ``rows`` (int (n,), any order, repeats allowed), in that order."""
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) == 0 or rows.min() < 0 or rows.max() >= self.events:
            raise IndexError(f"rows must be some of 0 to {self.events - 1}")
        wanted = list(self.fields) if names is None else list(names)
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(owner, kind="stable")
        parts = []
        for shard in np.unique(owner):
            mine = rows[order][owner[order] == shard] - self._starts[shard]
            columns = self._shard(int(shard))
            parts.append(take({name: columns[name] for name in wanted}, mine))
        back = np.empty(len(rows), dtype=np.int64)
        back[order] = np.arange(len(rows))
        return take(concatenate(parts), back)

    def column(self, name: str) -> Any:
        """One field of every event, in order."""
        return self.read(np.arange(self.events), [name])[name]

    def describe(self) -> str:
        """One line for logs."""
        return f"{self.directory}: {self.events} events in {len(self.info.shards)} shards"

    def _shard(self, number: int) -> Columns:
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        info = self.info.shards[number]
        path = self.directory / info.file
        columns = read_shard(path, info)
        if schema.check(columns, self.fields, str(path)) != info.events:
            raise UserError(
                f"shard {path} does not hold {info.events} events", hint="Generate the dataset again"
            )
        self._cache[number] = columns
        while len(self._cache) > 1 and sum(map(_bytes, self._cache.values())) > self._cache_bytes:
            self._cache.popitem(last=False)
        return columns


def _bytes(columns: Columns) -> int:
    return sum(
        v.offsets.nbytes + v.indices.nbytes + v.values.nbytes if isinstance(v, SparseRows) else v.nbytes
        for v in columns.values()
    )
