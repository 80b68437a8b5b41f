"""Columns of events → tensors on the device: sparse images cross the bus sparse and become dense over there."""

import itertools
import math
import weakref
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hpctrain.data.columns import Array, Columns, RaggedRows, SparseRows
from hpctrain.data.schema import Fields

Batch = dict[str, Tensor]
"""Field name → tensor (rows of this rank, …); ``row`` int64 is the row's number in the dataset. A ragged field
``x`` gives ``x`` (items, …) and ``x.offsets`` int64 (rows + 1,)."""


CACHE_BYTES = 2**18
"""Filled at a time: less than the cache of a core."""
KEPT_BUFFERS = 8
"""Arrays that wait to be used again: more than batches are under way."""


def to_batch(
    columns: Columns, fields: Fields, device: torch.device, buffers: "Buffers | None" = None
) -> Batch:
    """Tensors on ``device``. From pinned memory and without waiting where that is a GPU."""
    batch: Batch = {}
    for name, values in columns.items():
        if isinstance(values, SparseRows):
            shape = fields[name].shape
            on_cpu = device.type == "cpu"
            batch[name] = (
                dense(values, shape, buffers or Buffers()) if on_cpu else scatter(values, shape, device)
            )
        elif isinstance(values, RaggedRows):
            batch[name] = move(values.values, device)
            batch[f"{name}.offsets"] = move(values.offsets, device)
        else:
            batch[name] = move(values, device)
    return batch


def move(array: Array, device: torch.device) -> Tensor:
    """The array as a tensor on ``device``; on the CPU it shares the array's memory, which must not change."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def rows_of(batch: Batch, start: int, stop: int) -> Batch:
    """Rows ``start`` to ``stop`` of a batch, sharing its memory where the field is not ragged."""
    part: Batch = {}
    for name, values in batch.items():
        offsets = batch.get(f"{name}.offsets")
        if name.endswith(".offsets") and name.removesuffix(".offsets") in batch:
            part[name] = values[start : stop + 1] - values[start]
        elif offsets is not None:
            part[name] = values[int(offsets[start]) : int(offsets[stop])]
        else:
            part[name] = values[start:stop]
    return part


class Buffers:
    """Arrays for dense batches, used again once nobody holds a tensor on them any more.

    Fresh memory of this size costs a page fault every 4 kB, more than filling it. The owner of a tensor made of
    ``lend`` may do with it what it likes, for as long as it likes: the array comes back when its storage goes.
    """

    def __init__(self) -> None:
        # Arrays come back whenever Python frees something, also in the middle of any line here: no lock could be
        # held then. Each call of a deque is whole by itself.
        self._free: deque[Array] = deque(maxlen=KEPT_BUFFERS)

    def lend(self, count: int, dtype: str) -> Tensor:
        """(count,) on the CPU, with whatever was in it."""
        size = count * np.dtype(dtype).itemsize
        array = self._fitting(size)
        lent = array[:size].view(dtype)
        # Torch's storage holds ``lent``, and nothing else does: when the last tensor on it goes, so does it.
        weakref.finalize(lent, self._free.append, array).atexit = False
        return torch.from_numpy(lent)

    def _fitting(self, size: int) -> Array:
        """A free array of ``size`` bytes or not many more; a new one where there is none."""
        for _ in range(len(self._free)):
            try:
                array = self._free.pop()  # the one used last, which may still be in the cache
            except IndexError:  # another thread was faster
                break
            if size <= array.nbytes <= 2 * size + 4096:
                return array
            self._free.appendleft(array)
        return np.empty(size, dtype=np.uint8)


def dense(rows: SparseRows, shape: Sequence[int], buffers: Buffers) -> Tensor:
    """Sparse rows → dense tensor (n, *shape) on the CPU: a few rows at a time, which stay in the cache meanwhile."""
    size = math.prod(shape)
    tensor = buffers.lend(len(rows) * size, rows.values.dtype.str)
    array = tensor.numpy()
    step = max(1, CACHE_BYTES // max(1, size * array.itemsize))
    places = np.repeat(np.arange(len(rows)) % step * size, rows.counts)
    places += rows.indices
    ends = np.append(rows.offsets[:-1:step], rows.offsets[-1]).tolist()
    for number, (first, last) in enumerate(itertools.pairwise(ends)):
        some = array[number * step * size : (number + 1) * step * size]
        some.fill(0)
        some[places[first:last]] = rows.values[first:last]
    return tensor.view(len(rows), *shape)


def scatter(rows: SparseRows, shape: Sequence[int], device: torch.device) -> Tensor:
    """Sparse rows → dense tensor (n, *shape) on ``device``, scattered there in one call."""
    size = math.prod(shape)
    # As signed numbers of the same width: few operations know unsigned ones.
    width = rows.indices.dtype.itemsize * 8
    indices = move(rows.indices.view(f"int{width}"), device).to(torch.int64).bitwise_and_(2**width - 1)
    counts = move(rows.counts, device)
    start = torch.arange(len(rows), device=device).mul_(size)
    position = indices.add_(torch.repeat_interleave(start, counts, output_size=len(rows.indices)))
    dtype = rows.values.dtype
    # Values too; the bits are what is carried.
    moved = dtype.str.replace("u", "i") if dtype.itemsize > 1 else dtype.str
    values = move(rows.values.view(moved), device)
    found = torch.zeros(len(rows) * size, dtype=values.dtype, device=device)
    # Cells of one row are unique, so no two values meet in one place and the result has one order of summation.
    found.scatter_(0, position, values)
    if dtype.str != moved:
        found = found.view(getattr(torch, dtype.name))
    return found.view(len(rows), *shape)


class Handover:
    """Carries batches from the thread that makes them to the one that trains, each with its own CUDA stream."""

    def __init__(self, device: torch.device) -> None:
        self._buffers = Buffers()
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def make(
        self, columns: Columns, fields: Fields, device: torch.device
    ) -> tuple[Batch, "torch.cuda.Event | None"]:
        """The batch, and the event after which it is all there."""
        if self._stream is None:
            return to_batch(columns, fields, device, self._buffers), None
        with torch.cuda.stream(self._stream):
            batch = to_batch(columns, fields, device)
            return batch, self._stream.record_event()

    @staticmethod
    def receive(made: tuple[Batch, "torch.cuda.Event | None"]) -> Batch:
        """The batch, for use on the current stream."""
        batch, event = made
        if event is not None:
            stream = torch.cuda.current_stream(next(iter(batch.values())).device)
            stream.wait_event(event)
            for tensor in batch.values():
                tensor.record_stream(stream)  # its memory is not given away while this stream uses it
        return batch
