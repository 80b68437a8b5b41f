"""Mean and spread of every named feature, from events as they come."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpctrain.data.columns import Columns, RaggedRows, SparseRows
from hpctrain.data.schema import Fields


class FeatureScale:
    """``{field: {"mean": [...], "std": [...]}}`` for each dense or ragged field whose features have names.

    Over events, or over all items of a ragged field. The standard deviation of a feature that never changes
    is given as 1, so that it can be divided by.
    """

    def __init__(self, fields: Fields) -> None:
        self._names = [
            name for name, field in fields.items() if field.features and field.kind in ("dense", "ragged")
        ]
        self._count = dict.fromkeys(self._names, 0)
        self._shift: dict[str, NDArray[np.float64]] = {}
        self._sums: dict[str, NDArray[np.float64]] = {}

    def add(self, columns: Columns) -> None:
        """See events, in their order. However they are cut into pieces, the constants are the same."""
        for name in self._names:
            rows = columns[name]
            if isinstance(rows, SparseRows):
                raise TypeError(f"'{name}' is sparse")
            values = np.asarray(rows.values if isinstance(rows, RaggedRows) else rows, dtype=np.float64)
            values = values.reshape(-1, values.shape[-1])
            if not len(values):
                continue
            # Sums relative to the first value keep their digits where a feature is far from 0.
            shift = self._shift.setdefault(name, values[0].copy())
            before = self._sums.get(name, np.zeros((2, values.shape[1])))
            terms = np.stack([values - shift, (values - shift) ** 2], axis=1)
            # Added one after the other, as one long sum: the pieces do not show.
            self._sums[name] = np.cumsum(np.concatenate([before[None], terms]), axis=0)[-1]
            self._count[name] += len(values)

    def constants(self) -> dict[str, Any]:
        found = {}
        for name, (first, second) in self._sums.items():
            number = self._count[name]
            mean = first / number
            spread = np.sqrt(np.maximum(second / number - mean**2, 0.0))
            found[name] = {
                "mean": (self._shift[name] + mean).tolist(),
                "std": np.where(spread > 0.0, spread, 1.0).tolist(),
            }
        return found
