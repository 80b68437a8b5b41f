"""Tables read in pieces: numpy ``.npy`` and ``.npz``, Parquet. Columns are numbers or lists of numbers."""

from __future__ import annotations

import zipfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from hpctrain import registry
from hpctrain.convert.hdf5_files import PIECE_BYTES, plain, same_length
from hpctrain.convert.one_file import DAMAGED
from hpctrain.data.columns import Array, RaggedRows
from hpctrain.errors import UserError


@dataclass(frozen=True)
class Column:
    """What a column holds in each row."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    """Of a row's array, or of one item of its list."""
    ragged: bool = False


class Table(ABC):
    """One file of rows."""

    columns: dict[str, Column]
    """Those of numbers."""
    others: dict[str, str]
    """Columns that are not numbers, with their type."""
    rows: int

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def read(self, names: Sequence[str], batch: int) -> Iterator[dict[str, Array | RaggedRows]]:
        """The columns named, in pieces of at most ``batch`` rows; missing values are NaN."""

    def column(self, name: str) -> Column:
        """Raises ``UserError`` when the table has no such column of numbers."""
        if name in self.columns:
            return self.columns[name]
        if name in self.others:
            raise UserError(
                f"{self.path}: column '{name}' holds {self.others[name]}, not numbers",
                hint="Write numbers in its place, or leave it out: name the fields you want with fields",
            )
        raise UserError(
            f"{self.path} has no column '{name}'",
            hint=registry.nearest(name, self.columns or ["none"], "it has"),
        )


def open_table(path: Path) -> Table:
    """The file as a table, by what its first bytes say. Raises ``UserError`` for other formats and damage."""
    with path.open("rb") as stream:
        start = stream.read(6)
    if start == b"\x93NUMPY":
        return _Npy(path)
    if start[:4] in {b"PK\x03\x04", b"PK\x05\x06"}:
        return _Npz(path)
    if start[:4] == b"PAR1":
        return _Parquet(path)
    raise UserError(
        f"{path} is neither .npy, .npz nor Parquet", hint="Save it as one of these (pandas: to_parquet)"
    )


class _Npy(Table):
    """One array; a structured one has a column for each of its names, another one the column ``x``."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            with path.open("rb") as stream:
                kind = _npy_header(stream)[2]
            if kind.hasobject:
                raise UserError(
                    f"{path} holds Python objects, which are pickled and are never unpickled here",
                    hint="Save arrays of numbers; lists of different lengths as Parquet",
                )
            self._array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}", hint=DAMAGED) from error
        array = self._array
        if array.ndim == 0:
            raise UserError(f"{path} holds one number, no table")
        kinds = {name: array.dtype[name] for name in array.dtype.names or ()} or {"x": array.dtype}
        self.columns, self.others = _sorted_kinds(
            {name: (dtype.base, array.shape[1:] + dtype.shape) for name, dtype in kinds.items()}
        )
        self.rows = len(array)

    def read(self, names: Sequence[str], batch: int) -> Iterator[dict[str, Array | RaggedRows]]:
        for name in names:
            self.column(name)
        for start in range(0, self.rows, batch):
            part = self._array[start : start + batch]
            yield {
                name: plain(np.ascontiguousarray(part[name] if part.dtype.names else part)) for name in names
            }


class _Npz(Table):
    """Arrays of equal length, read through the archive row by row: numpy itself would load each whole."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self._archive = zipfile.ZipFile(path)
            self._members = {
                n.removesuffix(".npy"): n for n in self._archive.namelist() if n.endswith(".npy")
            }
            headers = {name: self._header(member) for name, member in self._members.items()}
        except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
            raise UserError(f"{path} cannot be read: {error}", hint=DAMAGED) from error
        arrays = {name: header for name, header in headers.items() if header[0]}
        if not arrays:
            raise UserError(f"{path} holds no arrays", hint="np.savez(file, name=array, …) writes them")
        self.columns, self.others = _sorted_kinds(
            {n: (dtype, shape[1:]) for n, (shape, _, dtype) in arrays.items()}
        )
        self.rows = same_length(path, [(name, shape[0]) for name, (shape, _, _) in arrays.items()])
        fortran = [name for name in self.columns if arrays[name][1] and len(arrays[name][0]) > 1]
        if fortran:
            raise UserError(
                f"{path}: array '{fortran[0]}' lies in Fortran order, so its rows cannot be read in pieces",
                hint="Save np.ascontiguousarray(array)",
            )

    def _header(self, member: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
        with self._archive.open(member) as stream:
            return _npy_header(stream)

    def read(self, names: Sequence[str], batch: int) -> Iterator[dict[str, Array | RaggedRows]]:
        streams: dict[str, IO[bytes]] = {}
        try:
            for name in names:
                self.column(name)
                streams[name] = self._archive.open(self._members[name])
                _npy_header(streams[name])
            for start in range(0, self.rows, batch):
                count = min(batch, self.rows - start)
                yield {name: self._rows(name, streams[name], count) for name in names}
        finally:
            for stream in streams.values():
                stream.close()

    def _rows(self, name: str, stream: IO[bytes], count: int) -> Array:
        column = self.columns[name]
        size = count * int(np.prod(column.shape)) * column.dtype.itemsize
        try:
            data = stream.read(size)
        except (OSError, EOFError, zipfile.BadZipFile, ValueError) as error:
            raise UserError(f"{self.path}: array '{name}' cannot be read: {error}", hint=DAMAGED) from error
        except Exception as error:  # zlib.error and its like have no common base
            raise UserError(f"{self.path}: array '{name}' cannot be read: {error}", hint=DAMAGED) from error
        if len(data) != size:
            raise UserError(f"{self.path}: array '{name}' ends early", hint=DAMAGED)
        return plain(np.frombuffer(data, dtype=column.dtype).reshape(count, *column.shape))


class _Parquet(Table):
    """Numbers, lists of numbers (ragged) and lists of a fixed size."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise UserError("reading Parquet needs pyarrow", hint="pip install 'hpctrain[data]'") from error
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except Exception as error:  # Arrow has its own errors for every damage
            raise self._unreadable(error) from error
        self.columns, self.others = {}, {}
        twice = [name for name, count in Counter(self._file.schema_arrow.names).items() if count > 1]
        if twice:
            raise UserError(
                f"{path} has {len(twice)} names of columns more than once, '{twice[0]}' first",
                hint="Give every column a name of its own",
            )
        for arrow in self._file.schema_arrow:
            column = _arrow_column(arrow.type)
            if column is None:
                self.others[arrow.name] = str(arrow.type)
            else:
                self.columns[arrow.name] = column
        self.rows = self._file.metadata.num_rows

    def read(self, names: Sequence[str], batch: int) -> Iterator[dict[str, Array | RaggedRows]]:
        for name in names:
            self.column(name)
        batches = self._file.iter_batches(batch_size=batch, columns=list(names))
        start = 0
        while True:
            try:
                found = next(batches)
            except StopIteration:
                return
            except Exception as error:
                raise self._unreadable(error) from error
            yield {name: self._array(name, found.column(name), start) for name in names}
            start += found.num_rows

    def _array(self, name: str, array: Any, start: int) -> Array | RaggedRows:
        column = self.columns[name]
        items = array
        if column.ragged or column.shape:
            self._refuse_missing(name, array, start)
            items = array.flatten()
        if items.null_count and column.dtype.kind != "f":
            self._refuse_missing(name, items, start)
        values = plain(np.asarray(items.to_numpy(zero_copy_only=False), dtype=column.dtype))
        if column.ragged:
            offsets = np.asarray(array.offsets.to_numpy(), dtype=np.int64)
            return RaggedRows(offsets - offsets[0], values)
        return values.reshape(len(array), *column.shape)

    def _refuse_missing(self, name: str, array: Any, start: int) -> None:
        if array.null_count:
            raise UserError(
                f"{self.path}: column '{name}' has {array.null_count} missing values among the rows from {start} on",
                hint="Fill them before, or leave the column out: only numbers with a fraction may be missing",
            )

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(f"{self.path} cannot be read: {' '.join(str(error).split())}", hint=DAMAGED)


def rows_at_once(columns: Sequence[Column], rows: int, file_bytes: int, at_most: int) -> int:
    """Rows of a piece of about ``PIECE_BYTES``; of lists the size of the file tells."""
    fixed = sum(c.dtype.itemsize * int(np.prod(c.shape)) for c in columns if not c.ragged)
    ragged = 4 * file_bytes / max(1, rows) if any(c.ragged for c in columns) else 0
    return max(1, min(at_most, int(PIECE_BYTES / max(1.0, fixed + ragged))))


def _sorted_kinds(
    found: dict[str, tuple[np.dtype[Any], tuple[int, ...]]],
) -> tuple[dict[str, Column], dict[str, str]]:
    numbers = {n: Column(dtype, shape) for n, (dtype, shape) in found.items() if dtype.kind in "fiub"}
    return numbers, {n: str(dtype) for n, (dtype, _) in found.items() if n not in numbers}


def _npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, Fortran order, dtype), the stream then standing at the data."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    return shape, fortran, dtype


def _arrow_column(kind: Any) -> Column | None:
    """The column of an Arrow type; None when it is not of numbers."""
    from pyarrow import types

    if types.is_fixed_size_list(kind):
        inner = _arrow_column(kind.value_type)
        return (
            None if inner is None or inner.ragged or inner.shape else Column(inner.dtype, (kind.list_size,))
        )
    if types.is_list(kind) or types.is_large_list(kind):
        inner = _arrow_column(kind.value_type)
        return None if inner is None or inner.ragged or inner.shape else Column(inner.dtype, (), ragged=True)
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return Column(np.dtype(kind.to_pandas_dtype()), ())
    return None
