"""Mean and spread of every feature that has a name, gathered event after event from the training events alone."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpctrain.data.columns import Columns, RaggedRows
from hpctrain.data.schema import Fields

_ITEMS = 2**15
"""Summed at a time."""

Floats = NDArray[np.float64]


class FeatureScale:
    """``{field: {"mean": [...], "std": [...]}}`` of each dense or ragged field whose features have names.

    Over events, or over all items of a ragged field; zero padding counts. The spread of a feature that never
    changes is given as 1, so that it can be divided by. In whatever pieces events come, the constants are the
    same to the last bit.
    """

    def __init__(self, fields: Fields) -> None:
        self._names = [name for name, field in fields.items() if field.features and field.kind != "sparse"]
        self._count = dict.fromkeys(self._names, 0)
        self._shift: dict[str, Floats] = {}
        self._sums: dict[str, Floats] = {}

    def add(self, columns: Columns, rows: NDArray[np.int64] | None = None) -> None:
        """See more events: all of ``columns``, or those named."""
        for name in self._names:
            for values in _pieces(columns[name], rows):
                # Sums relative to the first value keep their digits where a feature is far from 0.
                shift = self._shift.setdefault(name, values[0].copy())
                before = self._sums.get(name, np.zeros((2, values.shape[1])))
                terms = np.stack([values - shift, (values - shift) ** 2], axis=1)
                self._sums[name] = np.cumsum(np.concatenate([before[None], terms]), axis=0)[-1]
                self._count[name] += len(values)

    def constants(self) -> dict[str, Any]:
        """For ``dataset.json``; nothing of a field that had no item."""
        found = {}
        for name, (first, second) in self._sums.items():
            mean = first / self._count[name]
            spread = np.sqrt(np.maximum(second / self._count[name] - mean**2, 0.0))
            found[name] = {
                "mean": (self._shift[name] + mean).tolist(),
                "std": np.where(spread > 0, spread, 1.0).tolist(),
            }
        return found


def _pieces(values: Any, rows: NDArray[np.int64] | None) -> Iterator[Floats]:
    """Items (n, features) of the rows, a bounded number at a time."""
    if rows is not None:
        values = values.take(rows) if isinstance(values, RaggedRows) else values[rows]
    items = values.values if isinstance(values, RaggedRows) else values
    items = items.reshape(-1, items.shape[-1])
    for start in range(0, len(items), _ITEMS):
        yield items[start : start + _ITEMS].astype(np.float64)
