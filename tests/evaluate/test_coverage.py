"""What a split lacks is said; what excludes each other is not added."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpctrain.data.schema import DenseField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError
from hpctrain.evaluate.coverage import absence_warning, absent_processes, refuse_several_signals
from hpctrain.physics.processes import find_process


def test_absent_processes_with_what_they_are_worth(tmp_path: Path) -> None:
    processes = [
        {"name": "jz3", "preselected": 0, "in_split": 0, "weight": 2e7},
        {"name": "jz4", "preselected": 3, "in_split": 0, "weight": 100.0},
        {"name": "jz5", "preselected": 30, "in_split": 8, "weight": 1.0},
    ]
    with ShardWriter(tmp_path / "test", {"x": DenseField()}, provenance={"processes": processes}) as writer:
        writer.append({"x": np.zeros(8, dtype=np.float32)})
    none, few = absent_processes(ShardDataset.open(tmp_path / "test"))
    assert (none["name"], few["name"]) == ("jz3", "jz4")
    assert none["expected"]["upper_limit"] == pytest.approx(2.3e7, rel=0.01)
    assert few["expected"]["value"] == 300
    assert "up to 2.3e+07" in absence_warning("validation", none)
    assert "no test event of jz4" in absence_warning("test", few)


def test_processes_of_other_writers_are_counted(tmp_path: Path) -> None:
    """Converted data and those of users need not say how many events of a process a split holds."""
    processes: list[dict[str, Any]] = [
        {"name": "ttbar"},
        {"name": "qcd", "preselected": 12, "weight": 2.0},
        {},
    ]
    with ShardWriter(
        tmp_path / "test", {"process": DenseField(dtype="int64")}, provenance={"processes": processes}
    ) as writer:
        writer.append({"process": np.zeros(8, dtype=np.int64)})
    qcd, unnamed = absent_processes(ShardDataset.open(tmp_path / "test"))
    assert (qcd["name"], qcd["expected"]["value"]) == ("qcd", 24)
    assert unnamed == {"name": "process 2"}
    assert absence_warning("test", unnamed).startswith("no test event of process 2")


def _process(name: str, **masses: float) -> dict[str, Any]:
    process = find_process(name, **masses)
    return {
        "name": process.short_name, "label": process.label, "signal": process.signal, "masses": process.masses,
        "settings": list(process.commands),
    }  # fmt: skip


def test_two_mass_points_are_refused() -> None:
    one, other = _process("rpv_gluino"), _process("rpv_gluino", m_gluino=1200.0, m_neutralino=450.0)
    refuse_several_signals([one, _process("jz4"), _process("jz5")])
    with pytest.raises(UserError, match=r"1400, 850.*1200, 450") as caught:
        refuse_several_signals([one, _process("jz4"), other])
    assert "one run for each" in caught.value.hint


def test_mass_points_without_names_are_refused_too() -> None:
    nameless = {"signal": True, "masses": {"m": 1.0}}
    with pytest.raises(UserError, match="two mass points"):
        refuse_several_signals([nameless, nameless])
