"""From shards to batches on the device: reading runs ahead on a thread, images are scattered on the device."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from hpctrain.data.columns import SparseRows
from hpctrain.data.order import Order, Rows, split
from hpctrain.data.schema import SparseField
from hpctrain.data.shards import ShardDataset

Batch = dict[str, Tensor]
"""Field name → tensor (rows of this rank, …); ``row`` int64 is the row's number in the dataset."""


class Loader:
    """Batches of one dataset for one rank.

    A batch holds this rank's share of a global batch. Sparse fields arrive dense. An exception while reading
    ahead reaches the caller unchanged.
    """

    def __init__(
        self,
        dataset: ShardDataset,
        *,
        rank: int = 0,
        size: int = 1,
        names: Sequence[str] | None = None,
        device: torch.device | None = None,
        prefetch: int = 2,
    ) -> None:
        self.dataset = dataset
        self.rank = rank
        self.size = size
        self.names = list(dataset.fields) if names is None else list(names)
        self.device = device or torch.device("cpu")
        self.prefetch = prefetch

    def epoch(self, order: Order, epoch: int, first: int = 0) -> Iterator[Batch]:
        """This rank's share of the global batches ``first``, ``first + 1`` … of ``epoch``; may be empty batches."""
        return self._ahead(order.share(epoch, k, self.rank, self.size) for k in range(first, order.batches))

    def sequential(self, batch_size: int, *, whole: bool = False) -> Iterator[Batch]:
        """Every row once in stored order: this rank's contiguous part, or all of it when ``whole``."""
        rows = np.arange(len(self.dataset))
        mine = rows if whole else split(rows, self.rank, self.size)
        return self._ahead(mine[i : i + batch_size] for i in range(0, len(mine), batch_size))

    def load(self, rows: Rows) -> Batch:
        """The batch made of ``rows``, on the device."""
        if len(rows) == 0:
            return {name: tensor[:0] for name, tensor in self.load(np.zeros(1, dtype=np.int64)).items()}
        batch: Batch = {"row": torch.from_numpy(np.array(rows))}
        for name, values in self.dataset.read(rows, self.names).items():
            field = self.dataset.fields[name]
            if isinstance(values, SparseRows) and isinstance(field, SparseField):
                batch[name] = scatter(values, field.shape, self.device)
            else:
                batch[name] = torch.from_numpy(np.ascontiguousarray(values))
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def _ahead(self, shares: Iterator[Rows]) -> Iterator[Batch]:
        with ThreadPoolExecutor(1, thread_name_prefix="loader") as reader:
            waiting: list[Future[Batch]] = []
            try:
                for rows in shares:
                    waiting.append(reader.submit(self.load, rows))
                    if len(waiting) > self.prefetch:
                        yield waiting.pop(0).result()
                while waiting:
                    yield waiting.pop(0).result()
            finally:
                for future in waiting:
                    future.cancel()


def scatter(rows: SparseRows, shape: Sequence[int], device: torch.device) -> Tensor:
    """Sparse rows → dense tensor (n, *shape) on ``device``, scattered there in one call."""
    size = int(np.prod(shape))
    position = torch.from_numpy(rows.row_of_value() * size + rows.indices.astype(np.int64)).to(device)
    values = torch.from_numpy(np.ascontiguousarray(rows.values)).to(device)
    dense = torch.zeros(len(rows) * size, dtype=values.dtype, device=device)
    # Cells of one row are unique, so no two values meet in one place and the result has one order of summation.
    return dense.scatter_(0, position, values).view(len(rows), *shape)
