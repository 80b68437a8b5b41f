"""What joined datasets say of themselves: what all parts have in common at the top, the rest part by part.

``provenance["merged"]`` lists the parts in the order of their events: ``directory``, ``events`` and, under
``provenance``, what is not said at the top. Labels are joined, none is dropped.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpctrain.data.schema import DatasetInfo

Provenance = dict[str, Any]

NAMES = {"source": "sources", "process": "processes"}
"""Field of numbers → key of the provenance that names them."""
_OF_A_PART = {"in_split", "split_fraction"}
"""Keys of a process that count the events of one dataset."""


def join(parts: Sequence[tuple[str, DatasetInfo]]) -> Provenance:
    """The provenance of (directory, dataset) after dataset."""
    found = [leaf for directory, info in parts for leaf in _leaves(directory, info.provenance, info.events)]
    every = [provenance for _, _, provenance in found]
    common = {key: value for key, value in every[0].items() if all(_same(p, key, value) for p in every)}
    if any(_OF_A_PART & set(process) for process in common.get("processes", [])):
        del common["processes"]
    labels = list(dict.fromkeys(str(p.get("label", "events without a label")) for p in every))
    merged = [
        {
            "directory": directory,
            "events": events,
            "provenance": {key: value for key, value in provenance.items() if key not in common},
        }
        for directory, events, provenance in found
    ]
    return {**common, "label": " + ".join(labels), "merged": merged}


def _same(provenance: Provenance, key: str, value: Any) -> bool:
    return key in provenance and bool(provenance[key] == value)


def _leaves(directory: str, provenance: Provenance, events: int) -> list[tuple[str, int, Provenance]]:
    """(directory, events, whole provenance) of a dataset, or of each that it was merged from."""
    if "merged" not in provenance:
        return [(directory, events, dict(provenance))]
    top = {key: value for key, value in provenance.items() if key not in {"merged", "label"}}
    label = {"label": provenance["label"]} if "label" in provenance else {}
    return [
        (str(part["directory"]), int(part["events"]), {**label, **top, **part["provenance"]})
        for part in provenance["merged"]
    ]


def join_scale(parts: Sequence[tuple[str, DatasetInfo]]) -> tuple[dict[str, Any], list[str]]:
    """Scale constants that hold for all parts, and what differs: a line for each constant that is left out.

    ``image_max`` is the largest of the parts, the others stay where they are equal. Means and spreads of parts cannot
    be joined: they are of training events, and nobody noted of how many. Parts without events do not count.
    """
    filled = [(directory, info.scale) for directory, info in parts if info.events]
    scale: dict[str, Any] = {}
    differ = []
    for key in dict.fromkeys(key for _, constants in filled for key in constants):
        first, value = filled[0][0], filled[0][1].get(key)
        other = next(((d, c.get(key)) for d, c in filled if c.get(key) != value), None)
        values = [constants.get(key) for _, constants in filled]
        if other is None:
            scale[key] = value
        elif key == "image_max" and _alike(values):
            scale[key] = [max(channel) for channel in zip(*values, strict=True)]
        else:
            differ.append(f"'{key}' is {_short(value)} in {first} and {_short(other[1])} in {other[0]}")
    return scale, differ


def _alike(values: Sequence[Any]) -> bool:
    """Whether all are lists of as many numbers."""
    lists = all(isinstance(v, list) and all(isinstance(n, int | float) for n in v) for v in values)
    return lists and len({len(v) for v in values}) == 1


def _short(value: Any) -> str:
    text = "missing" if value is None else json.dumps(value)
    return text if len(text) < 60 else f"{text[:57]}…"


class Numbering:
    """What the numbers of ``source`` or ``process`` mean, the same number for the same thing in every merged part.

    In a dataset that was not merged, and where all parts share one list of names, numbers stay as they are.
    """

    def __init__(self, field: str, provenance: Provenance, events: int) -> None:
        self.field = field
        self.entries: list[Any] = list(provenance.get(NAMES[field], []))
        """Name (or entry) of each number."""
        self._parts: list[tuple[str, list[Any]]] = []
        self._ends = np.zeros(0, dtype=np.int64)
        if "merged" in provenance and not self.entries:
            leaves = _leaves("", provenance, events)
            self._parts = [(directory, list(p.get(NAMES[field], []))) for directory, _, p in leaves]
            self._ends = np.cumsum([count for _, count, _ in leaves])
            self._numbers: dict[str, int] = {}
            self._taken: set[str] = set()

    def unify(self, values: NDArray[np.int64], start: int) -> NDArray[np.int64]:
        """The numbers of events ``start`` onwards, made to mean the same in every part."""
        if not self._parts:
            return values
        unified = np.empty(len(values), dtype=np.int64)
        low = 0
        while low < len(values):
            part = int(np.searchsorted(self._ends, start + low, side="right"))
            high = min(len(values), int(self._ends[part]) - start)
            own, where = np.unique(values[low:high], return_inverse=True)
            unified[low:high] = np.array([self._number(part, int(n)) for n in own], dtype=np.int64)[where]
            low = high
        return unified

    def _number(self, part: int, number: int) -> int:
        directory, entries = self._parts[part]
        entry = entries[number] if 0 <= number < len(entries) else f"{self.field} {number} of {directory}"
        identity = _identity(entry)
        if identity not in self._numbers:
            if entry_name(entry) in self._taken:  # another thing of the same name
                name = f"{entry_name(entry)} of {directory}"
                entry = {**entry, "name": name} if isinstance(entry, Mapping) else name
            self._taken.add(entry_name(entry))
            self._numbers[identity] = len(self.entries)
            self.entries.append(entry)
        elif isinstance(entry, Mapping):  # counts of the parts hold for none of them together
            known = self.entries[self._numbers[identity]]
            same = {key: value for key, value in known.items() if entry.get(key) == value}
            self.entries[self._numbers[identity]] = {**same, "name": known["name"]}
        return self._numbers[identity]


def _identity(entry: Any) -> str:
    """What tells one source or process from another: all that is said of it but numbers, which count its events."""
    if not isinstance(entry, Mapping):
        return str(entry)
    said = {key: value for key, value in entry.items() if not isinstance(value, int | float)}
    return json.dumps(said, sort_keys=True)


def entry_name(entry: Any) -> str:
    """Name of a source or a process, given as text or as a mapping with ``name``.

    >>> entry_name({"name": "jz4", "generated": 100})
    'jz4'
    """
    if isinstance(entry, Mapping):
        return str(entry["name"]) if "name" in entry else json.dumps(entry, sort_keys=True)
    return str(entry)
