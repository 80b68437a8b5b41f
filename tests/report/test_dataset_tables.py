"""What ``hpctrain data inspect`` says in words."""

from pathlib import Path

import numpy as np

from hpctrain.data.schema import DenseField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.data.shards import ShardDataset
from hpctrain.report.dataset_tables import facts


def facts_of(folder: Path, provenance: dict, scale: dict) -> list[str]:
    with ShardWriter(folder, {"x": DenseField()}, provenance=provenance, scale=scale) as writer:
        writer.append({"x": np.zeros(1, np.float32)})
    return list(facts(ShardDataset.open(folder)))


def test_constants_have_few_digits(tmp_path):
    scale = {"image_max": [1 / 3, 2.0], "jets": {"mean": [31.258132565176908, 0.5], "std": [1.0, 2 / 3]}}
    assert facts_of(tmp_path / "d", {}, scale) == [
        "scale image_max: 0.33333, 2",
        "scale jets: mean 31.258, 0.5; std 1, 0.66667",
    ]


def test_what_the_files_have_beside_is_told(tmp_path):
    sources = [
        {"name": "a.h5", "about": {"left_out": ["words", "times"]}},
        {"name": "b.npz", "about": {"left_out": {"words": "object"}}},
        "a name alone",
        {"name": "c.h5"},
    ]
    lines = facts_of(tmp_path / "d", {"sources": sources}, {})
    assert "in the files, not in the dataset: words, times" in lines
