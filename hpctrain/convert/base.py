"""What a converter is: a format's reader, from a file to a stream of pieces of bounded size."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hpctrain.config import ComponentConfig
from hpctrain.convert.rules import LabelRules, WeightRules
from hpctrain.data.columns import Array, Columns, RaggedRows, SparseRows
from hpctrain.data.schema import Fields
from hpctrain.errors import UserError
from hpctrain.machine import package_version

RESERVED = ("label", "weight", "process", "source", "event_id")
"""Fields that the driver adds to every converted dataset."""


class ConverterConfig(ComponentConfig):
    """What every converter can be told."""

    label: LabelRules = Field(default_factory=dict)
    """The class of each event (field ``label``). A whole number for all files; a mapping of patterns of
    file names to numbers (``{"*ttbar*": 1, "*qcd*": 0}``); the name of a branch, dataset or column; or
    ``{branch: NAME, values: {11: 0, 22: 1}}`` to translate its values. Not given: the format's own label
    where it has one, else no such field."""
    weight: WeightRules = Field(default_factory=dict)
    """Weight of each event (field ``weight``). A number; the name of a branch; or ``{cross_section_pb: 831.8,
    luminosity_fb: 36}`` for cross section × luminosity × generator weight / sum of generator weights, the
    sum over all events read, before any selection; or a mapping of patterns of file names to those, files
    of one pattern being one sample. Not given: the format's own weight where it has one, else 1."""
    non_finite: Literal["refuse", "drop"] = "refuse"
    """NaN or infinity in what is read: ``refuse`` stops at the first and names file, branch and event;
    ``drop`` leaves such events out and counts them in the provenance."""
    description: str = ""
    """What these events are, in a few words for plots and reports. Not given: the names of the files."""


@dataclass(frozen=True)
class Piece:
    """Some events of a file, as rows of the dataset."""

    columns: Columns
    """May lack the fields when there are no rows."""
    rows: NDArray[np.int64]
    """(n,) number in the file of the event that each row comes from."""
    scalars: Mapping[str, Array]
    """(n,) of each name that was asked for."""
    read: int
    """Events read for it, kept or not."""
    dropped: int
    """Of those, left out because of NaN or infinity."""
    progress: float
    """Part of the file that is read when this piece is, 0 to 1."""

    @classmethod
    def nothing(cls, scalars: Sequence[str], read: int, dropped: int, progress: float) -> Piece:
        """No rows of so many events."""
        none = np.zeros(0, dtype=np.int64)
        return cls({}, none, dict.fromkeys(scalars, none), read, dropped, progress)


class Converter(ABC):
    """Reads one format. Subclasses register under ``converters`` and own a ``Config(ConverterConfig)``."""

    default_label: ClassVar[str | None] = None
    """Name of the scalar that is the label when the user says nothing."""
    default_weight: ClassVar[str | None] = None
    """Name of the scalar that is the weight when the user says nothing, and the generator's weight."""
    what: ClassVar[str] = "branch"
    """What the format calls a column, for messages."""
    packages: ClassVar[tuple[str, ...]] = ("numpy",)
    """Distributions whose versions go into the provenance."""
    units: ClassVar[Mapping[str, str]] = {}
    """Unit of each field or feature that has one, for tables and plots."""
    modules: ClassVar[tuple[str, ...]] = ()
    """Modules that must be importable."""

    config: ConverterConfig

    def __init__(self, config: ConverterConfig) -> None:
        self.config = config

    def check(self) -> None:
        """Raise ``UserError`` when a package is missing; imports none of them."""
        for module in self.modules:
            if importlib.util.find_spec(module) is None:
                raise UserError(
                    f"converting {self.config.kind} needs {module}, which is not installed",
                    hint="pip install 'hpctrain[data]'",
                )

    @abstractmethod
    def fields(self, path: Path) -> Fields:
        """Fields that ``pieces`` gives of this file. Raises ``UserError`` when it is not of this format."""

    @abstractmethod
    def pieces(self, path: Path, number: int, scalars: Sequence[str]) -> Iterator[Piece]:
        """The file's events, in their order; ``number`` is the file's among the inputs (it seeds simulations).

        ``scalars`` are names of numbers, one an event, that the options want beside the fields.
        """

    @abstractmethod
    def scalar(self, path: Path, name: str | None) -> Iterator[Array]:
        """One number of every event of the file, in pieces; 1 for each when ``name`` is None."""

    @abstractmethod
    def label(self, names: Sequence[str], about: Sequence[Mapping[str, Any]]) -> str:
        """What the events are, honestly, in one line: names of the files, what they say (``about``), what was done."""

    def about(self, path: Path) -> dict[str, Any]:
        """What the file says of itself (generator, description), for its entry in ``sources``."""
        return {}

    def describe(self) -> dict[str, Any]:
        """More for the provenance: settings whose meaning the fields do not show."""
        return {}

    def versions(self) -> dict[str, str | None]:
        """Versions of what read the files."""
        return {name: package_version(name) for name in self.packages}


def listed(names: Sequence[str], what: str = "file") -> str:
    """``file a`` or ``files a, b and 3 more``.

    >>> listed(["a.h5"]), listed(["a", "b", "c", "d", "e"])
    ('file a.h5', 'files a, b, c and 2 more')
    """
    if len(names) == 1:
        return f"{what} {names[0]}"
    shown = ", ".join(names[:3])
    return f"{what}s {shown}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def said_by_all(about: Sequence[Mapping[str, Any]], keys: Sequence[str] = ("description", "title")) -> str:
    """``: `` and what all files say of their content, in one line; empty when they say nothing or different things."""
    texts = {" ".join(str(next((a[k] for k in keys if k in a), "")).split()) for a in about}
    text = texts.pop() if len(texts) == 1 else ""
    return f": {text}" if text and len(text) <= 200 else ""


@dataclass
class Finite:
    """Holds what was read to ``non_finite``: refuses NaN and infinity, or says which events to drop."""

    policy: Literal["refuse", "drop"]
    path: Path
    what: str
    """What the format calls a column."""
    hint: str = "Mend the file, or leave such events out with non_finite=drop (their number is kept)"
    dropped: int = field(default=0, init=False)

    def keep(self, events_of_rows: Array, branches: Mapping[str, Any]) -> NDArray[np.bool_]:
        """(n,) which rows are finite in every branch; ``events_of_rows`` (n,) are their events' numbers in the file.

        ``branches``: arrays (n, …), ``RaggedRows`` or ``SparseRows`` by name; integers are always finite.
        Raises ``UserError`` under ``refuse``.
        """
        events = len(events_of_rows)
        good = np.ones(events, dtype=bool)
        culprits: dict[int, str] = {}
        for name, rows in branches.items():
            bad = _bad_rows(rows)
            if len(bad):
                good[bad] = False
                culprits.setdefault(int(bad.min()), name)
        if culprits and self.policy == "refuse":
            row = min(culprits)
            raise UserError(
                f"{self.path}: {self.what} {culprits[row]} has NaN or infinity in event {int(events_of_rows[row])}",
                hint=self.hint,
            )
        self.dropped += events - int(good.sum())
        return good


def _bad_rows(rows: Any) -> NDArray[np.int64]:
    """Numbers of the rows with a value that is not finite; may repeat."""
    values = rows.values if isinstance(rows, RaggedRows | SparseRows) else rows
    if values.dtype.kind != "f":
        return np.zeros(0, dtype=np.int64)
    finite = np.isfinite(values)
    if finite.all():
        return np.zeros(0, dtype=np.int64)
    bad = np.flatnonzero(~finite.reshape(len(values), -1).all(axis=1))
    if isinstance(rows, RaggedRows | SparseRows):
        return np.asarray(np.searchsorted(rows.offsets, bad, side="right") - 1, dtype=np.int64)
    return np.asarray(bad, dtype=np.int64)
