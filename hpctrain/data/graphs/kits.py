"""The few operations that numpy and torch name differently, so that a search is written once.

On a CPU numpy sorts and selects several times faster than torch, and on one thread: a search that runs beside a
training does not fight it for the cores. On every other device it is torch.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

LOW = 2**32 - 1
"""The lower half of a key."""
NETWORK = 256
"""Numbers that numpy's sorting networks sort at once; in longer rows the smallest are selected first."""
COLUMNS = 2**12
"""Columns that leave enough of 32 bits for the distance: with more, too many rows have two that look equal."""
INFINITE = 0x7F800000
"""The bits of inf, the largest float32."""


class Kit(Protocol):
    """Arrays are numpy's or torch's; what both write alike (slices, sums, comparisons) is written as it is."""

    pairs: int
    """Pairs of points worked on at a time: what fits into the cache of a core, or fills a GPU."""

    def of(self, tensor: Tensor) -> Any: ...
    def tensor(self, array: Any) -> Tensor: ...
    def put(self, array: Any) -> Any:
        """An array of the host, brought here."""

    def host(self, array: Any) -> Any: ...
    def column(self, matrix: Any, number: int) -> Any:
        """A copy, contiguous, with inf at its end."""

    def empty(self, size: int) -> Any: ...
    def arange(self, start: int, stop: int) -> Any: ...
    def integers(self, array: Any) -> Any: ...
    def doubles(self, array: Any) -> Any: ...
    def absolute(self, array: Any) -> Any:
        """In place."""

    def minimum(self, a: Any, b: Any) -> Any:
        """In place of ``a``."""

    def where(self, condition: Any, yes: Any, no: Any) -> Any: ...
    def join(self, arrays: Sequence[Any]) -> Any: ...
    def pick(self, array: Any, columns: Any) -> Any:
        """Of each row the entries in these columns."""

    def repeat(self, array: Any, times: Any, total: int) -> Any:
        """Each entry as often as ``times`` says, ``total`` in all."""

    def cumsum(self, array: Any) -> Any: ...
    def tally(self, array: Any, bins: int) -> Any:
        """How often each of 0 … bins − 1 is there."""

    def search(self, rising: Any, values: Any) -> Any:
        """Where each value would stand, before its equals."""

    def found(self, mask: Any) -> Any:
        """Flat places that are true, rising, int64."""

    def shorter(self, array: Any) -> Any:
        """As int32."""

    def sort(self, keys: Any) -> Any:
        """May sort in place."""

    def least(self, squared: Any, numbers: Any, k: int) -> Any:
        """Numbers of the ``k`` smallest of each row of float32, rising, equals by number; None: those of the columns."""

    def order(self, rows: Any) -> Any:
        """Columns of each row by rising value, equals by column."""


class NumpyKit:
    """For the CPU; arrays are views of tensors."""

    pairs = 2**17

    def of(self, tensor: Tensor) -> Any:
        return tensor.numpy()

    def tensor(self, array: Any) -> Tensor:
        return torch.from_numpy(array)

    def put(self, array: Any) -> Any:
        return array

    def host(self, array: Any) -> Any:
        return array

    def column(self, matrix: Any, number: int) -> Any:
        return np.append(matrix[:, number], matrix.dtype.type(np.inf))

    def empty(self, size: int) -> Any:
        return np.empty(size, dtype=np.int64)  # numpy asks for huge pages, torch does not

    def arange(self, start: int, stop: int) -> Any:
        return np.arange(start, stop, dtype=np.int64)

    def integers(self, array: Any) -> Any:
        return array.astype(np.int64)

    def doubles(self, array: Any) -> Any:
        return array.astype(np.float64)

    def absolute(self, array: Any) -> Any:
        return np.abs(array, out=array)

    def minimum(self, a: Any, b: Any) -> Any:
        return np.minimum(a, b, out=a)

    def where(self, condition: Any, yes: Any, no: Any) -> Any:
        return np.where(condition, yes, no)

    def join(self, arrays: Sequence[Any]) -> Any:
        return np.concatenate(arrays)

    def pick(self, array: Any, columns: Any) -> Any:
        return np.take_along_axis(array, columns, -1)

    def repeat(self, array: Any, times: Any, total: int) -> Any:
        return np.repeat(array, times)

    def cumsum(self, array: Any) -> Any:
        return np.cumsum(array)

    def tally(self, array: Any, bins: int) -> Any:
        return np.bincount(array, minlength=bins)

    def search(self, rising: Any, values: Any) -> Any:
        return np.searchsorted(rising, values)

    def found(self, mask: Any) -> Any:
        return np.flatnonzero(mask)

    def shorter(self, array: Any) -> Any:
        return array.astype(np.int32)

    def sort(self, keys: Any) -> Any:
        keys.sort()
        return keys

    def least(self, squared: Any, numbers: Any, k: int) -> Any:
        *rows, width = squared.shape
        squared = squared.reshape(-1, width)
        numbers = None if numbers is None else numbers.reshape(-1, width)
        if width > COLUMNS:
            return self._exact(squared, numbers, k).reshape(*rows, k)
        # Half the bits sort in half the time: the column's number stands in the last bits of the distance. So they
        # say who is near, but for two distances that differ in no other bits: such rows, few of them, are done again.
        low = np.int32((1 << (width - 1).bit_length()) - 1)
        keys = squared.view(np.int32) & ~low
        keys |= np.arange(width, dtype=np.int32)
        some = min(k + 1, width)
        keys = _smallest(keys, some)
        distance = (keys | low).reshape(-1)
        equal = np.flatnonzero(distance[1:] == distance[:-1])
        equal = equal[(equal % some != some - 1) & (distance[equal] < INFINITE)]
        found = (keys[:, :k] & low).astype(np.int64)
        if numbers is not None:
            found = np.take_along_axis(numbers, found, -1)
        if len(equal):
            again = np.unique(equal // some)
            found[again] = self._exact(squared[again], None if numbers is None else numbers[again], k)
        return found.reshape(*rows, k)

    @staticmethod
    def _exact(squared: Any, numbers: Any, k: int) -> Any:
        """The same by all bits: distance above, number below, a key that no other equals."""
        keys = squared.view(np.int32).astype(np.int64)
        keys <<= 32
        keys += np.arange(squared.shape[-1]) if numbers is None else numbers
        return _smallest(keys, k) & LOW

    def order(self, rows: Any) -> Any:
        return np.argsort(rows, axis=-1, kind="stable")


def _smallest(keys: Any, k: int) -> Any:
    """The ``k`` smallest of each row, rising; spoils ``keys``."""
    if keys.shape[-1] > max(NETWORK, k):
        keys.partition(k - 1, axis=-1)
        keys = keys[:, :k].copy()
    keys.sort(axis=-1)
    return keys[:, :k]


class TorchKit:
    """For a GPU, and whatever else torch runs on."""

    pairs = 2**23

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def of(self, tensor: Tensor) -> Any:
        return tensor

    def tensor(self, array: Any) -> Tensor:
        made: Tensor = array
        return made

    def put(self, array: Any) -> Any:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def host(self, array: Any) -> Any:
        return array.cpu().numpy()

    def column(self, matrix: Any, number: int) -> Any:
        return torch.nn.functional.pad(matrix[:, number], (0, 1), value=torch.inf)

    def empty(self, size: int) -> Any:
        return torch.empty(size, dtype=torch.int64, device=self.device)

    def arange(self, start: int, stop: int) -> Any:
        return torch.arange(start, stop, device=self.device)

    def integers(self, array: Any) -> Any:
        return array.to(torch.int64)

    def doubles(self, array: Any) -> Any:
        return array.to(torch.float64)

    def absolute(self, array: Any) -> Any:
        return array.abs_()

    def minimum(self, a: Any, b: Any) -> Any:
        return torch.minimum(a, b, out=a)

    def where(self, condition: Any, yes: Any, no: Any) -> Any:
        return torch.where(condition, yes, no)

    def join(self, arrays: Sequence[Any]) -> Any:
        return torch.cat(list(arrays))

    def pick(self, array: Any, columns: Any) -> Any:
        return torch.take_along_dim(array, columns, -1)

    def repeat(self, array: Any, times: Any, total: int) -> Any:
        return torch.repeat_interleave(array, times, output_size=total)

    def cumsum(self, array: Any) -> Any:
        return torch.cumsum(array, 0)

    def tally(self, array: Any, bins: int) -> Any:
        return torch.bincount(array, minlength=bins)

    def search(self, rising: Any, values: Any) -> Any:
        return torch.searchsorted(rising, values)

    def found(self, mask: Any) -> Any:
        return mask.reshape(-1).nonzero().reshape(-1)

    def shorter(self, array: Any) -> Any:
        return array.to(torch.int32)

    def sort(self, keys: Any) -> Any:
        return torch.sort(keys).values

    def least(self, squared: Any, numbers: Any, k: int) -> Any:
        # Distance above, number below: one key that no other equals.
        keys = squared.view(torch.int32).to(torch.int64)
        keys <<= 32
        keys += self.arange(0, squared.shape[-1]) if numbers is None else numbers
        return torch.topk(keys, k, largest=False, sorted=True).values.bitwise_and_(LOW)

    def order(self, rows: Any) -> Any:
        return torch.sort(rows, stable=True).indices
