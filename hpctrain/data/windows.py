"""The windows of an order that a rank has in memory: each read once, in long pieces, and drawn from at random."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hpctrain.data.columns import Array, Columns, concatenate, gather, take
from hpctrain.data.mixing import Ranges
from hpctrain.data.order import Order, Piece, Window
from hpctrain.data.schema import Fields

Ints = NDArray[np.int64]
READ_EVENTS = 4096
"""Read at a time: what is checked and copied in one go stays small beside the window."""


class Source(Protocol):
    """Events that can be read: shards on disk, or the memory of all ranks."""

    @property
    def events(self) -> int: ...

    @property
    def fields(self) -> Fields: ...

    def read_range(self, start: int, stop: int, names: Sequence[str] | None = None) -> Columns:
        """Events ``start`` to ``stop``."""
        ...

    def read_ranges(self, ranges: Sequence[tuple[int, int]], names: Sequence[str] | None = None) -> Columns:
        """Events of all ``ranges`` (start, stop), one after the other."""
        ...

    def read(self, rows: Array, names: Sequence[str] | None = None) -> Columns:
        """The events ``rows``, in that order."""
        ...

    def counts(self, start: int, stop: int, name: str) -> Ints:
        """Items that events ``start`` to ``stop`` have in a ragged field, without reading them."""
        ...


@dataclass(frozen=True)
class Block:
    """Windows that were read together."""

    ranges: Ranges
    columns: Columns


@dataclass(frozen=True)
class Held:
    """One window in memory."""

    order: Order
    epoch: int
    window: Window
    block: Block
    mixed: Ints
    """Where its samples are in the columns of ``block``, in the order in which they are drawn."""


class WindowCache:
    """One window a lane: as a lane goes on to its next window, the one before goes."""

    def __init__(self, source: Source, names: Sequence[str]) -> None:
        self.source = source
        self.names = names
        self._held: dict[int, Held] = {}
        # A thread that was left behind, in the middle of an epoch, ends with its batch while the next epoch begins.
        self._lock = threading.Lock()

    def take(self, order: Order, epoch: int, pieces: Sequence[Piece]) -> Columns:
        """The samples of ``pieces`` in order. Threads take turns."""
        with self._lock:
            return self._take(order, epoch, pieces)

    def _take(self, order: Order, epoch: int, pieces: Sequence[Piece]) -> Columns:
        taken = []
        rounds = _rounds(pieces)
        for numbers in rounds:
            some = [pieces[number] for number in numbers]
            self._hold(order, epoch, [piece.window for piece in some])
            taken.append(gather(self._selections(some)))
        if len(taken) == 1:
            return taken[0]
        place = [np.arange(*ends) for numbers in rounds for ends in _ends(pieces, numbers)]
        return take(concatenate(taken), np.argsort(np.concatenate(place)))

    def _selections(self, pieces: Sequence[Piece]) -> list[tuple[Columns, Ints]]:
        """The rows of ``pieces``, those that follow one another in the same columns together."""
        found: list[tuple[Columns, list[Ints]]] = []
        for piece in pieces:
            held = self._held[piece.window.lane]
            rows = held.mixed[piece.first : piece.last]
            if found and found[-1][0] is held.block.columns:
                found[-1][1].append(rows)
            else:
                found.append((held.block.columns, [rows]))
        return [(columns, np.concatenate(rows)) for columns, rows in found]

    def _hold(self, order: Order, epoch: int, windows: Sequence[Window]) -> None:
        """Have these windows, no two of one lane, in memory; those that are not yet are read together."""
        missing = [window for window in windows if not self._has(order, epoch, window)]
        if not missing:
            return
        lengths = [window.stop - window.start for window in missing]
        ranges = order.ranges(epoch, missing)
        before = self._held.get(missing[0].lane)
        # A small dataset is one window, the same in every epoch: its rows tell windows apart, not its number.
        block = before.block if before is not None and before.block.ranges == ranges else None
        del before
        for window in missing:
            self._held.pop(window.lane, None)  # makes room first
        block = block or Block(ranges, self._load(ranges))
        for window, begin in zip(missing, np.cumsum([0, *lengths[:-1]]), strict=True):
            mixed = order.mixed(epoch, window) + begin
            self._held[window.lane] = Held(order, epoch, window, block, mixed)

    def _has(self, order: Order, epoch: int, window: Window) -> bool:
        held = self._held.get(window.lane)
        return held is not None and (held.window, held.epoch, held.order) == (window, epoch, order)

    def _load(self, ranges: Ranges) -> Columns:
        rows = [np.arange(start, stop, dtype=np.int64) for start, stop in ranges]
        return {"row": np.concatenate(rows), **self.source.read_ranges(list(_pieces(ranges)), self.names)}


class WorkCache(WindowCache):
    """How many items the events of the windows in use have: of every lane, so that all ranks cut batches alike."""

    def _load(self, ranges: Ranges) -> Columns:
        (name,) = self.names
        return {name: np.concatenate([self.source.counts(start, stop, name) for start, stop in ranges])}


def _rounds(pieces: Sequence[Piece]) -> list[list[int]]:
    """Numbers of the pieces, cut so that no lane is in a round twice: its windows are held one after the other."""
    rounds: list[list[int]] = []
    lane, nth = -1, 0
    for number, piece in enumerate(pieces):
        nth = nth + 1 if piece.window.lane == lane else 0
        lane = piece.window.lane
        if nth == len(rounds):
            rounds.append([])
        rounds[nth].append(number)
    return rounds


def _ends(pieces: Sequence[Piece], numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where in the batch the samples of the pieces numbered begin and end."""
    ends = np.cumsum([len(piece) for piece in pieces]).tolist()
    return ((ends[number] - len(pieces[number]), ends[number]) for number in numbers)


def _pieces(ranges: Ranges) -> Iterator[tuple[int, int]]:
    """The same rows in runs of ``READ_EVENTS`` at most."""
    for start, stop in ranges:
        for low in range(start, stop, READ_EVENTS):
            yield low, min(low + READ_EVENTS, stop)
