"""Scale constants of images, gathered event after event: one for each channel, from the training events alone."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpctrain.data.columns import Columns, RaggedRows, SparseRows
from hpctrain.data.schema import Fields


class ImageScale:
    """``image_max`` and ``image_mean_nonzero`` of the field ``image``, (channels, η, φ) or (η, φ); nothing without one.

    In whatever pieces events come, the constants are the same to the last bit.
    """

    def __init__(self, fields: Fields) -> None:
        field = fields.get("image")
        shape = field.shape if field is not None and field.kind != "ragged" else ()
        self._channels = (shape[0] if len(shape) > 2 else 1) if len(shape) > 1 else 0
        self._cells = int(np.prod(shape)) // max(1, self._channels)
        self._largest = np.zeros(self._channels)
        self._sum: NDArray[np.float64] = np.zeros(self._channels)
        self._count = np.zeros(self._channels, dtype=np.int64)

    def add(self, columns: Columns, rows: NDArray[np.int64] | None = None) -> None:
        """See more events: all of ``columns``, or those named."""
        if not self._channels or (rows is not None and not len(rows)):
            return
        image = columns["image"]
        if isinstance(image, RaggedRows):
            raise TypeError("an image is not ragged")
        if rows is not None:
            image = image[rows] if isinstance(image, np.ndarray) else image.take(rows)
        images = image if isinstance(image, SparseRows) else SparseRows.from_dense(image)
        channel = images.indices.astype(np.int64) // self._cells
        values = images.values.astype(np.float64)
        np.maximum.at(self._largest, channel, values)
        # bincount adds one value after the other: with the sum so far in front it is one long sum.
        numbers = np.concatenate([np.arange(self._channels), channel])
        sums = np.bincount(numbers, weights=np.concatenate([self._sum, values]))
        self._sum = sums.astype(np.float64)
        self._count += np.bincount(channel, minlength=self._channels)

    def constants(self) -> dict[str, Any]:
        """For ``dataset.json``; 1 for a channel without any cell above 0."""
        if not self._channels:
            return {}
        mean = np.divide(self._sum, self._count, out=np.ones(self._channels), where=self._count > 0)
        return {
            "image_max": np.where(self._largest > 0, self._largest, 1.0).tolist(),
            "image_mean_nonzero": mean.tolist(),
        }
