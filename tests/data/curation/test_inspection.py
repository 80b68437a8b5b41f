"""What is said of a dataset is what numpy says of its events."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.data.columns import RaggedRows, SparseRows
from hpctrain.data.curation import inspection
from hpctrain.data.curation.inspection import compositions, is_integer, sample_rows, summarise
from hpctrain.data.schema import DenseField, RaggedField, SparseField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.data.shards import ShardDataset

FIELDS = {
    "image": SparseField(shape=(2, 8, 8)),
    "hits": RaggedField(shape=(2,), features=("x", "t")),
    "energy": DenseField(),
    "label": DenseField(dtype="int64"),
    "process": DenseField(dtype="int64"),
    "weight": DenseField(dtype="float64"),
}
EVENTS = 300


@pytest.fixture(scope="module")
def columns():
    rng = np.random.default_rng(0)
    return {
        "image": SparseRows.from_dense(
            (rng.random((EVENTS, 2, 8, 8)) * (rng.random((EVENTS, 2, 8, 8)) < 0.2)).astype(np.float32)
        ),
        "hits": RaggedRows.from_lists([rng.random((n, 2)) for n in rng.integers(0, 5, EVENTS)], (2,)),
        "energy": rng.random(EVENTS).astype(np.float32),
        "label": rng.integers(0, 2, EVENTS),
        "process": rng.integers(0, 3, EVENTS),
        "weight": 10 ** rng.uniform(0, 3, EVENTS),
    }


@pytest.fixture(scope="module")
def dataset(columns, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect") / "d"
    provenance = {"processes": [{"name": "qcd"}, {"name": "top"}]}
    with ShardWriter(folder, FIELDS, provenance=provenance, events_per_shard=128) as writer:
        writer.append(columns)
    return ShardDataset.open(folder)


def test_ranges_of_every_field(dataset, columns):
    found = {field.name: field for field in summarise(dataset, np.arange(EVENTS))}
    assert list(found) == list(FIELDS)
    (energy,) = found["energy"].ranges
    assert (energy.low, energy.high) == (columns["energy"].min(), columns["energy"].max())
    assert energy.mean == pytest.approx(columns["energy"].mean(), rel=1e-6)
    assert found["energy"].items is None
    image = columns["image"]
    assert found["image"].items == (image.counts.mean(), image.counts.max())
    assert found["image"].ranges[0].low == image.values.min() > 0  # of the cells that are stored
    assert [feature.name for feature in found["hits"].ranges] == ["x", "t"]
    assert found["hits"].ranges[1].high == columns["hits"].values[:, 1].max()


def test_fields_without_a_value(tmp_path):
    with ShardWriter(tmp_path / "d", {"hits": RaggedField(shape=(2,))}) as writer:
        writer.append({"hits": RaggedRows.from_lists([[], []], (2,))})
    dataset = ShardDataset.open(tmp_path / "d")
    (field,) = summarise(dataset, np.arange(2))
    assert (field.items, field.ranges) == ((0.0, 0), ())
    assert summarise(dataset, np.arange(0))[0].items is None


@given(events=st.integers(0, 5000), wanted=st.integers(1, 3000))
def test_a_sample_is_spread_over_the_dataset(events, wanted):
    class Sized:
        pass

    sized = Sized()
    sized.events = events
    rows = sample_rows(sized, wanted)
    assert len(rows) == min(events, len(rows)) <= max(wanted, 1)
    assert (np.diff(rows) > 0).all()
    if events <= wanted:
        assert len(rows) == events
    elif wanted >= 128:
        assert len(rows) > wanted - 128
        assert rows[0] < 64
        assert rows[-1] >= (events - 1) // 64 * 64 or len(rows) == wanted


@pytest.mark.parametrize("whole", [True, False])
def test_classes_and_processes_by_weight(dataset, columns, monkeypatch, whole):
    if not whole:
        monkeypatch.setattr(inspection, "_READ_WHOLE", EVENTS - 1)  # as of a dataset too large to read
    found, seen = compositions(dataset)
    assert seen == EVENTS
    assert [share.name for share in found["process"]] == ["qcd", "top", "2"]
    for number, share in enumerate(found["process"]):
        weight = columns["weight"][columns["process"] == number]
        assert share.events == len(weight)
        assert share.weight == pytest.approx(weight.sum())
        assert share.effective == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
    assert sum(share.events for share in found["label"]) == EVENTS


def test_a_label_that_is_no_class_is_not_counted(tmp_path):
    with ShardWriter(tmp_path / "d", {"label": DenseField(), "n": DenseField(dtype="uint8")}) as writer:
        writer.append({"label": np.arange(3, dtype=np.float32), "n": np.arange(3, dtype=np.uint8)})
    dataset = ShardDataset.open(tmp_path / "d")
    assert compositions(dataset) == ({}, 0)
    assert [is_integer(dataset, name) for name in ("label", "n", "nosuch")] == [False, True, False]
