"""Any HDF5 file whose datasets have one entry an event: dense, sparse (calorimeter cells) or ragged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field, PositiveInt

from hpctrain.convert.base import Converter, ConverterConfig, Finite, Piece, listed, said_by_all
from hpctrain.convert.hdf5_files import Hdf5Input, is_numeric, one_a_row, pieces_of, same_length
from hpctrain.convert.rows import (
    cast,
    dense_rows,
    field_name,
    make_field,
    sparse_rows,
    stack,
    unique_names,
)
from hpctrain.data.columns import Array, Columns, RaggedRows, Rows, SparseRows, take
from hpctrain.data.schema import DenseField, FieldName, Fields, RaggedField, SparseField
from hpctrain.errors import UserError
from hpctrain.registry import register
from hpctrain.section import Section

MOST_EVENT_BYTES = 2**30
"""Of one event of a dense dataset: what is larger was not meant."""


class Hdf5Field(Section):
    """Which datasets make a field, and how."""

    dataset: str | tuple[str, ...]
    """Path of the dataset, or of several that are put side by side as the field's features."""
    form: Literal["dense", "sparse", "ragged"] = "dense"
    """``sparse`` keeps only the cells that are not zero."""
    offsets: str | None = None
    """Dataset of (events + 1) positions where each event's items begin: of a ragged field, and of a sparse
    one that is sparse in the file already. Ragged without: a dataset of variable-length type."""
    indices: str | None = None
    """Dataset of each value's flat C-order position in ``shape``: of a field that is sparse in the file."""
    shape: tuple[PositiveInt, ...] | None = None
    """Of an event's array, where ``indices`` refer to it."""
    dtype: str | None = None
    """Type to store. None: the file's."""
    features: tuple[str, ...] = ()
    """Names along the last axis. Several datasets: their own names when not given."""


def _short_forms(value: Any) -> Any:
    """``energy: NAME`` and ``momentum: [NAME, NAME]`` are dense fields."""
    if not isinstance(value, Mapping):
        return value
    return {
        name: {"dataset": entry} if isinstance(entry, str | list | tuple) else entry
        for name, entry in value.items()
    }


@register("converters")
class Hdf5(Converter):
    """HDF5 of any layout: datasets → fields, dense, sparse or ragged; without ``fields`` every numeric dataset a dense one."""

    packages = ("numpy", "h5py")
    what = "dataset"

    class Config(ConverterConfig):
        speed_keys: ClassVar[frozenset[str]] = frozenset({"batch"})
        kind: Literal["hdf5"] = "hdf5"
        fields: Annotated[dict[FieldName, Hdf5Field], BeforeValidator(_short_forms)] = Field(
            default_factory=dict
        )
        """The fields to make. ``energy: NAME`` is short for a dense one. Empty: every numeric dataset whose
        first axis has the length that most have, under its own name."""
        batch: PositiveInt = 4096
        """Most events in memory at a time; large ones are read in smaller pieces."""

    config: Config

    def fields(self, path: Path) -> Fields:
        with Hdf5Input(path) as file:
            return {name: _field(file, name, rule) for name, rule in self._rules(file).items()}

    def pieces(self, path: Path, number: int, scalars: Sequence[str]) -> Iterator[Piece]:
        with Hdf5Input(path) as file:
            rules = self._rules(file)
            fields = {name: _field(file, name, rule) for name, rule in rules.items()}
            lengths = [
                *(length for rule in rules.values() for length in _lengths(file, rule)),
                *((name, len(file.dataset(name))) for name in scalars),
            ]
            events = same_length(path, lengths)
            row_bytes = sum(_row_bytes(file, rule, events) for rule in rules.values())
            for start, stop in pieces_of(events, row_bytes, self.config.batch):
                raw = {
                    name: _read(file, name, rule, fields[name], start, stop) for name, rule in rules.items()
                }
                rows = np.arange(start, stop, dtype=np.int64)
                finite = Finite(self.config.non_finite, path, self.what)
                good = finite.keep(rows, {_described(rules[name]): values for name, values in raw.items()})
                columns: Columns = {
                    name: cast(values, fields[name], f"{path}: field '{name}'")
                    for name, values in raw.items()
                }
                chosen = np.flatnonzero(good)
                yield Piece(
                    columns=columns if good.all() else take(columns, chosen),
                    rows=rows[chosen],
                    scalars={
                        name: one_a_row(file.read(name, start, stop), f"{path}: dataset '{name}'")[chosen]
                        for name in scalars
                    },
                    read=stop - start,
                    dropped=finite.dropped,
                    progress=stop / events,
                )

    def scalar(self, path: Path, name: str | None) -> Iterator[Array]:
        with Hdf5Input(path) as file:
            rules = self._rules(file)
            events = _events(file, next(iter(rules.values()))) if name is None else len(file.dataset(name))
            for start, stop in pieces_of(events, 8, 2**20):
                if name is None:
                    yield np.ones(stop - start)
                else:
                    yield one_a_row(file.read(name, start, stop), f"{path}: dataset '{name}'")

    def describe(self) -> dict[str, Any]:
        return {
            "image_axes": "cells"
        }  # of a field that is called image; what it shows is not said in the file

    def about(self, path: Path) -> dict[str, Any]:
        with Hdf5Input(path) as file:
            used = {name for rule in self._rules(file).values() for name in _parts(rule)} | self._scalars()
            left_out = [name for name in file.names() if name not in used]
            return {
                **file.attributes(),
                **({"left_out": left_out} if left_out and not self.config.fields else {}),
            }

    def label(self, names: Sequence[str], about: Sequence[Mapping[str, Any]]) -> str:
        return self.config.description or f"HDF5 {listed(names)}{said_by_all(about)}"

    def _rules(self, file: Hdf5Input) -> dict[str, Hdf5Field]:
        if self.config.fields:
            return dict(self.config.fields)
        lengths: dict[int, list[str]] = {}
        for name in file.names():
            with suppress(UserError):  # a single number is no field
                dataset = file.dataset(name)
                if is_numeric(dataset):
                    lengths.setdefault(len(dataset), []).append(name)
        if not lengths:
            raise UserError(
                f"{file.path} has no numeric dataset with one entry an event",
                hint="fields.NAME={dataset: …} takes others",
            )
        most = max(len(names) for names in lengths.values())
        usual = [length for length, names in lengths.items() if len(names) == most]
        if len(usual) > 1:
            found = " and ".join(f"{length:,} ({', '.join(lengths[length][:4])})" for length in sorted(usual))
            raise UserError(
                f"{file.path}: which axis is the event? As many datasets have one length as the other: {found}",
                hint="Name the fields: fields.NAME=DATASET, and sparse or ragged ones as docs/convert.md shows",
            )
        wanted = [name for name in lengths[usual[0]] if name not in self._scalars()]
        names = unique_names(wanted, str(file.path), self.what)
        return {field: Hdf5Field(dataset=name) for field, name in names.items()}

    def _scalars(self) -> set[str | None]:
        """Datasets that labels and weights come from."""
        rules = (*self.config.label.values(), *self.config.weight.values())
        return {getattr(rule, "branch", None) for rule in rules}


def _parts(rule: Hdf5Field) -> tuple[str, ...]:
    return (rule.dataset,) if isinstance(rule.dataset, str) else rule.dataset


def _described(rule: Hdf5Field) -> str:
    return "'" + "', '".join(_parts(rule)) + "'"


def _lengths(file: Hdf5Input, rule: Hdf5Field) -> list[tuple[str, int]]:
    """The datasets of the rule whose length says the number of events, with what they say."""
    if rule.offsets is not None:
        return [(rule.offsets, len(file.dataset(rule.offsets)) - 1)]
    return [(name, len(file.dataset(name))) for name in _parts(rule)]


def _events(file: Hdf5Input, rule: Hdf5Field) -> int:
    return _lengths(file, rule)[0][1]


def _row_bytes(file: Hdf5Input, rule: Hdf5Field, events: int) -> float:
    """Bytes that the rule's datasets hold for an event, on average."""
    total = 0
    for name in (*_parts(rule), *filter(None, (rule.indices, rule.offsets))):
        dataset = file.dataset(name)
        each = 512 if dataset.dtype.kind == "O" else dataset.dtype.itemsize
        total += each * dataset.size
    return total / max(1, events)


def _field(file: Hdf5Input, name: str, rule: Hdf5Field) -> DenseField | SparseField | RaggedField:
    """The field that the rule makes of this file. Raises ``UserError`` when it cannot."""
    import h5py

    where = f"{file.path}: field '{name}'"
    datasets = [file.dataset(part) for part in _parts(rule)]
    for part, dataset in zip(_parts(rule), datasets, strict=True):
        variable = h5py.check_vlen_dtype(dataset.dtype)
        if rule.form == "ragged" and rule.offsets is None and variable is None:
            raise UserError(
                f"{where}: dataset '{part}' has the same length in every event",
                hint="Name the dataset of offsets, or leave form: ragged out",
            )
        kind = np.dtype(variable).kind if variable is not None else dataset.dtype.kind
        if kind not in "fiub" or (variable is not None and rule.form != "ragged"):
            raise UserError(
                f"{where}: dataset '{part}' holds {dataset.dtype}, not numbers of a fixed shape",
                hint="Variable-length numbers are form: ragged; leave text out",
            )
    first = datasets[0]
    variable = h5py.check_vlen_dtype(first.dtype)
    shape = first.shape[1:]
    if len({dataset.shape[1:] for dataset in datasets}) > 1:
        raise UserError(f"{where}: its datasets have different shapes", hint="Make a field of each")
    features = rule.features
    if not isinstance(rule.dataset, str):
        shape = (*shape, len(datasets))
        features = features or tuple(field_name(part.rsplit("/", 1)[-1]) for part in rule.dataset)
    source = np.result_type(
        *(np.dtype(v) if (v := h5py.check_vlen_dtype(d.dtype)) else d.dtype for d in datasets)
    )
    dtype = rule.dtype or str(np.dtype(np.uint8) if source == bool else source.newbyteorder("="))
    if rule.indices is not None:
        if rule.shape is None or rule.offsets is None or rule.form != "sparse":
            raise UserError(f"{where}: indices need form: sparse, offsets and shape")
        shape = rule.shape
    each = int(np.prod(shape)) * np.dtype(source).itemsize
    if rule.form != "ragged" and rule.offsets is None and each > MOST_EVENT_BYTES:
        raise UserError(
            f"{where}: an event of shape {list(shape)} takes {each / 2**30:.1f} GiB",
            hint="Is the first axis the event? Otherwise write it in other pieces",
        )
    return make_field(rule.form, where, shape=shape, dtype=dtype, features=features)


def _read(
    file: Hdf5Input,
    name: str,
    rule: Hdf5Field,
    field: DenseField | SparseField | RaggedField,
    start: int,
    stop: int,
) -> Rows:
    """Events ``start`` to ``stop`` of a field, in the file's own types."""
    where = f"{file.path}: field '{name}'"
    if rule.offsets is None:
        parts = [file.read(part, start, stop) for part in _parts(rule)]
        if rule.form == "ragged":
            ragged = [RaggedRows.from_lists(list(part), dtype=part[0].dtype) for part in parts]
            return stack(ragged, where) if len(ragged) > 1 or field.shape else ragged[0]
        array = np.stack(parts, axis=-1) if not isinstance(rule.dataset, str) else parts[0]
        return SparseRows.from_dense(array) if rule.form == "sparse" else dense_rows(array)
    found = file.read(rule.offsets, start, stop + 1)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise UserError(
            f"{where}: dataset '{rule.offsets}' is {found.dtype}{list(found.shape[1:])}, no list of offsets",
            hint="Offsets are (events + 1) whole numbers: where the items of each event begin",
        )
    offsets = found.astype(np.int64)
    first, last = int(offsets[0]), int(offsets[-1])
    lengths = [len(file.dataset(part)) for part in _parts(rule)]
    if (np.diff(offsets) < 0).any() or first < 0 or last > min(lengths):
        raise UserError(
            f"{where}: the offsets in '{rule.offsets}' fall or lead outside '{_parts(rule)[0]}' "
            f"({min(lengths)} values), near event {start}",
            hint="Is it the dataset of offsets that belongs to these values?",
        )
    values = [file.read(part, first, last) for part in _parts(rule)]
    joined = np.stack(values, axis=-1) if not isinstance(rule.dataset, str) else values[0]
    if rule.form == "ragged":
        return RaggedRows(offsets - first, joined)
    if rule.indices is None:
        raise UserError(f"{where}: a sparse field with offsets needs indices and shape")
    indices = file.read(rule.indices, first, last)
    return sparse_rows(offsets - first, indices, joined, field.shape, where, start)
