"""Scale constants of converted images, gathered as they are written."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpctrain.data.columns import Columns, SparseRows
from hpctrain.data.schema import Fields


class ImageScale:
    """``image_max`` and ``image_mean_nonzero`` of a sparse field ``image`` (channels, η, φ); nothing without one."""

    def __init__(self, fields: Fields) -> None:
        field = fields.get("image")
        self._shape = field.shape if field is not None and field.kind == "sparse" else ()
        channels = self._shape[0] if self._shape else 0
        self._largest = np.zeros(channels)
        self._sum = np.zeros(channels)
        self._count = np.zeros(channels, dtype=np.int64)

    def add(self, columns: Columns) -> None:
        """See more events."""
        images = columns.get("image")
        if not self._shape or not isinstance(images, SparseRows):
            return
        channel = images.indices.astype(np.int64) // int(np.prod(self._shape[1:]))
        values = images.values.astype(np.float64)
        np.maximum.at(self._largest, channel, values)
        self._sum += np.bincount(channel, weights=values, minlength=len(self._sum))
        self._count += np.bincount(channel, minlength=len(self._count))

    def constants(self) -> dict[str, Any]:
        """1 for a channel without any cell above 0."""
        if not self._shape:
            return {}
        mean = np.divide(self._sum, self._count, out=np.ones(len(self._sum)), where=self._count > 0)
        return {
            "image_max": np.where(self._largest > 0, self._largest, 1.0).tolist(),
            "image_mean_nonzero": mean.tolist(),
        }
