"""Constants by which networks scale their inputs, from events as they come."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hpctrain.data.columns import Columns, SparseRows


class Scale(Protocol):
    """Constants of the train split that every split shares."""

    def add(self, columns: Columns) -> None:
        """See events of the train split, in their order. However they are cut into pieces, the constants are the same."""
        ...

    def constants(self) -> dict[str, Any]: ...


class ImageScale:
    """Largest cell and mean of the non-zero cells of a sparse field, per channel; 1 for a channel without any."""

    def __init__(self, shape: tuple[int, ...], name: str = "image") -> None:
        self.name = name
        self._cells = int(np.prod(shape[1:]))
        self._largest = np.full(shape[0], -np.inf)
        self._sum: NDArray[np.float64] = np.zeros(shape[0])
        self._number = np.zeros(shape[0], dtype=np.int64)

    def add(self, columns: Columns) -> None:
        images = columns[self.name]
        if not isinstance(images, SparseRows):
            raise TypeError(f"'{self.name}' is not sparse")
        channel = images.indices.astype(np.int64) // self._cells
        values = images.values.astype(np.float64)
        np.maximum.at(self._largest, channel, values)
        self._number += np.bincount(channel, minlength=len(self._number))
        # bincount adds one value after the other, so the sum so far in front makes it one long sum.
        numbers = np.concatenate([np.arange(len(self._sum)), channel])
        self._sum = np.bincount(numbers, weights=np.concatenate([self._sum, values])).astype(np.float64)

    def constants(self) -> dict[str, Any]:
        some = self._number > 0
        mean = np.divide(self._sum, self._number, out=np.ones(len(some)), where=some)
        return {
            "image_max": np.where(some, self._largest, 1.0).tolist(),
            "image_mean_nonzero": mean.tolist(),
        }
