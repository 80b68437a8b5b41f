"""Reading HDF5 of any layout in pieces, with errors that name file, dataset and cure."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from hpctrain import registry
from hpctrain.convert.one_file import DAMAGED
from hpctrain.data.columns import Array
from hpctrain.errors import UserError

PIECE_BYTES = 2**25
"""Bytes that are read at a time, of all datasets together."""
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


class Hdf5Input:
    """An HDF5 file of which rows of datasets are read. Use in ``with``."""

    def __init__(self, path: Path) -> None:
        import h5py

        self.path = path
        _add_filters()
        try:
            self._file = h5py.File(path, "r", locking=False)
        except Exception as error:  # on a damaged file HDF5 raises anything
            raise self._unreadable(error) from error
        self._datasets: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def names(self) -> list[str]:
        """Paths of all datasets."""
        import h5py

        found: list[str] = []

        def note(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                found.append(name)

        try:
            self._file.visititems(note)
        except Exception as error:
            raise self._unreadable(error) from error
        return found

    def has(self, name: str) -> bool:
        """Whether there is a dataset of that path."""
        import h5py

        try:
            return isinstance(self._file.get(name), h5py.Dataset)
        except Exception as error:
            raise self._unreadable(error, name) from error

    def dataset(self, name: str) -> Any:
        """The h5py dataset. Raises ``UserError`` when it is missing (with near names) or not of numbers."""
        if name not in self._datasets:
            if not self.has(name):
                raise UserError(
                    f"{self.path} has no dataset '{name}'",
                    hint=registry.nearest(name, self.names() or ["none"], "it has"),
                )
            dataset = self._file[name]
            if dataset.ndim == 0:
                raise UserError(f"{self.path}: dataset '{name}' is one number, not one an event")
            self._datasets[name] = dataset
        return self._datasets[name]

    def read(self, name: str, start: int, stop: int) -> Array:
        """Items ``start`` to ``stop``, in the machine's byte order; truth values as uint8."""
        dataset = self.dataset(name)
        try:
            array: Array = dataset[start:stop]
        except Exception as error:
            raise self._unreadable(error, name) from error
        return plain(array)

    def attributes(self) -> dict[str, str]:
        """The file's own attributes that are text: what its maker says of it."""
        try:
            return {k: v for k, v in self._file.attrs.items() if isinstance(v, str)}
        except Exception as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception, name: str = "") -> UserError:
        where = f": dataset '{name}'" if name else ""
        with contextlib.suppress(OSError), self.path.open("rb") as stream:
            if stream.read(len(HDF5_SIGNATURE)) != HDF5_SIGNATURE:
                return UserError(f"{self.path} is not an HDF5 file", hint="Name the format that it has")
        text = " ".join(str(error).split())
        if "not registered" in text or "plugin" in text:
            there = importlib.util.find_spec("hdf5plugin") is not None
            return UserError(
                f"{self.path}{where}: compressed with a filter that is missing here: {text}",
                hint="h5repack -f GZIP=4 writes it in one that every HDF5 has, where the filter is"
                if there
                else "pip install hdf5plugin",
            )
        return UserError(f"{self.path}{where} cannot be read: {text}", hint=DAMAGED)


def _add_filters() -> None:
    """Filters such as zstd register themselves when hdf5plugin is imported."""
    with contextlib.suppress(ImportError):
        import hdf5plugin  # noqa: F401


def plain(array: Array) -> Array:
    """The array in the machine's byte order, truth values as uint8."""
    if array.dtype == bool:
        return array.astype(np.uint8)
    if not array.dtype.isnative:
        return array.astype(array.dtype.newbyteorder("="))
    return array


def is_numeric(dataset: Any) -> bool:
    """Whether a dataset holds numbers (or truth values), one array an event."""
    return bool(dataset.ndim and dataset.dtype.kind in "fiub")


def pieces_of(events: int, row_bytes: float, at_most: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of pieces of about ``PIECE_BYTES``, of no more than ``at_most`` events."""
    size = max(1, min(at_most, int(PIECE_BYTES / max(1.0, row_bytes))))
    for start in range(0, events, size):
        yield start, min(start + size, events)


def one_a_row(array: Array, where: str) -> Array:
    """(n,) of an array (n,) or (n, 1, …). Raises ``UserError`` for text, and for more than one number an event."""
    if array.dtype.kind not in "fiub":
        raise UserError(f"{where} holds {array.dtype}, one number an event is wanted", hint="Choose another")
    flat = array.reshape(len(array), -1)
    if len(array) and flat.shape[1] != 1:
        raise UserError(f"{where} has {flat.shape[1]} numbers an event, one is wanted", hint="Choose another")
    return flat[:, 0] if len(array) else flat.reshape(0)


def same_length(path: Path, lengths: Sequence[tuple[str, int]]) -> int:
    """The number of events that all datasets agree on. Raises ``UserError`` naming two that do not."""
    first, events = lengths[0]
    for name, count in lengths[1:]:
        if count != events:
            raise UserError(
                f"{path}: '{first}' has {events} events and '{name}' has {count}",
                hint="The first axis of every dataset is the event; choose datasets that belong together",
            )
    return events
