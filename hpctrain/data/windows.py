"""The windows of an order that a rank has in memory: each read once, in long pieces, and drawn from at random."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hpctrain.data.columns import Array, Columns, concatenate, take
from hpctrain.data.order import Order, Piece, Window
from hpctrain.data.schema import Fields

Ints = NDArray[np.int64]


class Source(Protocol):
    """Events that can be read: shards on disk, or the memory of all ranks."""

    @property
    def events(self) -> int: ...

    @property
    def fields(self) -> Fields: ...

    def read_range(self, start: int, stop: int, names: Sequence[str] | None = None) -> Columns:
        """Events ``start`` to ``stop``."""
        ...

    def read(self, rows: Array, names: Sequence[str] | None = None) -> Columns:
        """The events ``rows``, in that order."""
        ...

    def counts(self, start: int, stop: int, name: str) -> Ints:
        """Items that events ``start`` to ``stop`` have in a ragged field, without reading them."""
        ...


@dataclass(frozen=True)
class Held:
    """A window in memory."""

    order: Order
    epoch: int
    window: Window
    ranges: tuple[tuple[int, int], ...]
    columns: Columns
    mixed: Ints
    """Its samples' order."""

    def part(self, piece: Piece) -> Columns:
        return take(self.columns, self.mixed[piece.first : piece.last])


class WindowCache:
    """One window a lane: as a lane goes on to its next window, the one before goes."""

    def __init__(self, source: Source, names: Sequence[str]) -> None:
        self.source = source
        self.names = names
        self._held: dict[int, Held] = {}

    def take(self, order: Order, epoch: int, pieces: Sequence[Piece]) -> Columns:
        """The samples of ``pieces`` in order."""
        return concatenate([self._window(order, epoch, piece.window).part(piece) for piece in pieces])

    def _window(self, order: Order, epoch: int, window: Window) -> Held:
        before = self._held.get(window.lane)
        if before is not None and (before.order, before.epoch, before.window) == (order, epoch, window):
            return before
        # A small dataset is one window, the same in every epoch: its rows tell windows apart, not its number.
        ranges = tuple(order.ranges(epoch, window))
        columns = before.columns if before is not None and before.ranges == ranges else None
        del before
        self._held.pop(window.lane, None)  # makes room first
        held = Held(order, epoch, window, ranges, columns or self._load(ranges), order.mixed(epoch, window))
        self._held[window.lane] = held
        return held

    def _load(self, ranges: Sequence[tuple[int, int]]) -> Columns:
        parts = [self.source.read_range(start, stop, self.names) for start, stop in ranges]
        rows = [np.arange(start, stop, dtype=np.int64) for start, stop in ranges]
        return {"row": np.concatenate(rows), **concatenate(parts)}


class WorkCache(WindowCache):
    """How many items the events of the windows in use have: of every lane, so that all ranks cut batches alike."""

    def _load(self, ranges: Sequence[tuple[int, int]]) -> Columns:
        (name,) = self.names
        return {name: np.concatenate([self.source.counts(start, stop, name) for start, stop in ranges])}
