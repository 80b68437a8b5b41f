"""Columns of a split: what an analysis of its own data may leave out, and what it must not get wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpctrain.data.schema import DenseField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError
from hpctrain.evaluate.scoring import read_split


def _split(folder: Path, **columns: Any) -> ShardDataset:
    content = {"label": np.arange(20) % 2, "weight": np.full(20, 0.5), **columns}
    fields = {name: DenseField(dtype=str(v.dtype), shape=v.shape[1:]) for name, v in content.items()}
    with ShardWriter(folder, fields) as writer:
        writer.append(content)
    return ShardDataset.open(folder)


@pytest.mark.parametrize(
    "label", [np.arange(20) % 2, np.arange(20) % 2 == 1, (np.arange(20) % 2).astype("f4")]
)
def test_label_and_weight_are_enough(tmp_path: Path, label: Any) -> None:
    events = read_split(_split(tmp_path / "d", label=label))
    assert events.label.tolist() == [False, True] * 10
    assert events.event_id.tolist() == list(range(20))
    assert not events.rescaled
    assert events.selected is None
    assert events.features is None
    assert events.weight.sum() == 10.0


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"label": np.arange(20) % 3}, "field 'label' must be 0 or 1, found 2"),
        ({"label": np.where(np.arange(20) % 2, 1, -1)}, "field 'label' must be 0 or 1, found -1"),
        ({"label": np.full(20, 0.5)}, "field 'label' must be 0 or 1, found 0.5"),
        ({"label": np.eye(2, dtype=np.int64)[np.arange(20) % 2]}, r"'label' is dense of the shape \[2\]"),
        ({"weight": np.ones((20, 1))}, r"'weight' is dense of the shape \[1\]"),
    ],
)
def test_what_is_no_label_or_weight_is_refused(tmp_path: Path, columns: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_split(_split(tmp_path / "d", **columns))


def test_a_split_without_events_is_named(tmp_path: Path) -> None:
    ShardWriter(tmp_path / "d", {"label": DenseField(dtype="int64"), "weight": DenseField()}).close()
    with pytest.raises(UserError, match="d holds no events"):
        read_split(ShardDataset.open(tmp_path / "d"))
