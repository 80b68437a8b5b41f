"""Arrays as files have them → rows as datasets want them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import ValidationError

from hpctrain.data.columns import Array, RaggedRows, Rows, SparseRows, index_dtype, offsets_of
from hpctrain.data.schema import DenseField, RaggedField, SparseField
from hpctrain.errors import UserError


def field_name(name: str) -> str:
    """A name that a field may have: other characters become ``_``; ``row`` is taken.

    >>> field_name("all_events/hist"), field_name("2nd-jet"), field_name("row")
    ('all_events_hist', 'x2nd_jet', 'x_row')
    """
    found = re.sub(r"[^A-Za-z0-9_]", "_", name)
    if found == "row":
        return "x_row"
    return found if re.match(r"[A-Za-z]", found) else "x" + found


AnyField = DenseField | SparseField | RaggedField
KINDS: dict[str, type[AnyField]] = {"dense": DenseField, "sparse": SparseField, "ragged": RaggedField}


def make_field(kind: str, where: str, **settings: Any) -> AnyField:
    """A field of that kind (``KINDS``). Raises ``UserError`` where the schema does not allow it (shape, dtype, features)."""
    try:
        return KINDS[kind](**settings)
    except ValidationError as error:
        text = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"{where}: {text}", hint="See its shape, dtype and features") from error


def dense_rows(array: Array) -> Array:
    """The array, in one piece of memory."""
    return np.ascontiguousarray(array)


def cast(rows: Rows, field: DenseField | SparseField | RaggedField, where: str) -> Rows:
    """Rows in the type of their field. Raises ``UserError`` for numbers that an integer type would change."""
    if isinstance(rows, SparseRows):
        return SparseRows(rows.offsets, rows.indices, _as_type(rows.values, np.dtype(field.dtype), where))
    if isinstance(rows, RaggedRows):
        return RaggedRows(rows.offsets, _as_type(rows.values, np.dtype(field.dtype), where))
    return _as_type(rows, np.dtype(field.dtype), where)


def _as_type(values: Array, dtype: np.dtype[Any], where: str) -> Array:
    # What overflows a float is found as infinite, and named, by the driver; NaN is found before.
    with np.errstate(over="ignore", invalid="ignore"):
        found: Array = values.astype(dtype, copy=False)
    if dtype.kind in "iub" and values.dtype != dtype:
        wrong = ((found != values) | ((found < 0) != (values < 0))) & np.isfinite(values)
        if wrong.any():
            raise UserError(
                f"{where}: {values[wrong][0]:g} is no {dtype}",
                hint="Give the field a dtype that holds its numbers",
            )
    return found


def unique_names(names: Sequence[str], where: str, what: str) -> dict[str, str]:
    """Field → name in the file. Raises ``UserError`` when two would make the same field."""
    found: dict[str, str] = {}
    for name in names:
        other = found.setdefault(field_name(name), name)
        if other != name:
            raise UserError(
                f"{where}: the {what}s '{other}' and '{name}' would both be the field '{field_name(name)}'",
                hint="Name the fields that you want: fields.NAME=…",
            )
    return found


def stack(parts: Sequence[RaggedRows], where: str) -> RaggedRows:
    """Ragged columns of equal lengths side by side: (items, columns). Raises ``UserError`` when lengths differ."""
    first = parts[0]
    for part in parts[1:]:
        if not np.array_equal(part.offsets, first.offsets):
            row = int(np.flatnonzero(part.offsets != first.offsets)[0]) - 1
            raise UserError(
                f"{where}: its columns have different numbers of items in an event "
                f"({int(first.counts[row])} and {int(part.counts[row])})",
                hint="Only columns of the same objects make one field",
            )
    values = np.stack([part.values for part in parts], axis=-1)
    return RaggedRows(first.offsets, values)


def ragged_of(event: Array, columns: Sequence[Array], events: int, dtype: type = np.float32) -> RaggedRows:
    """Items (features from ``columns``, each (items,)) of the events that ``event`` (items,) numbers, rising."""
    offsets = offsets_of(np.bincount(event, minlength=events))
    return RaggedRows(offsets, np.stack([np.asarray(c, dtype=dtype) for c in columns], axis=-1))


def falling(rows: RaggedRows, key: Array) -> Array:
    """(items,) positions that put the items of every row in falling order of ``key`` (items,)."""
    return np.lexsort((-key, rows.row_of_value()))


def sparse_rows(
    offsets: Array, indices: Array, values: Array, shape: Sequence[int], where: str, first: int
) -> SparseRows:
    """Cells named by flat index, in rising order within each event as shards want them; zeros are left out.

    Raises ``UserError`` for a cell outside ``shape`` or named twice; ``first`` is the number of the first event.
    """
    if len(indices) != len(values) or indices.dtype.kind not in "iu":
        raise UserError(
            f"{where}: {len(indices)} indices of type {indices.dtype} for {len(values)} values",
            hint="Every value has one index, a whole number",
        )
    size = int(np.prod(shape))
    row = np.repeat(np.arange(len(offsets) - 1, dtype=np.int64), np.diff(offsets))
    outside = (indices < 0) | (indices >= size)
    if outside.any():
        item = int(np.flatnonzero(outside)[0])
        raise UserError(
            f"{where}: event {first + int(row[item])} has the index {int(indices[item])}, "
            f"outside its shape {list(shape)}",
            hint="Give the shape that the indices refer to",
        )
    key = row * size + indices.astype(np.int64)
    if (np.diff(key) < 0).any():
        order = np.argsort(key, kind="stable")
        key, indices, values, row = key[order], indices[order], values[order], row[order]
    twice = np.flatnonzero(np.diff(key) == 0)
    if len(twice):
        item = int(twice[0])
        raise UserError(
            f"{where}: event {first + int(row[item])} names the cell {int(indices[item])} twice",
            hint="Each cell may be named once",
        )
    filled = values != 0
    counts = np.bincount(row[filled], minlength=len(offsets) - 1)
    return SparseRows(offsets_of(counts), indices[filled].astype(index_dtype(size)), values[filled])
