"""From events to batches on the device: a thread reads, assembles and transfers ahead of the training."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from hpctrain.data.balance import Balance, Imbalance, cuts
from hpctrain.data.batches import Batch, Handover
from hpctrain.data.columns import Columns
from hpctrain.data.order import Order, Piece, Rows
from hpctrain.data.windows import Source, WindowCache, WorkCache

__all__ = ["Batch", "Loader"]


class Loader:
    """Batches of one dataset for one rank.

    A batch holds this rank's share of a global batch. Sparse fields arrive dense; a ragged field ``x`` arrives
    with ``x.offsets``. With ``balance`` the shares of a batch are cut for equal work instead of equal numbers.
    An exception while reading ahead reaches the caller unchanged. Memory: the windows of this rank's lanes and
    ``prefetch`` + 1 batches.
    """

    def __init__(
        self,
        dataset: Source,
        *,
        rank: int = 0,
        size: int = 1,
        names: Sequence[str] | None = None,
        device: torch.device | None = None,
        prefetch: int = 2,
        balance: Balance | None = None,
    ) -> None:
        self.dataset = dataset
        self.rank = rank
        self.size = size
        self.names = list(dataset.fields) if names is None else list(names)
        self.device = device or torch.device("cpu")
        self.prefetch = prefetch
        self.balance = balance
        self.imbalance = Imbalance()
        self._windows = WindowCache(dataset, self.names)
        self._work = WorkCache(dataset, [balance.field]) if balance else None
        self._handover = Handover(self.device)

    def epoch(self, order: Order, epoch: int, first: int = 0) -> Iterator[Batch]:
        """This rank's share of the global batches ``first``, ``first + 1`` … of ``epoch``; may be empty batches."""
        self.imbalance = Imbalance()

        def read(k: int) -> Columns:
            pieces = self._share(order, epoch, k)
            return self._windows.take(order, epoch, pieces) if pieces else self._none()

        return self._ahead(read, range(first, order.batches))

    def sequential(self, batch_size: int, *, whole: bool = False) -> Iterator[Batch]:
        """Every row once in stored order: this rank's contiguous part, or all of it when ``whole``."""
        events = self.dataset.events
        begin = 0 if whole else events * self.rank // self.size
        end = events if whole else events * (self.rank + 1) // self.size

        def read(start: int) -> Columns:
            stop = min(start + batch_size, end)
            columns = self.dataset.read_range(start, stop, self.names)
            return {"row": np.arange(start, stop, dtype=np.int64), **columns}

        return self._ahead(read, range(begin, end, batch_size))

    def load(self, rows: Rows) -> Batch:
        """The batch made of ``rows``, on the device."""
        columns = (
            {"row": np.array(rows), **self.dataset.read(rows, self.names)} if len(rows) else self._none()
        )
        return self._handover.receive(self._handover.make(columns, self.dataset.fields, self.device))

    def _share(self, order: Order, epoch: int, k: int) -> list[Piece]:
        if self.balance is None or self._work is None:
            return order.share_pieces(k, self.rank, self.size)
        pieces = order.pieces(k)
        items: Any = self._work.take(order, epoch, pieces)[self.balance.field]
        work = self.balance.work(items)
        places = cuts(work, self.size)
        self.imbalance.add(work, places)
        return order.pieces(k, int(places[self.rank]), int(places[self.rank + 1]))

    def _none(self) -> Columns:
        """No events, with everything else right."""
        empty: Columns = {"row": np.zeros(0, dtype=np.int64)}
        if not self.dataset.events:
            return empty
        columns = self.dataset.read_range(0, 1, self.names)
        nothing = np.zeros(0, dtype=np.int64)
        return {
            **empty,
            **{k: v[:0] if isinstance(v, np.ndarray) else v.take(nothing) for k, v in columns.items()},
        }

    def _ahead(self, read: Callable[[int], Columns], numbers: Iterable[int]) -> Iterator[Batch]:
        """The batch of ``read(number)`` for each number, up to ``prefetch`` of them before they are asked for."""

        def make(number: int) -> tuple[Batch, Any]:
            return self._handover.make(read(number), self.dataset.fields, self.device)

        reader = ThreadPoolExecutor(1, thread_name_prefix="loader")
        waiting: list[Future[tuple[Batch, Any]]] = []
        try:
            for number in numbers:
                waiting.append(reader.submit(make, number))
                if len(waiting) > self.prefetch:
                    yield self._handover.receive(waiting.pop(0).result())
            while waiting:
                yield self._handover.receive(waiting.pop(0).result())
        finally:
            # The thread ends with what it is reading. Nobody waits for that: an iterator left behind may be closed by
            # the garbage collector, anywhere, also in that thread or while another one holds what it reads with.
            reader.shutdown(wait=False, cancel_futures=True)
