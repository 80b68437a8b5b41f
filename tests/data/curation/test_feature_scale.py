"""Mean and spread: what numpy says of all items, to the last bit in whatever pieces they come."""

import numpy as np
import pytest

from hpctrain.data.columns import RaggedRows, part
from hpctrain.data.curation import feature_scale
from hpctrain.data.curation.feature_scale import FeatureScale
from hpctrain.data.schema import DenseField, RaggedField, SparseField

FIELDS = {
    "jet": DenseField(shape=(2,), features=("pt", "mass")),
    "jets": DenseField(shape=(5, 2), features=("pt", "mass")),
    "particles": RaggedField(shape=(3,), features=("pt", "eta", "phi")),
    "nameless": DenseField(shape=(2,)),
    "image": SparseField(shape=(4, 2), features=("a", "b")),
}


def columns(events=300):
    rng = np.random.default_rng(0)
    items = [rng.normal([1e5, 0, -3], [1, 1e-3, 2], (n, 3)) for n in rng.integers(0, 6, events)]
    return {
        "jet": np.stack([rng.random(events), np.full(events, 7.0)], axis=1).astype(np.float32),
        "jets": rng.random((events, 5, 2)).astype(np.float32),
        "particles": RaggedRows.from_lists(items, (3,)),
    }


def test_constants_are_those_of_all_items():
    data = columns()
    wanted = np.flatnonzero(np.arange(300) % 3 > 0)
    scale = FeatureScale(FIELDS)
    scale.add(data, wanted)
    found = scale.constants()
    assert list(found) == ["jet", "jets", "particles"]
    every = {
        "jet": data["jet"][wanted],
        "jets": data["jets"][wanted].reshape(-1, 2),
        "particles": data["particles"].take(wanted).values,
    }
    for name, items in every.items():
        spread = items.astype(np.float64).std(axis=0)
        np.testing.assert_allclose(found[name]["mean"], items.astype(np.float64).mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found[name]["std"], np.where(spread > 0, spread, 1.0), rtol=1e-9)
    assert found["jet"]["std"][1] == 1.0  # never changes


@pytest.mark.parametrize("piece", [1, 70])
def test_pieces_make_no_difference_at_all(piece, monkeypatch):
    data = columns()
    whole, pieces = FeatureScale(FIELDS), FeatureScale(FIELDS)
    whole.add(data)
    monkeypatch.setattr(feature_scale, "_ITEMS", 11)
    for start in range(0, 300, piece):
        pieces.add(part(data, start, min(start + piece, 300)))
    assert pieces.constants() == whole.constants()


def test_a_field_without_items_has_none():
    scale = FeatureScale({"particles": FIELDS["particles"]})
    scale.add({"particles": RaggedRows.from_lists([[], []], (3,))})
    assert scale.constants() == {}
