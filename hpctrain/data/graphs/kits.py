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
    def bits(self, array: Any) -> Any:
        """Those of float32 as int64; they rise as the values do, from 0."""

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

    def least(self, keys: Any, k: int) -> Any:
        """The ``k`` smallest of each row, rising; ``keys`` may be spoilt."""

    def order(self, rows: Any) -> Any:
        """Columns of each row by rising value, equals by column."""


class NumpyKit:
    """For the CPU; arrays are views of tensors."""

    pairs = 2**16

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

    def bits(self, array: Any) -> Any:
        return array.view(np.int32).astype(np.int64)

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

    def least(self, keys: Any, k: int) -> Any:
        if keys.shape[-1] > max(256, k):  # the sorting networks of numpy reach so far
            keys.partition(k - 1, axis=-1)
            keys = keys[..., :k].copy()
        keys.sort(axis=-1)
        return keys[..., :k]

    def order(self, rows: Any) -> Any:
        return np.argsort(rows, axis=-1, kind="stable")


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

    def bits(self, array: Any) -> Any:
        return array.view(torch.int32).to(torch.int64)

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

    def least(self, keys: Any, k: int) -> Any:
        return torch.topk(keys, k, largest=False, sorted=True).values

    def order(self, rows: Any) -> Any:
        return torch.sort(rows, stable=True).indices
