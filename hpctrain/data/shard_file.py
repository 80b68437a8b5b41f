"""One shard: an HDF5 file written whole, and read in parts of which each is held to its checksum."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from hpctrain.data import checksums, schema
from hpctrain.data.checksums import BLOCK_ROWS
from hpctrain.data.columns import Array, Columns, RaggedRows, Rows, SparseRows, part
from hpctrain.data.schema import SCHEMA_VERSION, Fields, ShardInfo
from hpctrain.errors import UserError
from hpctrain.files import write_atomically

Compression = Literal["none", "zstd"]
_CHUNK_BYTES = 2**18
_TABLES = "_checksums"
_CURE = "Copy it again from where it came, or make the dataset again"


def write_shard(
    path: Path, fields: Fields, columns: Columns, *, compression: Compression = "none"
) -> ShardInfo:
    """Write events as one HDF5 file, whole or not at all. Raises ``UserError`` (schema, full disk)."""
    events = schema.check(columns, fields, str(path))
    columns = {name: columns[name] for name in fields}
    tables = checksums.tables(columns, events)
    with h5py.File(
        path.name, "w", driver="core", backing_store=False, block_size=2**20, track_order=True
    ) as file:
        file.attrs["schema_version"] = SCHEMA_VERSION
        for name, array, _ in checksums.arrays(columns):
            file.create_dataset(name, data=array, **_storage(array, compression))
        for name, table in tables.items():
            file[f"{_TABLES}/{name}"] = table
        file.flush()
        image = file.id.get_file_image()
    write_atomically(path, image)
    return ShardInfo(
        file=path.name,
        events=events,
        bytes=len(image),
        sha256=hashlib.sha256(image).hexdigest(),
        digest=checksums.digest(tables, events),
    )


def _storage(array: Array, compression: Compression) -> dict[str, Any]:
    if compression == "none" or array.size == 0:
        return {}
    row = max(1, array.nbytes // len(array))
    # A block's rows make a chunk of a dense array, so that no read inflates what it does not want.
    rows = BLOCK_ROWS if array.ndim > 1 else max(BLOCK_ROWS, _CHUNK_BYTES // row)
    return {"chunks": (min(len(array), rows), *array.shape[1:]), "shuffle": True, **_zstd()}


def _zstd() -> Any:
    try:
        import hdf5plugin
    except ImportError as error:
        raise UserError(
            "zstd compression of shards needs hdf5plugin", hint="pip install hdf5plugin"
        ) from error
    return hdf5plugin.Zstd(clevel=3)


class ShardFile:
    """A shard that stays open, of which any rows can be read.

    ``info`` is what the dataset says of the shard. Its table of checksums is held to ``info.digest`` once, each
    block that is read to its checksum in the table.
    """

    def __init__(self, path: Path, fields: Fields, info: ShardInfo) -> None:
        self.path = path
        self.fields = fields
        self.info = info
        self._offsets: dict[str, NDArray[np.int64]] = {}
        try:
            size = path.stat().st_size
        except OSError as error:
            raise UserError(f"cannot read shard {path}: {error.strerror}", hint=_CURE) from error
        if size != info.bytes:
            raise UserError(
                f"shard {path} is not what was written ({size} bytes, {info.bytes} were written)", hint=_CURE
            )
        try:
            # Locks do not exist on every parallel file system, and a shard is never written again.
            self._file = h5py.File(path, "r", locking=False)
            self._arrays = {path: self._file[path] for path in self._paths()}
            self._lengths = {path: len(array) for path, array in self._arrays.items()}
            self._tables = {path: self._file[f"{_TABLES}/{path}"][:] for path in self._paths()}
        except Exception as error:  # on a damaged file HDF5 raises anything
            raise self._unreadable(error) from error
        if checksums.digest(self._tables, info.events) != info.digest:
            raise UserError(
                f"shard {path} is not what was written: its table of checksums differs", hint=_CURE
            )
        blocks = -(-info.events // BLOCK_ROWS)
        for name, table in self._tables.items():
            if table.shape != (blocks,):
                raise UserError(
                    f"shard {path}: '{_TABLES}/{name}' has the shape {list(table.shape)} for {blocks} blocks",
                    hint=_CURE,
                )

    def _paths(self) -> list[str]:
        """Path in the file of every array that the schema asks for."""
        inside = {
            "dense": ("",),
            "sparse": ("/offsets", "/indices", "/values"),
            "ragged": ("/offsets", "/values"),
        }
        return [f"{name}{end}" for name, field in self.fields.items() for end in inside[field.kind]]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, as they are in memory."""
        return sum(int(array.nbytes) for array in self._arrays.values())

    def read(self, start: int, stop: int, names: Sequence[str]) -> Columns:
        """Rows ``start`` to ``stop`` of the fields named. Raises ``UserError`` when they are not what was written."""
        if not 0 <= start <= stop <= self.info.events:
            raise IndexError(f"rows {start} to {stop} of {self.info.events}")
        first = start // BLOCK_ROWS * BLOCK_ROWS
        last = min(-(-stop // BLOCK_ROWS) * BLOCK_ROWS, self.info.events)
        rows = {name: self._rows(name, first, last) for name in names}
        schema.check(rows, {name: self.fields[name] for name in names}, f"shard {self.path}")
        return part(rows, start - first, stop - first)

    def counts(self, start: int, stop: int, name: str) -> NDArray[np.int64]:
        """Items of rows ``start`` to ``stop`` of a ragged or sparse field."""
        return np.diff(self._all_offsets(name)[start : stop + 1])

    def _rows(self, name: str, first: int, last: int) -> Rows:
        field = self.fields[name]
        if field.kind == "dense":
            return self._read(name, np.append(np.arange(first, last, BLOCK_ROWS), last), first)
        offsets = self._all_offsets(name)
        bounds = offsets[np.append(np.arange(first, last, BLOCK_ROWS), last)]
        values = self._read(f"{name}/values", bounds, first)
        own = offsets[first : last + 1] - offsets[first]
        if field.kind == "ragged":
            return RaggedRows(own, values)
        return SparseRows(own, self._read(f"{name}/indices", bounds, first), values)

    def _all_offsets(self, name: str) -> NDArray[np.int64]:
        """Where each row of a sparse or ragged field begins: read once, whole."""
        if name not in self._offsets:
            path, events = f"{name}/offsets", self.info.events
            bounds = np.append(np.arange(0, events, BLOCK_ROWS), events)
            offsets = self._read(path, bounds, 0, overlap=True)
            problem = schema.offsets_problem(offsets, self._lengths[f"{name}/values"])
            if len(offsets) != events + 1:
                problem = f"has {len(offsets)} offsets for {events} events"
            if problem:
                raise UserError(f"shard {self.path}: field '{name}': {problem}", hint=_CURE)
            self._offsets[name] = offsets
        return self._offsets[name]

    def _read(self, path: str, bounds: Array, first: int, *, overlap: bool = False) -> Array:
        """Items ``bounds[0]`` to ``bounds[-1]`` of an array, checked block by block; ``first`` is the first's row."""
        start, stop = int(bounds[0]), int(bounds[-1]) + int(overlap)
        try:
            array: Array = self._arrays[path][start:stop]
        except Exception as error:
            raise self._unreadable(error, path) from error
        found = checksums.checksums(array, bounds - start, overlap=overlap)
        block = first // BLOCK_ROWS
        wrong = np.flatnonzero(found != self._tables[path][block : block + len(found)])
        if len(array) != stop - start or len(wrong):
            row = first + (int(wrong[0]) if len(wrong) else 0) * BLOCK_ROWS
            raise UserError(
                f"shard {self.path} is not what was written: dataset '{path}' differs near event {row}",
                hint=_CURE,
            )
        return array

    def _unreadable(self, error: Exception, path: str = "") -> UserError:
        where = f": dataset '{path}'" if path else ""
        return UserError(f"shard {self.path} is not a readable HDF5 shard{where}: {error}", hint=_CURE)

    def close(self) -> None:
        self._file.close()


def read_shard(path: Path, fields: Fields, info: ShardInfo, names: Sequence[str] | None = None) -> Columns:
    """All events of a shard. Raises ``UserError`` when the file is missing, changed, truncated or not HDF5."""
    file = ShardFile(path, fields, info)
    try:
        return file.read(0, info.events, list(fields) if names is None else names)
    finally:
        file.close()


def same_file(path: Path, info: ShardInfo) -> bool:
    """Whether every byte of the file is as it was written: size and SHA-256."""
    try:
        if path.stat().st_size != info.bytes:
            return False
        with path.open("rb", buffering=0) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == info.sha256
    except OSError:
        return False
