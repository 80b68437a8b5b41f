"""What a dataset holds, in numbers: ranges of every field from a sample of events, classes and processes by weight."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpctrain.data.checksums import BLOCK_ROWS
from hpctrain.data.columns import Array, Columns, RaggedRows, SparseRows
from hpctrain.data.curation.provenance import entry_name
from hpctrain.data.schema import SparseField
from hpctrain.data.shards import ShardDataset

_READ_WHOLE = 20_000_000
"""Up to so many events labels and weights are read of all."""


@dataclass(frozen=True)
class Range:
    """Values of a field, or of one of its features, in the events of a sample."""

    name: str
    """Name of the feature; empty for the field as a whole."""
    low: float
    mean: float
    high: float


@dataclass(frozen=True)
class FieldSummary:
    """One field in the events of a sample."""

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    items: tuple[float, int] | None
    """Mean and largest number of items (ragged) or stored cells (sparse) of an event."""
    ranges: tuple[Range, ...]
    """Of each feature where they have names, of all values otherwise; empty when there is no value. Cells of
    sparse arrays that are not stored do not count."""


@dataclass
class Share:
    """Events of one kind, and their weights."""

    name: str
    events: int = 0
    weight: float = 0.0
    """Σw."""
    squares: float = 0.0
    """Σw²."""

    @property
    def effective(self) -> float:
        """(Σw)²/Σw²: as many unweighted events have the same relative error."""
        return self.weight**2 / self.squares if self.squares > 0 else 0.0


def sample_rows(dataset: ShardDataset, events: int) -> NDArray[np.int64]:
    """Up to about ``events`` rows in blocks of neighbours, evenly spread over the dataset, sorted."""
    if dataset.events <= events:
        return np.arange(dataset.events)
    blocks = -(-dataset.events // BLOCK_ROWS)
    chosen = np.unique(np.linspace(0, blocks - 1, max(1, events // BLOCK_ROWS)).astype(np.int64))
    rows = (chosen[:, None] * BLOCK_ROWS + np.arange(BLOCK_ROWS)).ravel()
    return rows[rows < dataset.events][:events]


def summarise(dataset: ShardDataset, rows: NDArray[np.int64]) -> list[FieldSummary]:
    """Every field in the events ``rows``, one field in memory at a time."""
    found = []
    for name, field in dataset.fields.items():
        items: tuple[float, int] | None = None
        ranges: tuple[Range, ...] = ()
        if len(rows):
            values: Any = dataset.read(rows, [name])[name]
            if isinstance(values, SparseRows | RaggedRows):
                items = (float(values.counts.mean()), int(values.counts.max()))
                values = values.values
            features = field.features if not isinstance(field, SparseField) else ()
            ranges = tuple(_ranges(values, features))
        found.append(FieldSummary(name, field.kind, field.shape, field.dtype, items, ranges))
    return found


def _ranges(values: Array, features: tuple[str, ...]) -> Iterator[Range]:
    if not values.size:
        return
    if not features:
        yield Range("", float(values.min()), float(values.mean(dtype=np.float64)), float(values.max()))
        return
    for number, feature in enumerate(features):
        column = values[..., number]
        yield Range(feature, float(column.min()), float(column.mean(dtype=np.float64)), float(column.max()))


def compositions(dataset: ShardDataset) -> tuple[dict[str, list[Share]], int]:
    """Events and weights by ``label`` and by ``process``, as far as the dataset has them, and of how many events.

    Of all events, unless there are more than 20 million.
    """
    keys = [name for name in ("label", "process") if is_integer(dataset, name)]
    names = [*keys, *(["weight"] if _is_number(dataset, "weight") else [])]
    shares: dict[str, dict[int, Share]] = {key: {} for key in keys}
    seen = 0
    for columns in _pieces(dataset, names) if keys else ():
        weight: Array = np.asarray(columns["weight"], np.float64) if "weight" in columns else np.zeros(0)
        for key in keys:
            values, where = np.unique(np.asarray(columns[key]), return_inverse=True)
            _add(shares[key], values, where.ravel(), weight)
        seen += len(next(iter(columns.values())))
    titles = {"label": [], "process": [entry_name(e) for e in dataset.provenance.get("processes", [])]}
    found = {}
    for key, by_value in shares.items():
        for value, share in by_value.items():
            share.name = titles[key][value] if 0 <= value < len(titles[key]) else str(value)
        found[key] = [by_value[value] for value in sorted(by_value)]
    return found, seen


def _add(shares: dict[int, Share], values: Array, where: Array, weight: Array) -> None:
    counts = np.bincount(where, minlength=len(values))
    weighted = weight if weight.size else np.zeros(len(where))
    sums = np.bincount(where, weights=weighted, minlength=len(values))
    squares = np.bincount(where, weights=weighted**2, minlength=len(values))
    for value, count, total, square in zip(values.tolist(), counts, sums, squares, strict=True):
        share = shares.setdefault(value, Share(str(value)))
        share.events += int(count)
        share.weight += float(total)
        share.squares += float(square)


def _pieces(dataset: ShardDataset, names: list[str]) -> Iterator[Columns]:
    if dataset.events > _READ_WHOLE:
        yield dataset.read(sample_rows(dataset, 2**20), names)
        return
    for start in range(0, dataset.events, 2**20):
        yield dataset.read_range(start, min(start + 2**20, dataset.events), names)


def is_integer(dataset: ShardDataset, name: str) -> bool:
    """Whether the dataset has a field of that name with one integer (or bool) per event."""
    return _is_number(dataset, name) and np.dtype(dataset.fields[name].dtype).kind in "iub"


def _is_number(dataset: ShardDataset, name: str) -> bool:
    field = dataset.fields.get(name)
    return field is not None and field.kind == "dense" and field.shape == ()
