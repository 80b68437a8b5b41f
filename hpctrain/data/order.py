"""Sample order: a pure function of (seed, epoch), the same at any number of ranks.

Two levels. The rows of a dataset are cut into *blocks* of neighbours, which a pseudo-random permutation puts in
a new sequence; the sequence is dealt in equal parts to *lanes*; and each lane is shuffled sample by sample
within *windows* of many blocks. Global batch ``k`` takes the next few samples of every lane. So the disk is read
in long pieces, every sample of a window mixes, a rank that owns some lanes reads its own blocks alone, and
nothing has to be kept but the windows in use. A dataset no larger than one window is simply permuted.

Global batch ``k`` of an epoch is a fixed set of rows; ranks split it. So the position in training is two
integers, (epoch, samples seen), and a run may stop and go on at another number of ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from hpctrain.data.mixing import BlockShuffle, Ranges

Rows = NDArray[np.int64]

GROUPS = 16
"""Groups of neighbouring lanes whose windows begin at the same time, and are read together."""


@dataclass(frozen=True)
class Window:
    """Samples of one lane that mix: places ``start`` to ``stop`` of the epoch's sequence of blocks."""

    lane: int
    number: int
    """In its lane."""
    start: int
    stop: int


@dataclass(frozen=True)
class Piece:
    """Samples ``first`` to ``last`` of a window, in its shuffled order."""

    window: Window
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


@dataclass(frozen=True)
class Order:
    """The order in which ``samples`` rows are seen."""

    samples: int
    global_batch_size: int
    seed: int
    block: int = 256
    """Neighbouring rows that stay together in the first shuffle: one read."""
    window: int = 2**16
    """Rows within which samples mix, over all lanes together."""
    lanes: int = 16
    """Streams that a batch is drawn from; that many ranks read nothing twice. ``sizes`` chooses all three."""

    def __post_init__(self) -> None:
        if min(self.samples, self.global_batch_size, self.block, self.window, self.lanes) < 1:
            raise ValueError("samples, global_batch_size, block, window and lanes must be positive")

    @property
    def batches(self) -> int:
        """Global batches of an epoch; the last may be smaller, none is dropped."""
        return -(-self.samples // self.global_batch_size)

    def global_batch(self, epoch: int, k: int) -> Rows:
        """Rows of global batch ``k`` of ``epoch``: int64 (<= global_batch_size,)."""
        return self.rows(epoch, self.pieces(k))

    def batch_size(self, k: int) -> int:
        """Samples of global batch ``k``."""
        return min(self.global_batch_size, self.samples - k * self.global_batch_size)

    def share(self, epoch: int, k: int, rank: int, size: int) -> Rows:
        """The rows of global batch ``k`` that ``rank`` of ``size`` works on; may be empty in a small last batch."""
        return split(self.global_batch(epoch, k), rank, size)

    def share_pieces(self, k: int, rank: int, size: int) -> list[Piece]:
        """The same share as pieces of windows."""
        samples = self.batch_size(k)
        return self.pieces(k, samples * rank // size, samples * (rank + 1) // size)

    def times_read(self, size: int) -> float:
        """How often each row is read by ``size`` ranks: 1 where every lane is one rank's alone.

        >>> Order(10**6, 4096, 1).times_read(16), Order(10**6, 4096, 1).times_read(64)
        (1.0, 4.0)
        """
        lengths = [0] * self._lanes
        for piece in self.pieces(0):
            lengths[piece.window.lane] += len(piece)
        lane = np.repeat(np.arange(self._lanes), lengths)
        edges = len(lane) * np.arange(size + 1) // size
        some = edges[1:] > edges[:-1]
        return float((lane[edges[1:][some] - 1] - lane[edges[:-1][some]] + 1).sum() / self._lanes)

    def pieces(self, k: int, first: int = 0, last: int | None = None) -> list[Piece]:
        """Samples ``first`` to ``last`` of global batch ``k``, lane by lane: which samples of which windows, the same
        in every epoch."""
        if not 0 <= k < self.batches:
            raise IndexError(f"global batch {k} of {self.batches}")
        # Place p of an epoch is sample p // lanes of lane p % lanes.
        begin = k * self.global_batch_size
        end = begin + self.batch_size(k)
        lanes = np.arange(self._lanes)
        begins, ends = ((place - lanes + self._lanes - 1) // self._lanes for place in (begin, end))
        places = np.concatenate([[0], np.cumsum(ends - begins)])
        lows = np.clip(first - places[:-1], 0, ends - begins)
        highs = ends - begins if last is None else np.clip(last - places[:-1], 0, ends - begins)
        wanted = np.flatnonzero(lows < highs)
        begins += self._lane_starts[:-1]
        pieces: list[Piece] = []
        for lane, low, end in zip(
            wanted.tolist(), (begins + lows)[wanted].tolist(), (begins + highs)[wanted].tolist(), strict=True
        ):
            place = low
            while place < end:
                window = self._latest.get(lane)
                if window is None or not window.start <= place < window.stop:
                    window = self._latest[lane] = self._window_of(lane, place)
                until = min(end, window.stop)
                pieces.append(Piece(window, place - window.start, until - window.start))
                place = until
        return pieces

    def rows(self, epoch: int, pieces: list[Piece]) -> Rows:
        """Dataset rows of the samples of ``pieces``."""
        found = [
            self.window_rows(epoch, p.window)[self.mixed(epoch, p.window)[p.first : p.last]] for p in pieces
        ]
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)

    def ranges(self, epoch: int, windows: Sequence[Window]) -> Ranges:
        """The windows' rows before they mix, one window after the other, as runs of neighbours: what is read from disk."""
        return self._blocks(epoch).ranges([(window.start, window.stop) for window in windows])

    def window_rows(self, epoch: int, window: Window) -> Rows:
        """The window's rows before they mix, int64 (stop - start,)."""
        return np.concatenate([np.arange(a, b) for a, b in self.ranges(epoch, [window])])

    def mixed(self, epoch: int, window: Window) -> Rows:
        """Permutation of the samples of a window."""
        return permutation(window.stop - window.start, self.seed, epoch, window.lane, window.number)

    @cached_property
    def _whole(self) -> bool:
        """One window holds everything."""
        return self.samples <= self.window

    @cached_property
    def _lanes(self) -> int:
        return 1 if self._whole else min(self.lanes, self.window)

    def _blocks(self, epoch: int) -> BlockShuffle:
        return _shuffle(self.samples, self.samples if self._whole else self.block, self.seed, epoch)

    @cached_property
    def _lane_starts(self) -> Rows:
        """Place of the first sample of each lane, and past the last lane, int64 (lanes + 1,).

        Lanes differ by one sample at most; the first ones are longer, as places are dealt in turn.
        """
        lanes = np.arange(self._lanes + 1)
        return lanes * (self.samples // self._lanes) + np.minimum(lanes, self.samples % self._lanes)

    @cached_property
    def _latest(self) -> dict[int, Window]:
        """The window last asked for of each lane: most batches take their samples from the same ones."""
        return {}

    def _window_of(self, lane: int, place: int) -> Window:
        """Windows of a lane are equal but for the first, whose length rises from one group of lanes to the next: one
        group after the other, not all at once, needs its next windows, and reading is even."""
        if self._whole:
            return Window(0, 0, 0, self.samples)
        origin, end = self._lane_starts[lane : lane + 2].tolist()
        sample = place - origin
        length = self.window // self._lanes
        groups = min(GROUPS, self._lanes)
        first = -(-length * (1 + lane * groups // self._lanes) // groups)
        number = 0 if sample < first else 1 + (sample - first) // length
        start = 0 if number == 0 else first + (number - 1) * length
        stop = first if number == 0 else start + length
        return Window(lane, number, origin + start, min(origin + stop, end))


_shuffle = lru_cache(maxsize=8)(BlockShuffle)
"""What it computes once serves every window of an epoch."""


def split(rows: Rows, rank: int, size: int) -> Rows:
    """Contiguous share of ``rank`` of ``size``; shares differ by one row at most and make up the whole."""
    return rows[len(rows) * rank // size : len(rows) * (rank + 1) // size]


def permutation(samples: int, seed: int, epoch: int, lane: int = 0, window: int = 0) -> Rows:
    """All rows once, shuffled: a pure function of its arguments on every machine (Philox counter generator)."""
    # As uint64 from the start: of larger numbers in a tuple numpy would make floating-point ones.
    key = np.array((seed, epoch), dtype=np.uint64)
    bits = np.random.Philox(key=key, counter=(0, 0, lane, window))
    return np.random.Generator(bits).permutation(samples)
