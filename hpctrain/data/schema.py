"""What a shard directory says of itself: fields, shards, provenance (``dataset.json``)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hpctrain.data.columns import Columns, SparseRows, count, index_dtype
from hpctrain.errors import UserError
from hpctrain.files import read_json

SCHEMA_VERSION = 1


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DenseField(_Model):
    """One array of a fixed shape per event; ``()`` is a number."""

    kind: Literal["dense"] = "dense"
    shape: tuple[int, ...] = ()
    dtype: str = "float32"


class SparseField(_Model):
    """One array of a fixed shape per event of which only the cells that are not zero are stored."""

    kind: Literal["sparse"] = "sparse"
    shape: tuple[int, ...]
    dtype: str = "float32"


AnyField = Annotated[DenseField | SparseField, Field(discriminator="kind")]
Fields = Mapping[str, DenseField | SparseField]


class ShardInfo(_Model):
    """One file of the directory."""

    file: str
    events: int
    bytes: int
    sha256: str


class DatasetInfo(_Model):
    """``dataset.json``."""

    schema_version: Literal[1] = 1
    events: int
    fields: dict[str, AnyField]
    shards: tuple[ShardInfo, ...]
    provenance: dict[str, Any] = {}
    """Where the events come from: generator, versions, seeds, processes."""
    scale: dict[str, Any] = {}
    """Constants of the training split that every split shares."""

    @model_validator(mode="after")
    def _counts_agree(self) -> "DatasetInfo":
        if self.events != sum(shard.events for shard in self.shards):
            raise ValueError(f"events is {self.events}, the shards hold {sum(s.events for s in self.shards)}")
        return self

    @classmethod
    def read(cls, directory: Path) -> "DatasetInfo":
        """Parse ``directory/dataset.json``. Raises ``UserError`` naming the file and the cure."""
        path = directory / "dataset.json"
        data = read_json(path)
        if data is None:
            raise UserError(
                f"no dataset at {directory}: {path.name} is missing",
                hint="`hpctrain generate` writes it last, so writing was not finished: give that command again",
            )
        if isinstance(data, dict) and data.get("schema_version") != SCHEMA_VERSION:
            raise UserError(
                f"{path}: schema version {data.get('schema_version')!r}, this hpctrain reads {SCHEMA_VERSION}",
                hint="Generate or convert the dataset again",
            )
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UserError(
                f"{path}: {where}: {first['msg']}", hint="Generate or convert the dataset again"
            ) from error


def check(columns: Columns, fields: Fields, where: str) -> int:
    """Number of events, when ``columns`` is what ``fields`` says. Raises ``UserError`` naming ``where`` and field."""
    if set(columns) != set(fields):
        odd = sorted(set(columns) ^ set(fields))
        raise UserError(f"{where}: fields differ from the schema: {', '.join(odd)}")
    try:
        events = count(columns)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    for name, field in fields.items():
        problem = _problem(columns[name], field)
        if problem:
            raise UserError(f"{where}: field '{name}': {problem}")
    return events


def _problem(values: Any, field: DenseField | SparseField) -> str | None:
    if isinstance(field, DenseField):
        if isinstance(values, SparseRows):
            return "is sparse, the schema says dense"
        if values.shape[1:] != field.shape or values.dtype != np.dtype(field.dtype):
            return (
                f"is {values.dtype}{list(values.shape[1:])}, the schema says {field.dtype}{list(field.shape)}"
            )
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            return "has NaN or infinite values"
        return None
    if not isinstance(values, SparseRows):
        return "is dense, the schema says sparse"
    size = int(np.prod(field.shape))
    if values.values.dtype != np.dtype(field.dtype) or values.indices.dtype != index_dtype(size):
        return f"holds {values.values.dtype} at {values.indices.dtype} indices, the schema says {field.dtype}"
    offsets = values.offsets
    if offsets[0] != 0 or (np.diff(offsets) < 0).any():
        return "has offsets that do not rise from 0"
    if not offsets[-1] == len(values.indices) == len(values.values):
        return (
            f"has offsets to {offsets[-1]} for {len(values.indices)} indices and {len(values.values)} values"
        )
    if len(values.indices) and int(values.indices.max()) >= size:
        return f"has an index {int(values.indices.max())} outside its shape {list(field.shape)}"
    falls = np.flatnonzero(np.diff(values.indices.astype(np.int64)) <= 0) + 1
    if len(np.setdiff1d(falls, offsets, assume_unique=False)):
        return "has rows whose indices do not rise (each cell may be named once)"
    if not np.isfinite(values.values).all():
        return "has NaN or infinite values"
    return None
