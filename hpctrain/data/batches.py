"""Columns of events → tensors on the device: sparse images cross the bus sparse and become dense over there."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hpctrain.data.columns import Array, Columns, RaggedRows, SparseRows
from hpctrain.data.schema import Fields

Batch = dict[str, Tensor]
"""Field name → tensor (rows of this rank, …); ``row`` int64 is the row's number in the dataset. A ragged field
``x`` gives ``x`` (items, …) and ``x.offsets`` int64 (rows + 1,)."""


def to_batch(columns: Columns, fields: Fields, device: torch.device) -> Batch:
    """Tensors on ``device``. From pinned memory and without waiting where that is a GPU."""
    batch: Batch = {}
    for name, values in columns.items():
        if isinstance(values, SparseRows):
            batch[name] = scatter(values, fields[name].shape, device)
        elif isinstance(values, RaggedRows):
            batch[name] = move(values.values, device)
            batch[f"{name}.offsets"] = move(values.offsets, device)
        else:
            batch[name] = move(values, device)
    return batch


def move(array: Array, device: torch.device) -> Tensor:
    """The array as a tensor of its own on ``device``."""
    tensor = torch.from_numpy(np.array(array))
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def scatter(rows: SparseRows, shape: Sequence[int], device: torch.device) -> Tensor:
    """Sparse rows → dense tensor (n, *shape) on ``device``, scattered there in one call."""
    size = int(np.prod(shape))
    # As signed numbers of the same width: few operations know unsigned ones.
    width = rows.indices.dtype.itemsize * 8
    indices = move(rows.indices.view(f"int{width}"), device).to(torch.int64) & (2**width - 1)
    counts = move(rows.counts, device)
    position = torch.arange(len(rows), device=device).mul_(size)
    position = torch.repeat_interleave(position, counts, output_size=len(rows.indices)).add_(indices)
    values = move(rows.values, device)
    dense = torch.zeros(len(rows) * size, dtype=values.dtype, device=device)
    # Cells of one row are unique, so no two values meet in one place and the result has one order of summation.
    return dense.scatter_(0, position, values).view(len(rows), *shape)


class Handover:
    """Carries batches from the thread that makes them to the one that trains, each with its own CUDA stream."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def make(
        self, columns: Columns, fields: Fields, device: torch.device
    ) -> tuple[Batch, "torch.cuda.Event | None"]:
        """The batch, and the event after which it is all there."""
        if self._stream is None:
            return to_batch(columns, fields, device), None
        with torch.cuda.stream(self._stream):
            batch = to_batch(columns, fields, device)
            return batch, self._stream.record_event()

    @staticmethod
    def receive(made: tuple[Batch, "torch.cuda.Event | None"]) -> Batch:
        """The batch, for use on the current stream."""
        batch, event = made
        if event is not None:
            stream = torch.cuda.current_stream()
            stream.wait_event(event)
            for tensor in batch.values():
                tensor.record_stream(stream)  # its memory is not given away while this stream uses it
        return batch
