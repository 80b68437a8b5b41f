"""What a split does not hold: processes without an event in it, and signals that exclude each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError
from hpctrain.physics.counting import expected_events


def absent_processes(dataset: ShardDataset) -> list[dict[str, Any]]:
    """The processes of the provenance without an event in this split, with what they are known to add.

    Each is ``{"name", "preselected", "expected"}``. ``expected`` (value, error) is the whole sample's
    number of preselected events; with ``upper_limit``, the one-sided 68 % one, where nothing passed at
    all. It is absent where the record has no weight or no ``preselected``, which writers other than our
    generation may leave out; so may ``in_split``, and the events are then counted.
    """
    found = []
    counted: Counter[int] | None = None
    for number, process in enumerate(dataset.provenance.get("processes", [])):
        here = process.get("in_split")
        if here is None:
            if counted is None:
                counted = Counter(dataset.column("process").tolist() if "process" in dataset.fields else [])
            here = counted[number]
        if here:
            continue
        entry = {"name": process.get("name", f"process {number}")}
        if "preselected" in process:
            entry["preselected"] = process["preselected"]
            if "weight" in process:
                entry["expected"] = expected_events(process["preselected"], process["weight"])
        found.append(entry)
    return found


def absence_warning(split: str, entry: Mapping[str, Any]) -> str:
    """One entry of :func:`absent_processes` in words."""
    text = f"no {split} event of {entry['name']}: it is missing from every weighted figure of that split"
    expected = entry.get("expected")
    if expected is None:
        return text
    if "upper_limit" in expected:
        return (
            f"{text}; up to {expected['upper_limit']:.2g} expected events (68 % limit, none was preselected)"
        )
    return f"{text}; about {expected['value']:.2g} expected events"


def refuse_several_signals(processes: Sequence[Mapping[str, Any]]) -> None:
    """Raise ``UserError`` for two mass points of one recipe: no world has both, so their sum means nothing."""
    seen: dict[str, str] = {}
    for process in processes:
        masses = process.get("masses")
        if not process.get("signal") or not masses:
            continue
        recipe = repr((sorted(map(str, masses)), process.get("settings")))
        label = str(process.get("label", process.get("name", "one without a name")))
        if recipe in seen:
            raise UserError(
                f"the data hold two mass points of one signal, {seen[recipe]} and {label}: "
                "rates and significances of their sum describe nothing",
                hint="generate and evaluate one run for each mass point; training on several is fine",
            )
        seen[recipe] = label
