"""Sample order: a pure function of (seed, epoch), the same at any number of ranks.

Global batch ``k`` of an epoch is a fixed set of rows; ranks split it into contiguous, nearly equal shares. So
the position in training is two integers, (epoch, samples seen), and a run may stop and go on at another size.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Order:
    """The order in which ``samples`` rows are seen."""

    samples: int
    global_batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.samples < 1 or self.global_batch_size < 1:
            raise ValueError("samples and global_batch_size must be positive")

    @property
    def batches(self) -> int:
        """Global batches of an epoch; the last may be smaller, none is dropped."""
        return -(-self.samples // self.global_batch_size)

    def global_batch(self, epoch: int, k: int) -> Rows:
        """Rows of global batch ``k`` of ``epoch``: int64 (<= global_batch_size,)."""
        if not 0 <= k < self.batches:
            raise IndexError(f"global batch {k} of {self.batches}")
        start = k * self.global_batch_size
        return permutation(self.samples, self.seed, epoch)[start : start + self.global_batch_size]

    def share(self, epoch: int, k: int, rank: int, size: int) -> Rows:
        """The rows of global batch ``k`` that ``rank`` of ``size`` works on; may be empty in a small last batch."""
        return split(self.global_batch(epoch, k), rank, size)


def split(rows: Rows, rank: int, size: int) -> Rows:
    """Contiguous share of ``rank`` of ``size``; shares differ by one row at most and make up the whole."""
    return rows[len(rows) * rank // size : len(rows) * (rank + 1) // size]


@lru_cache(maxsize=2)
def permutation(samples: int, seed: int, epoch: int) -> Rows:
    """All rows once, shuffled: a pure function of its arguments on every machine (Philox counter generator)."""
    rows = np.random.Generator(np.random.Philox(key=(seed, epoch))).permutation(samples)
    rows.flags.writeable = False  # the cache hands the same array to everyone
    return rows
