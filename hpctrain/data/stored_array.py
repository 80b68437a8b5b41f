"""One array of a shard: where its bytes lie in the file, or HDF5's own handle where they do not lie as they are."""

import os
from typing import Any

import h5py
import numpy as np

from hpctrain.data.columns import Array


class StoredArray:
    """An array of an HDF5 file of which any rows can be read.

    A contiguous array of a type that numpy has is read from the file itself, so that neither HDF5 nor its one lock
    for all threads stands in between, and the HDF5 file need not stay open. Compressed and other arrays are read
    by HDF5. What is read is held to checksums elsewhere: a place from damaged metadata gives an error, no data.
    """

    def __init__(self, file: h5py.h5f.FileID, path: str) -> None:
        dataset = h5py.h5d.open(file, path.encode())
        self.dtype: np.dtype[Any] = dataset.dtype
        shape = dataset.shape
        if not shape:
            raise ValueError(f"'{path}' is no array of events")
        self.shape: tuple[int, ...] = shape
        self._place = _place(dataset, self.nbytes)
        self._dataset = None if self._place is not None else h5py.Dataset(dataset)

    @property
    def needs_hdf5(self) -> bool:
        """Whether the HDF5 file has to stay open for it."""
        return self._dataset is not None

    @property
    def nbytes(self) -> int:
        """Bytes of all of it, as it is in memory."""
        size = self.dtype.itemsize
        for length in self.shape:
            size *= length  # Python's integers: a damaged shape must not wrap round
        return size

    def read(self, descriptor: int, into: Array, start: int) -> None:
        """Fill ``into``, contiguous and of the array's type, with its rows from ``start`` on.

        ``descriptor`` is the open file. Raises ``OSError`` and what HDF5 raises.
        """
        stop = start + len(into)
        if not 0 <= start <= stop <= self.shape[0]:
            raise ValueError(f"rows {start} to {stop} of {self.shape[0]}")
        if self._dataset is not None or self._place is None:
            into[...] = self._dataset[start:stop]  # type: ignore[index]
            return
        rest = into.reshape(-1).view(np.uint8).data
        place = self._place + start * (self.nbytes // max(1, self.shape[0]))
        while rest:
            count = os.preadv(descriptor, [rest], place)
            if count == 0:
                raise OSError(f"the file ends at byte {place}")
            rest, place = rest[count:], place + count


def _place(dataset: h5py.h5d.DatasetID, nbytes: int) -> int | None:
    """Of the array's first byte in the file; None where it takes HDF5 to find or to convert its bytes."""
    if dataset.dtype.kind not in "biuf":
        return None
    if nbytes == 0:
        return 0
    if dataset.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS:
        return None
    if dataset.get_type() != h5py.h5t.py_create(dataset.dtype, logical=True):
        return None
    place: int | None = dataset.get_offset()  # None: nothing was ever written, or it is in another file
    return place
