"""What a shard directory says of itself: fields, shards, provenance (``dataset.json``)."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    ValidationError,
    field_validator,
    model_validator,
)

from hpctrain.data.columns import Array, Columns, RaggedRows, SparseRows, count, index_dtype, offsets_of
from hpctrain.errors import UserError
from hpctrain.files import read_json

SCHEMA_VERSION = 2
LARGEST = 2**29
"""Bytes of a ``dataset.json`` that is read: some millions of shards."""
_CHANGED = "It is not as it was written: copy it again from where it came, or make the dataset again"

DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
)  # fmt: skip
"""What a number may be: the types that numpy and torch have alike, little-endian."""


class _Model(BaseModel):
    # NaN in provenance must reach the JSON writer, which refuses it, and not become null on the way.
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="constants"
    )


class _Field(_Model):
    shape: tuple[NonNegativeInt, ...] = ()
    dtype: str = "float32"
    features: tuple[str, ...] = ()
    """Names along the last axis of ``shape``, where it has any: pt, eta, phi …"""

    @field_validator("dtype")
    @classmethod
    def _is_a_number(cls, dtype: str) -> str:
        try:
            found = np.dtype(dtype)
        except (TypeError, ValueError, SyntaxError):  # numpy's, of a text that begins with '('
            found = None
        if found is None or found not in [np.dtype(name).newbyteorder("<") for name in DTYPES]:
            raise ValueError(f"dtype '{dtype}' is not a number's; it may be {', '.join(DTYPES)}")
        return found.name

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.features and (not self.shape or len(self.features) != self.shape[-1]):
            raise ValueError(f"{len(self.features)} features are named for the shape {list(self.shape)}")
        return self


class DenseField(_Field):
    """One array of a fixed shape per event; ``()`` is a number."""

    kind: Literal["dense"] = "dense"


class SparseField(_Field):
    """One array of a fixed shape per event of which only the cells that are not zero are stored."""

    kind: Literal["sparse"] = "sparse"

    @model_validator(mode="after")
    def _has_an_index_for_each_cell(self) -> Self:
        if math.prod(self.shape) > 2**32:
            raise ValueError(f"the shape {list(self.shape)} has more cells than a uint32 can number")
        return self


class RaggedField(_Field):
    """A list of items per event, each of ``shape``: particles, hits, tracks, vertices."""

    kind: Literal["ragged"] = "ragged"


AnyField = Annotated[DenseField | SparseField | RaggedField, Field(discriminator="kind")]
Fields = Mapping[str, DenseField | SparseField | RaggedField]
Count = Annotated[int, Field(ge=0, le=2**53)]
"""Also exact where JSON's numbers are floating-point ones."""
FieldName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


class ShardInfo(_Model):
    """One file of the directory."""

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    events: Count
    bytes: Count
    sha256: str
    """Of the file."""
    digest: str
    """Of the shard's table of checksums (see ``checksums``): what any part of it that is read is held to."""


class DatasetInfo(_Model):
    """``dataset.json``."""

    schema_version: Literal[2] = 2
    events: Count
    fields: dict[FieldName, AnyField]
    shards: tuple[ShardInfo, ...]
    provenance: dict[str, Any] = {}
    """Where the events come from: generator, versions, seeds, processes."""
    scale: dict[str, Any] = {}
    """Constants of the training split that every split shares."""

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if self.events != sum(shard.events for shard in self.shards):
            raise ValueError(f"events is {self.events}, the shards hold {sum(s.events for s in self.shards)}")
        if "row" in self.fields:  # a batch has the numbers of its events under that name
            raise ValueError("a field cannot be called 'row'")
        processes = self.provenance.get("processes", [])
        if not isinstance(processes, list | tuple) or not all(isinstance(p, Mapping) for p in processes):
            raise ValueError("provenance: 'processes' is not a list of mappings (name, …), one for each")
        return self

    @classmethod
    def read(cls, directory: Path) -> "DatasetInfo":
        """Parse ``directory/dataset.json``. Raises ``UserError`` naming the file and the cure."""
        path = directory / "dataset.json"
        try:
            size = path.stat().st_size
        except FileNotFoundError as error:
            raise _no_dataset(directory) from error
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}", hint="Check the path") from error
        if size > LARGEST:
            raise UserError(
                f"{path} has {size / 1e6:.0f} MB, no description of a dataset is so large", hint=_CHANGED
            )
        data = read_json(path, _CHANGED)
        if not isinstance(data, dict):
            raise UserError(f"{path}: is no JSON mapping", hint=_CHANGED)
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise _other_version(path, version)
        try:
            json.dumps(data, allow_nan=False, ensure_ascii=False).encode()  # also what others will write
            return cls.model_validate(data)
        except ValidationError as error:
            raise UserError(f"{path}: {first_problem(error)}", hint=_CHANGED) from error
        except ValueError as error:
            raise UserError(f"{path}: holds what is not JSON: {error}", hint=_CHANGED) from error


def _no_dataset(directory: Path) -> UserError:
    """Why there is no ``dataset.json``, as far as one can see."""
    if not directory.is_dir():
        return UserError(f"no dataset at {directory}: there is no such directory", hint="Check the path")
    inside = sorted(path.parent.name for path in directory.glob("*/dataset.json"))
    if inside:
        return UserError(
            f"no dataset at {directory}: dataset.json is missing, datasets in it are {', '.join(inside[:4])}",
            hint=f"Name one of them: {directory / inside[0]}",
        )
    shards = len(list(directory.glob("*.h5")))
    what = f"; without it the {shards} .h5 files there are not read" if shards else ""
    return UserError(
        f"no dataset at {directory}: dataset.json is missing{what}",
        hint="It is written last: wait for its writer, or give that command (`hpctrain generate`, …) again, which "
        "writes all anew. Is this a copy, copy dataset.json too",
    )


def _other_version(path: Path, version: Any) -> UserError:
    if type(version) is not int:
        found = "there is no schema_version" if version is None else f"schema_version is {version!r}"
        return UserError(f"{path}: {found}, this hpctrain reads {SCHEMA_VERSION}", hint=_CHANGED)
    return UserError(
        f"{path}: schema version {version}, this hpctrain reads {SCHEMA_VERSION}",
        hint="Generate or convert the dataset again" if version < SCHEMA_VERSION else "Use a newer hpctrain",
    )


def first_problem(error: ValidationError) -> str:
    """Where and what, in one line."""
    first = error.errors(include_url=False)[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))


def room(fields: Fields, events: int, counts: Mapping[str, Array]) -> Columns:
    """Columns of the types and shapes that ``fields`` say, to be filled: only offsets are set.

    ``counts``, int64 (events,): how many values each event has in each sparse and ragged field.
    """
    columns: Columns = {}
    for name, field in fields.items():
        if field.kind == "dense":
            columns[name] = np.empty((events, *field.shape), dtype=field.dtype)
            continue
        offsets = offsets_of(counts[name])
        items = int(offsets[-1])
        if field.kind == "ragged":
            columns[name] = RaggedRows(offsets, np.empty((items, *field.shape), dtype=field.dtype))
        else:
            indices = np.empty(items, dtype=index_dtype(math.prod(field.shape)))
            columns[name] = SparseRows(offsets, indices, np.empty(items, dtype=field.dtype))
    return columns


def no_events(fields: Fields) -> Columns:
    """Columns without events, of the types and shapes that ``fields`` say."""
    return room(fields, 0, {name: np.zeros(0, dtype=np.int64) for name in fields})


def check(columns: Columns, fields: Fields, where: str, *, hint: str = "") -> int:
    """Number of events, when ``columns`` is what ``fields`` says. Raises ``UserError`` naming ``where`` and field."""
    if set(columns) != set(fields):
        odd = sorted(set(columns) ^ set(fields))
        raise UserError(f"{where}: fields differ from the schema: {', '.join(odd)}", hint=hint)
    try:
        events = count(columns)
    except ValueError as error:
        raise UserError(f"{where}: {error}", hint=hint) from error
    for name, field in fields.items():
        found = problem(columns[name], field)
        if found:
            raise UserError(f"{where}: field '{name}': {found}", hint=hint)
    return events


def problem(values: Any, field: DenseField | SparseField | RaggedField) -> str | None:
    """What the values of a field have that ``field`` does not allow, in words; None when nothing."""
    kind = {SparseRows: "sparse", RaggedRows: "ragged"}.get(type(values), "dense")
    if kind != field.kind:
        return f"is {kind}, the schema says {field.kind}"
    if isinstance(values, SparseRows):
        return _sparse_problem(values, field)
    if isinstance(values, RaggedRows):
        return offsets_problem(values.offsets, len(values.values)) or _array_problem(values.values, field)
    return _array_problem(values, field)


def _array_problem(values: Any, field: _Field) -> str | None:
    if values.shape[1:] != field.shape or values.dtype != np.dtype(field.dtype):
        return f"is {values.dtype}{list(values.shape[1:])}, the schema says {field.dtype}{list(field.shape)}"
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return "has NaN or infinite values"
    return None


def _sparse_problem(values: SparseRows, field: _Field) -> str | None:
    size = math.prod(field.shape)
    if values.values.dtype != np.dtype(field.dtype) or values.indices.dtype != index_dtype(size):
        return (
            f"holds {values.values.dtype} at {values.indices.dtype} indices, "
            f"the schema says {field.dtype} at {np.dtype(index_dtype(size))}"
        )
    if values.values.shape != values.indices.shape or values.values.ndim != 1:
        return f"has {len(values.indices)} indices and {len(values.values)} values"
    found = offsets_problem(values.offsets, len(values.values))
    if found:
        return found
    if len(values.indices) and int(values.indices.max()) >= size:
        return f"has an index {int(values.indices.max())} outside its shape {list(field.shape)}"
    # Falls from one cell to the next are right only where a new row begins.
    rises = values.indices[1:] > values.indices[:-1]
    starts = values.offsets[1:-1]
    rises[starts[(starts > 0) & (starts < len(values.indices))] - 1] = True
    if not rises.all():
        return "has rows whose indices do not rise (each cell may be named once)"
    if values.values.dtype.kind == "f" and not np.isfinite(values.values).all():
        return "has NaN or infinite values"
    return None


def offsets_problem(offsets: Any, values: int, *, begin: bool = True, end: bool = True) -> str | None:
    """What is wrong with the offsets of rows that own ``values`` values, in words; None when nothing is.

    ``begin`` and ``end``: whether they are those of the first and of the last rows; between, the rest is unknown.
    """
    if offsets.dtype != np.int64 or offsets.ndim != 1:
        return f"has offsets of type {offsets.dtype}{list(offsets.shape)}, they must be int64 (rows + 1,)"
    if not len(offsets):
        return "has no offsets: without rows there is one, 0"
    if (offsets[0] != 0 if begin else offsets[0] < 0) or (offsets[1:] < offsets[:-1]).any():
        return "has offsets that do not rise from 0"
    if offsets[-1] != values if end else offsets[-1] > values:
        return f"has offsets to {offsets[-1]} for {values} values"
    return None
