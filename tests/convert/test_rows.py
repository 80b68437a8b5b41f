import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.convert.rows import falling, field_name, ragged_of, sparse_rows, stack
from hpctrain.data.columns import RaggedRows, offsets_of
from hpctrain.data.schema import SparseField, check
from hpctrain.errors import UserError

EVENTS = st.lists(st.dictionaries(st.integers(0, 23), st.sampled_from([0.0, 1.5, -2.0])), max_size=6)


@given(events=EVENTS, seed=st.integers(0, 100))
def test_cells_in_any_order_become_the_same_dense_array(events, seed):
    dense = np.zeros((len(events), 24), dtype=np.float32)
    indices, values, rng = [], [], np.random.default_rng(seed)
    for event, cells in enumerate(events):
        names = rng.permutation(list(cells)).astype(np.int64)
        indices.append(names)
        values.append(np.array([cells[i] for i in names.tolist()], dtype=np.float32))
        dense[event, names] = values[-1]
    offsets = offsets_of(np.array([len(i) for i in indices], dtype=np.int64))
    found = sparse_rows(
        offsets,
        np.concatenate([np.zeros(0, np.int64), *indices]),
        np.concatenate([np.zeros(0, np.float32), *values]),
        (2, 3, 4),
        "f",
        0,
    )
    check({"x": found}, {"x": SparseField(shape=(2, 3, 4))}, "f")
    assert (found.values != 0).all()
    np.testing.assert_array_equal(found.dense((24,)), dense)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0, 5, 24], r"f: event 8 has the index 24, outside its shape \[2, 3, 4\]"),
        ([0, -1, 2], r"f: event 7 has the index -1"),
        ([0, 3, 3], r"f: event 7 names the cell 3 twice"),
    ],
)
def test_impossible_cells_are_named_with_their_event(indices, message):
    offsets = np.array([0, 2, 3]) if indices[2] == 24 else np.array([0, 3, 3])
    with pytest.raises(UserError, match=message):
        sparse_rows(offsets, np.array(indices), np.ones(3, np.float32), (2, 3, 4), "f", 7)


def test_columns_of_different_objects_are_not_stacked():
    first = RaggedRows.from_lists([[1, 2], [3]])
    with pytest.raises(UserError, match=r"particles: .* different numbers of items in an event \(2 and 1\)"):
        stack([first, RaggedRows.from_lists([[1], [3, 4]])], "particles")


@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_falling_sorts_within_events_alone(counts, seed):
    rng = np.random.default_rng(seed)
    event = np.repeat(np.arange(len(counts)), counts)
    rows = ragged_of(event, (rng.random(len(event)), event), len(counts))
    assert rows.counts.tolist() == counts
    ordered = rows.values[falling(rows, rows.values[:, 0])]
    for number, (a, b) in enumerate(zip(rows.offsets[:-1], rows.offsets[1:], strict=True)):
        assert (ordered[a:b, 1] == number).all()
        assert (np.diff(ordered[a:b, 0]) <= 0).all()
        assert sorted(ordered[a:b, 0]) == sorted(rows.values[a:b, 0])


@given(st.text(min_size=1))
def test_every_name_becomes_a_field_name(text):
    found = field_name(text)
    assert found.isascii()
    assert found[0].isalpha()
    assert found.replace("_", "a").isalnum()
    assert found != "row"
