"""Blocks of rows in pseudo-random sequence, by arithmetic alone: nothing is kept, however many there are."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Ranges = tuple[tuple[int, int], ...]
"""Runs of neighbouring numbers, as (first, past the last)."""

_ROUNDS = 8


@dataclass(frozen=True)
class BlockShuffle:
    """Rows 0 to ``samples`` in blocks of ``block`` neighbours, the blocks in another sequence every epoch.

    *Places* number the samples in that sequence. The last block may be shorter than the others, wherever it lands.
    """

    samples: int
    block: int
    seed: int
    epoch: int

    @cached_property
    def count(self) -> int:
        """Number of blocks."""
        return -(-self.samples // self.block)

    def ranges(self, places: Sequence[tuple[int, int]]) -> Ranges:
        """Rows at ``places``, some (start, stop) one after the other, as runs of neighbours in that sequence.

        All in one call: a call costs as much for a few blocks as for a hundred.
        """
        missing = self.count * self.block - self.samples

        def begin(position: int) -> int:
            return position * self.block - (missing if position > self._turn else 0)

        wanted: list[tuple[int, int, int]] = []
        for start, stop in places:
            first = start // self.block
            while begin(first + 1) <= start:
                first += 1
            last = min(self.count, (stop + missing - 1) // self.block + 1)
            wanted += [(position, start, stop) for position in range(first, last)]
        blocks = self._cipher.number(np.array([position for position, _, _ in wanted], dtype=np.int64))
        found = []
        for (position, start, stop), number in zip(wanted, blocks.tolist(), strict=True):
            low = max(start, begin(position)) - begin(position)
            high = min(stop, begin(position + 1)) - begin(position)
            if low < high:
                found.append((number * self.block + low, number * self.block + high))
        return tuple(found)

    @cached_property
    def _turn(self) -> int:
        """Where the last block of the dataset, a shorter one, is in the sequence: later ones begin sooner by so much."""
        return int(self._cipher.place(np.array([self.count - 1]))[0])

    @cached_property
    def _cipher(self) -> "Permutation":
        return Permutation(self.count, (self.seed, self.epoch))


class Permutation:
    """A pseudo-random permutation of 0 … n-1 that is computed, not stored: a Feistel network with cycle walking.

    Luby and Rackoff (1988) for the network, Black and Rogaway (2002) for walking the cycle back into the range;
    the round function is the finaliser of splitmix64 (Steele, Lea, Flood 2014).
    """

    def __init__(self, n: int, key: tuple[int, int]) -> None:
        self.n = n
        # Two halves of equal width that together hold n: at most 4 n numbers, so that few steps leave the range.
        self._half = np.uint64(max(1, (max(n - 1, 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        entropy = np.random.SeedSequence([*key, 0xB10C])
        self._keys = entropy.generate_state(_ROUNDS, np.uint64).astype(np.uint64)

    def number(self, place: Ints) -> Ints:
        """What stands at each place."""
        return self._walk(place, self._keys, forward=True)

    def place(self, number: Ints) -> Ints:
        """Where each number stands: the inverse of ``number``."""
        return self._walk(number, self._keys[::-1], forward=False)

    def _walk(self, values: Ints, keys: NDArray[np.uint64], *, forward: bool) -> Ints:
        found = np.asarray(values, dtype=np.uint64)
        found = self._rounds(found, keys, forward=forward)
        outside = np.flatnonzero(found >= self.n)
        while len(outside):
            found[outside] = self._rounds(found[outside], keys, forward=forward)
            outside = outside[found[outside] >= self.n]
        return found.astype(np.int64)

    def _rounds(
        self, values: NDArray[np.uint64], keys: NDArray[np.uint64], *, forward: bool
    ) -> NDArray[np.uint64]:
        left, right = values >> self._half, values & self._mask
        for key in keys:
            if forward:
                left, right = right, left ^ (_mix(right + key) & self._mask)
            else:
                left, right = right ^ (_mix(left + key) & self._mask), left
        return (left << self._half) | right


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
