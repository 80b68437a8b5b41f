"""One shard: an HDF5 file written whole, and read in parts of which each is held to its checksum."""

import errno
import hashlib
import math
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import h5py
import numpy as np
from numpy.typing import NDArray

from hpctrain.data import checksums, schema
from hpctrain.data.checksums import BLOCK_ROWS
from hpctrain.data.columns import Array, Columns, Rows, SparseRows, copy_into, index_dtype, part
from hpctrain.data.schema import SCHEMA_VERSION, Fields, ShardInfo
from hpctrain.data.stored_array import StoredArray
from hpctrain.data.stretch import Stretch, room
from hpctrain.errors import UserError
from hpctrain.files import write_atomically

Compression = Literal["none", "zstd"]
_CHUNK_BYTES = 2**18
_TABLES = "_checksums"
_INSIDE = {
    "dense": ("",),
    "sparse": ("/offsets", "/indices", "/values"),
    "ragged": ("/offsets", "/values"),
}
"""Kind of a field → what follows its name in the paths of its arrays."""
CURE = "Copy it again from where it came, or make the dataset again"
_CURES = {
    errno.EMFILE: "Let the process open more files (`ulimit -n 4096`)",
    errno.ENFILE: "This machine has too many files open: end what else runs on it",
    errno.EACCES: "Check its permissions (chmod a+r)",
}
"""What else keeps a file from being opened → the cure."""


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


def check_compression(name: str) -> None:
    """Raise ``UserError`` unless shards can be written with a compression of this name, here."""
    known = get_args(Compression)
    if name not in known:
        raise UserError(
            f"shards cannot be written with compression={name!r}",
            hint=f"It may be {' or '.join(known)}; readers take whatever HDF5 reads",
        )
    if name == "zstd":
        _zstd()


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

    ``info`` is what the dataset says of the shard. Its tables of checksums are held to ``info.digest`` once, each
    block that is read to its checksum in a table. Threads may read at the same time.
    """

    def __init__(self, path: Path, fields: Fields, info: ShardInfo) -> None:
        self.path = path
        self.fields = fields
        self.info = info
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            hint = _CURES.get(error.errno or 0, CURE)
            raise UserError(f"cannot read shard {path}: {error.strerror}", hint=hint) from error
        self.close = weakref.finalize(self, os.close, descriptor)
        """Ends with the last user of this object, or at once when called."""
        self._descriptor = descriptor
        size = os.fstat(descriptor).st_size
        if size != info.bytes:
            raise UserError(
                f"shard {path} is not what was written ({size} bytes, {info.bytes} were written)", hint=CURE
            )
        self._arrays: dict[str, StoredArray] = {}
        self._tables: dict[str, NDArray[np.uint64]] = {}
        self._known: set[str] = set()
        """Fields of which the arrays were found to be what the schema says."""
        try:
            self._file = self._look()
        except UserError:
            raise
        except Exception as error:  # on a damaged file HDF5 raises anything
            raise self._unreadable(error) from error
        if checksums.digest(self._tables, info.events) != info.digest:
            raise UserError(
                f"shard {path} is not what was written: its table of checksums differs", hint=CURE
            )

    def _look(self) -> h5py.h5f.FileID | None:
        """Find every array and its table; the HDF5 file, if it takes HDF5 to read some of them."""
        access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
        access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
        # Locks do not exist on every parallel file system, and a shard is never written again.
        access.set_file_locking(False, True)
        file = h5py.h5f.open(os.fsencode(self.path), h5py.h5f.ACC_RDONLY, access)
        keep = False
        try:
            blocks = -(-self.info.events // BLOCK_ROWS)
            for name, field in self.fields.items():
                for path in (f"{name}{end}" for end in _INSIDE[field.kind]):
                    self._arrays[path] = StoredArray(file, path)
                    table = StoredArray(file, f"{_TABLES}/{path}")
                    if table.shape != (blocks,) or table.dtype != np.uint64:
                        raise UserError(
                            f"shard {self.path}: '{_TABLES}/{path}' has the shape {list(table.shape)} of "
                            f"{table.dtype} for {blocks} blocks",
                            hint=CURE,
                        )
                    self._tables[path] = np.empty(blocks, dtype=np.uint64)
                    table.read(self._descriptor, self._tables[path], 0)
            keep = any(array.needs_hdf5 for array in self._arrays.values())
        finally:
            if not keep:
                file.close()
        return file if keep else None

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, as they are in memory."""
        return sum(array.nbytes for array in self._arrays.values())

    def read(self, start: int, stop: int, names: Sequence[str]) -> Columns:
        """Rows ``start`` to ``stop`` of the fields named. Raises ``UserError`` when they are not what was written."""
        stretch = self.measure(start, stop, names)
        rows = room({name: self.fields[name] for name in names}, [stretch])
        self.fill(rows, stretch)
        return rows

    def measure(self, start: int, stop: int, names: Sequence[str]) -> Stretch:
        """Rows ``start`` to ``stop``, to be read later: their offsets in those of the fields named that have any."""
        if not 0 <= start <= stop <= self.info.events:
            raise IndexError(f"rows {start} to {stop} of {self.info.events}")
        first = start // BLOCK_ROWS * BLOCK_ROWS
        last = min(-(-stop // BLOCK_ROWS) * BLOCK_ROWS, self.info.events)
        kept = [name for name in names if self.fields[name].kind != "dense"]
        return Stretch(start, stop, first, last, {name: self._offsets(name, first, last) for name in kept})

    def fill(self, rows: Columns, stretch: Stretch) -> None:
        """Read ``rows``, for which ``room`` was made. Raises ``UserError`` when they are not what was written."""
        for name, own in rows.items():
            if stretch.whole:
                self._fill(name, own, stretch)
                continue
            blocks = stretch.blocks
            around = room({name: self.fields[name]}, [blocks])
            self._fill(name, around[name], blocks)
            copy_into({name: own}, part(around, stretch.start - blocks.start, stretch.stop - blocks.start))

    def _fill(self, name: str, rows: Rows, blocks: Stretch) -> None:
        """The same for one field and whole blocks."""
        self._require_layout(name)
        first, places = blocks.first, _places(blocks.first, blocks.last)
        if isinstance(rows, np.ndarray):
            self._read(name, rows, places, first)
        else:
            bounds = blocks.offsets[name][places - first]
            self._read(f"{name}/values", rows.values, bounds, first)
            if isinstance(rows, SparseRows):
                self._read(f"{name}/indices", rows.indices, bounds, first)
        problem = schema.problem(rows, self.fields[name])
        if problem:
            raise UserError(f"shard {self.path}: field '{name}': {problem}", hint=CURE)

    def _offsets(self, name: str, first: int, last: int) -> NDArray[np.int64]:
        """Where rows ``first`` to ``last``, whole blocks, of a sparse or ragged field begin, and the last one ends."""
        self._require_layout(name)
        events, length = self.info.events, self._arrays[f"{name}/values"].shape[0]
        offsets = np.empty(last - first + 1, dtype=np.int64)
        self._read(f"{name}/offsets", offsets, _places(first, last), first, overlap=True)
        problem = schema.offsets_problem(offsets, length, begin=first == 0, end=last == events)
        if problem:
            raise UserError(f"shard {self.path}: field '{name}': {problem}", hint=CURE)
        return offsets

    def _require_layout(self, name: str) -> None:
        """Raise ``UserError`` unless the arrays of a field have the types and shapes that the schema asks for."""
        if name in self._known:
            return
        field, events = self.fields[name], self.info.events
        own = np.dtype(field.dtype)
        items = None if field.kind == "dense" else self._arrays[f"{name}/values"].shape[0]
        index = np.dtype(index_dtype(math.prod(field.shape)))
        asked: dict[str, tuple[np.dtype[Any], tuple[int | None, ...]]] = {
            "dense": (own, (events, *field.shape)),
            "sparse/values": (own, (items,)),
            "ragged/values": (own, (items, *field.shape)),
            "sparse/offsets": (np.dtype(np.int64), (events + 1,)),
            "ragged/offsets": (np.dtype(np.int64), (events + 1,)),
            "sparse/indices": (index, (items,)),
        }
        for end in _INSIDE[field.kind]:
            dtype, shape = asked[f"{field.kind}{end}"]
            array = self._arrays[f"{name}{end}"]
            if (array.dtype, array.shape) != (dtype, shape):
                raise UserError(
                    f"shard {self.path}: dataset '{name}{end}' is {array.dtype}{list(array.shape)}, "
                    f"for {events} events the schema says {dtype}{list(shape)}",
                    hint=CURE,
                )
        self._known.add(name)

    def _read(self, path: str, into: Array, bounds: Array, first: int, *, overlap: bool = False) -> None:
        """Items ``bounds[0]`` to ``bounds[-1]`` of an array, checked block by block; ``first`` is the first's row."""
        start = int(bounds[0])
        try:
            self._arrays[path].read(self._descriptor, into, start)
        except Exception as error:
            raise self._unreadable(error, path) from error
        found = checksums.checksums(into, bounds - start, overlap=overlap)
        block = first // BLOCK_ROWS
        wrong = np.flatnonzero(found != self._tables[path][block : block + len(found)])
        if len(wrong):
            row = first + int(wrong[0]) * BLOCK_ROWS
            raise UserError(
                f"shard {self.path} is not what was written: dataset '{path}' differs near event {row}",
                hint=CURE,
            )

    def _unreadable(self, error: Exception, path: str = "") -> UserError:
        where = f": dataset '{path}'" if path else ""
        return UserError(f"shard {self.path} is not a readable HDF5 shard{where}: {error}", hint=CURE)


def _places(first: int, last: int) -> NDArray[np.int64]:
    """Rows with which blocks from ``first`` on begin, and the last of them ends."""
    return np.append(np.arange(first, last, BLOCK_ROWS), last)


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
