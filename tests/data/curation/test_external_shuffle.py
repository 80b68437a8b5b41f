"""Any order, with any memory: what comes out is what was put in, each event in its place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.data.columns import RaggedRows, SparseRows, concatenate, nbytes, part, take
from hpctrain.data.curation.external_shuffle import ExternalShuffle, memory_bytes
from hpctrain.data.schema import DenseField, RaggedField, SparseField
from hpctrain.errors import InternalError

FIELDS = {
    "image": SparseField(shape=(2, 4, 4)),
    "hits": RaggedField(shape=(2,)),
    "bare": RaggedField(dtype="int32"),
    "energy": DenseField(shape=(3,)),
}


def columns(events):
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 4, events)
    image = (rng.random((events, 2, 4, 4)) * (rng.random((events, 2, 4, 4)) < 0.3)).astype(np.float32)
    return {
        "image": SparseRows.from_dense(image),
        "hits": RaggedRows.from_lists([rng.random((n, 2)) for n in counts], (2,)),
        "bare": RaggedRows.from_lists([np.arange(n) for n in counts], dtype=np.int32),
        "energy": rng.random((events, 3)).astype(np.float32),
    }


@settings(max_examples=40, deadline=None)
@given(
    events=st.integers(1, 400),
    memory=st.sampled_from([1, 300, 5000, 20_000, 2**30]),
    step=st.integers(1, 200),
    seed=st.integers(0, 2**31),
)
def test_every_event_in_its_place(tmp_path_factory, events, memory, step, seed):
    folder = tmp_path_factory.mktemp("shuffle")
    original = columns(events)
    total = memory_bytes(FIELDS, events, {n: len(original[n].values) for n in ("image", "hits", "bare")})
    assert abs(total - nbytes(original)) <= 8 * len(FIELDS)  # offsets have one more than there are events
    places = np.random.default_rng(seed).permutation(events)
    shuffle = ExternalShuffle(folder / "buckets", FIELDS, events, total, memory)
    for start in range(0, events, step):
        stop = min(start + step, events)
        shuffle.add(part(original, start, stop), places[start:stop])
    found = concatenate(list(shuffle.pieces()))
    expected = take(original, np.argsort(places))
    assert list(found) == list(FIELDS)
    for name, values in expected.items():
        if name == "energy":
            np.testing.assert_array_equal(found[name], values)
        else:
            np.testing.assert_array_equal(found[name].offsets, values.offsets)
            np.testing.assert_array_equal(found[name].values, values.values)
            assert found[name].values.dtype == values.values.dtype
    assert not (folder / "buckets").exists() or list((folder / "buckets").iterdir()) == []


@pytest.mark.parametrize("memory", [2**30, 500])
@pytest.mark.parametrize(
    "places", [np.arange(1, 51), np.r_[0:40, 0:10], np.arange(49)], ids=["shifted", "doubled", "lost"]
)
def test_a_place_given_twice_or_never_is_noticed(tmp_path, memory, places):
    original = columns(len(places))
    shuffle = ExternalShuffle(tmp_path / "buckets", FIELDS, 50, nbytes(original), memory)
    shuffle.add(original, places)
    with pytest.raises(InternalError, match="not all of 50 places are taken once"):
        list(shuffle.pieces())
