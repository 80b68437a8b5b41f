"""Scale constants of images, gathered event after event: one for each channel, from the training events alone."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpctrain.data.checksums import BLOCK_ROWS
from hpctrain.data.columns import Columns, RaggedRows, SparseRows
from hpctrain.data.schema import Fields


class ImageScale:
    """``image_max`` and ``image_mean_nonzero`` of the field ``image``, (channels, η, φ) or (η, φ); nothing without one.

    Sums are made block by block, so that they are the same to the last bit in whatever pieces events come, as long as
    the pieces begin at multiples of ``BLOCK_ROWS``.
    """

    def __init__(self, fields: Fields) -> None:
        field = fields.get("image")
        shape = field.shape if field is not None and field.kind != "ragged" else ()
        self._channels = (shape[0] if len(shape) > 2 else 1) if len(shape) > 1 else 0
        self._cells = int(np.prod(shape)) // max(1, self._channels)
        self._largest = np.zeros(self._channels)
        self._sum = np.zeros(self._channels)
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
        event = images.row_of_value() if rows is None else rows[images.row_of_value()]
        block = event // BLOCK_ROWS
        sums = np.bincount(block * self._channels + channel, weights=values)
        sums.resize(-(-len(sums) // self._channels), self._channels)
        for one in sums[np.unique(block)]:
            self._sum += one
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
