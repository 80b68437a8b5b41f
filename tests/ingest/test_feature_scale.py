from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.data.columns import Columns, RaggedRows, part
from hpctrain.data.schema import DenseField, Fields, RaggedField
from hpctrain.ingest.feature_scale import FeatureScale

FIELDS: Fields = {
    "features": DenseField(shape=(2,), features=("a", "b")),
    "particles": RaggedField(shape=(2,), features=("pt", "eta")),
    "unnamed": DenseField(shape=(3,)),
    "label": DenseField(dtype="int64"),
}


def _columns(seed: int, events: int) -> Columns:
    rng = np.random.default_rng(seed)
    lists = [rng.normal([1e4, 0.0], [1.0, 2.0], (n, 2)) for n in rng.integers(0, 4, events)]
    return {
        "features": rng.normal([3.0, -5.0], [2.0, 0.1], (events, 2)).astype(np.float32),
        "particles": RaggedRows.from_lists(lists, (2,)),
        "unnamed": np.zeros((events, 3), np.float32),
        "label": np.zeros(events, np.int64),
    }


@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 50), max_size=4))
def test_mean_and_spread_however_the_events_are_cut(seed: int, cuts: list[int]) -> None:
    columns = _columns(seed, 50)
    whole, pieces = FeatureScale(FIELDS), FeatureScale(FIELDS)
    whole.add(columns)
    edges = [0, *sorted(cuts), 50]
    for start, stop in pairwise(edges):
        pieces.add(part(columns, start, stop))
    assert pieces.constants() == whole.constants()
    particles: Any = columns["particles"]
    for name, values in (("features", columns["features"]), ("particles", particles.values)):
        expected = np.asarray(values, dtype=np.float64)
        assert whole.constants()[name]["mean"] == pytest.approx(expected.mean(axis=0), rel=1e-9)
        assert whole.constants()[name]["std"] == pytest.approx(expected.std(axis=0), rel=1e-6)
    assert set(whole.constants()) == {"features", "particles"}


def test_what_never_changes_can_be_divided_by() -> None:
    scale = FeatureScale({"x": DenseField(shape=(1,), features=("a",))})
    scale.add({"x": np.full((4, 1), 7.0, np.float32)})
    assert scale.constants() == {"x": {"mean": [7.0], "std": [1.0]}}
