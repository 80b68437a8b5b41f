"""One input file → rows of the dataset: the converter's pieces with label, weight, process, source and event_id."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpctrain.convert.base import Converter, ConverterConfig, Finite, Piece
from hpctrain.convert.rules import Sample
from hpctrain.data.columns import Columns, RaggedRows, SparseRows, take
from hpctrain.errors import UserError

DAMAGED = "The file is damaged or not whole: copy it again from where it came"


@dataclass(frozen=True)
class FileTask:
    """What it takes to convert one file, in any process."""

    config: ConverterConfig
    path: Path
    number: int
    """Among the inputs."""
    process: int
    sample: Sample


@dataclass(frozen=True)
class FileResult:
    """What became of a file."""

    size: int
    """Bytes."""
    sha256: str
    read: int
    dropped: int
    """Events left out for NaN or infinity."""
    kept: int
    """Rows of the dataset."""
    about: Mapping[str, Any]
    """What the file says of itself."""


def columns_of(task: FileTask, results: list[FileResult]) -> Iterator[tuple[Columns, float]]:
    """(columns, part of the file done) of the file's events; its result is appended when all were given.

    Raises ``UserError`` when the file has no events, is damaged, or changes meanwhile.
    """
    converter: Converter = task.config.build()
    before = task.path.stat()
    digest = sha256_of(task.path)
    read = dropped = kept = 0
    for piece in converter.pieces(task.path, task.number, task.sample.wanted):
        columns, bad = _complete(piece, task, converter.what)
        read += piece.read
        dropped += piece.dropped + bad
        rows = len(columns["source"])
        kept += rows
        if rows:
            yield columns, min(1.0, piece.progress)
    if read == 0:
        raise UserError(f"{task.path} holds no events", hint="Leave it out")
    after = task.path.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise UserError(
            f"{task.path} changed while it was read", hint="Convert it when whatever writes it is done"
        )
    results.append(FileResult(before.st_size, digest, read, dropped, kept, converter.about(task.path)))


def sha256_of(path: Path) -> str:
    """Hexadecimal digest of a file's bytes."""
    with path.open("rb", buffering=0) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _complete(piece: Piece, task: FileTask, what: str) -> tuple[Columns, int]:
    """The piece's columns with the fields of every dataset; and how many events their scalars cost it."""
    columns, rows, scalars, bad = dict(piece.columns), piece.rows, dict(piece.scalars), 0
    if scalars and len(rows):
        finite = Finite(task.config.non_finite, task.path, what)
        good = finite.keep(rows, scalars)
        if not good.all():
            bad = len(np.unique(rows[~good]))
            chosen = np.flatnonzero(good)
            columns = take(columns, chosen)
            rows, scalars = rows[chosen], {name: values[chosen] for name, values in scalars.items()}
    sample = task.sample
    if sample.label is not None:
        columns["label"] = sample.label.apply(scalars, len(rows), str(task.path))
    columns["weight"] = sample.weight.apply(scalars, len(rows))
    columns["process"] = np.full(len(rows), task.process, dtype=np.int64)
    columns["source"] = np.full(len(rows), task.number, dtype=np.int64)
    columns["event_id"] = (np.int64(task.number) << np.int64(32)) + rows
    _refuse_overflow(columns, task.path)
    return columns, bad


def _refuse_overflow(columns: Columns, path: Path) -> None:
    """What was finite in the file may not be in the type of its field."""
    for name, rows in columns.items():
        values = rows.values if isinstance(rows, RaggedRows | SparseRows) else rows
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise UserError(
                f"{path}: field '{name}': a value is too large for {values.dtype}",
                hint="Give the field a wider dtype, or mend the file",
            )
