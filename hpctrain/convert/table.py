"""Tables of numbers, numpy's or Parquet: columns → fields, lists → ragged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field, PositiveInt

from hpctrain.convert.base import Converter, ConverterConfig, Finite, Piece, listed
from hpctrain.convert.hdf5_files import one_a_row
from hpctrain.convert.rows import cast, make_field, stack, unique_names
from hpctrain.convert.tables import Column, Table, open_table, rows_at_once
from hpctrain.data.columns import Array, Columns, RaggedRows, Rows, SparseRows, take
from hpctrain.data.schema import DenseField, FieldName, Fields, RaggedField, SparseField
from hpctrain.errors import UserError
from hpctrain.registry import register
from hpctrain.section import Section


class TableField(Section):
    """Which columns make a field."""

    columns: Annotated[tuple[str, ...], Field(min_length=1)]
    """One column, or several that are put side by side as the field's features."""
    sparse: bool = False
    """Keep only what is not zero (of arrays)."""
    dtype: str | None = None
    """Type to store. None: the file's."""
    features: tuple[str, ...] = ()
    """Names along the last axis. Several columns: their own names when not given."""


def _short_forms(value: Any) -> Any:
    """``energy: NAME`` is one column, ``momentum: [NAME, NAME]`` several."""
    if not isinstance(value, Mapping):
        return value
    found = {}
    for name, entry in value.items():
        rule = dict(entry) if isinstance(entry, Mapping) else {"columns": entry}
        if isinstance(rule.get("columns"), str):
            rule["columns"] = [rule["columns"]]
        found[name] = rule
    return found


@register("converters")
class TableConverter(Converter):
    """Tables, .npy, .npz or Parquet: columns → fields, lists → ragged; without ``fields`` every column of numbers."""

    packages = ("numpy", "pyarrow")
    what = "column"

    class Config(ConverterConfig):
        speed_keys: ClassVar[frozenset[str]] = frozenset({"batch"})
        kind: Literal["table"] = "table"
        fields: Annotated[dict[FieldName, TableField], BeforeValidator(_short_forms)] = Field(
            default_factory=dict
        )
        """The fields to make: ``energy: COLUMN``, ``particles: [part_pt, part_eta, part_phi]``, or the keys
        below. Empty: every column of numbers under its own name."""
        batch: PositiveInt = 65536
        """Most rows in memory at a time; wide ones are read in smaller pieces."""

    config: Config

    def fields(self, path: Path) -> Fields:
        table = open_table(path)
        return {name: _field(table, name, rule) for name, rule in self._rules(table).items()}

    def pieces(self, path: Path, number: int, scalars: Sequence[str]) -> Iterator[Piece]:
        table = open_table(path)
        rules = self._rules(table)
        fields = {name: _field(table, name, rule) for name, rule in rules.items()}
        names = list(dict.fromkeys([*(c for rule in rules.values() for c in rule.columns), *scalars]))
        batch = rows_at_once(
            [table.column(n) for n in names], table.rows, path.stat().st_size, self.config.batch
        )
        start = 0
        for raw in table.read(names, batch):
            count = len(raw[names[0]])
            rows = np.arange(start, start + count, dtype=np.int64)
            finite = Finite(self.config.non_finite, path, self.what)
            # The driver looks at the scalars itself: not all of them are fields.
            good = np.flatnonzero(
                finite.keep(
                    rows, {f"'{n}'": v for n, v in raw.items() if n not in scalars or n in _of(rules)}
                )
            )
            columns: Columns = {
                name: cast(
                    _join(raw, rule, f"{path}: field '{name}'"), fields[name], f"{path}: field '{name}'"
                )
                for name, rule in rules.items()
            }
            yield Piece(
                columns=take(columns, good),
                rows=rows[good],
                scalars={name: _number(raw[name], path, name)[good] for name in scalars},
                read=count,
                dropped=finite.dropped,
                progress=(start + count) / table.rows,
            )
            start += count

    def scalar(self, path: Path, name: str | None) -> Iterator[Array]:
        table = open_table(path)
        if name is None:
            yield np.ones(table.rows)
            return
        for raw in table.read([name], 2**20):
            yield _number(raw[name], path, name)

    def describe(self) -> dict[str, Any]:
        return {
            "image_axes": "cells"
        }  # of a field that is called image; what it shows is not said in the file

    def about(self, path: Path) -> dict[str, Any]:
        table = open_table(path)
        return {"left_out": dict(table.others)} if table.others and not self.config.fields else {}

    def label(self, names: Sequence[str], about: Sequence[Mapping[str, Any]]) -> str:
        return self.config.description or f"table {listed(names)}"

    def _rules(self, table: Table) -> dict[str, TableField]:
        if self.config.fields:
            return dict(self.config.fields)
        rules = (*self.config.label.values(), *self.config.weight.values())
        taken = {getattr(rule, "branch", None) for rule in rules}
        names = unique_names([n for n in table.columns if n not in taken], str(table.path), self.what)
        if not names:
            others = ", ".join(f"'{name}' is {kind}" for name, kind in table.others.items())
            raise UserError(
                f"{table.path} has no columns of numbers{': ' if others else ''}{others}",
                hint="Only numbers, lists of them and arrays of a fixed size can be learned from",
            )
        return {field: TableField(columns=(name,)) for field, name in names.items()}


def _of(rules: Mapping[str, TableField]) -> set[str]:
    return {column for rule in rules.values() for column in rule.columns}


def _field(table: Table, name: str, rule: TableField) -> DenseField | SparseField | RaggedField:
    where = f"{table.path}: field '{name}'"
    columns: list[Column] = [table.column(column) for column in rule.columns]
    first = columns[0]
    if any(c.ragged != first.ragged or c.shape != first.shape for c in columns):
        raise UserError(f"{where}: its columns have different shapes", hint="Make a field of each")
    shape, features = first.shape, rule.features
    if len(columns) > 1:
        shape = (*shape, len(columns))
        features = features or rule.columns
    source = np.result_type(*(c.dtype for c in columns))
    dtype = rule.dtype or str(np.dtype(np.uint8) if source == bool else source.newbyteorder("="))
    if rule.sparse and first.ragged:
        raise UserError(f"{where}: lists cannot be sparse", hint="Leave sparse out")
    kind = "sparse" if rule.sparse else "ragged" if first.ragged else "dense"
    return make_field(kind, where, shape=shape, dtype=dtype, features=features)


def _join(raw: Mapping[str, Array | RaggedRows], rule: TableField, where: str) -> Rows:
    parts = [raw[column] for column in rule.columns]
    ragged = [part for part in parts if isinstance(part, RaggedRows)]
    if ragged:
        return stack(ragged, where) if len(ragged) > 1 else ragged[0]
    dense = [part for part in parts if isinstance(part, np.ndarray)]
    array = np.stack(dense, axis=-1) if len(dense) > 1 else dense[0]
    return SparseRows.from_dense(array) if rule.sparse else array


def _number(values: Array | RaggedRows, path: Path, name: str) -> Array:
    if isinstance(values, RaggedRows):
        raise UserError(f"{path}: column '{name}' has a list in each row, one number is wanted")
    return one_a_row(values, f"{path}: column '{name}'")
