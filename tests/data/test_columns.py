import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hpctrain.data.columns import (
    LONG_ROW,
    RaggedRows,
    SparseRows,
    concatenate,
    count,
    gather,
    index_dtype,
    offsets_of,
    take,
)

dense_images = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 6), st.integers(1, 3), st.integers(1, 5)),
    elements=st.sampled_from([0.0, 0.0, 1.5, -2.0, 7.25]),
)


@given(dense_images)
def test_sparse_and_back(dense):
    rows = SparseRows.from_dense(dense)
    assert len(rows) == len(dense)
    assert len(rows.values) == np.count_nonzero(dense)
    np.testing.assert_array_equal(rows.dense(dense.shape[1:]), dense)


@given(dense_images, st.data())
def test_take_is_indexing(dense, data):
    rows = st.lists(st.integers(0, len(dense) - 1), max_size=8) if len(dense) else st.just([])
    chosen = np.array(data.draw(rows), dtype=np.int64)
    taken = SparseRows.from_dense(dense).take(chosen)
    np.testing.assert_array_equal(taken.dense(dense.shape[1:]), dense[chosen])


@given(
    st.sampled_from([0, 3, LONG_ROW - 1, LONG_ROW, 3 * LONG_ROW]),
    st.sampled_from([(), (3,), (2, 2), (0,)]),
    st.sampled_from(["bool", "uint16", "float32", "float64"]),
    st.integers(0, 99),
)
@example(0, (0,), "float32", 0)
def test_rows_are_gathered_of_many_parts_whether_long_or_short(length, shape, dtype, seed):
    rng = np.random.default_rng(seed)
    parts, expected = [], [np.zeros((0, *shape), dtype)]
    for events in (4, 1, 6):
        counts = rng.integers(length // 2, 2 * length + 1, events)
        values = rng.integers(0, 2, (counts.sum(), *shape)).astype(dtype)
        rows = rng.integers(0, events, rng.integers(0, 9))
        parts.append(({"x": RaggedRows(offsets_of(counts), values)}, rows))
        lists = np.split(values, np.cumsum(counts)[:-1])
        expected += [lists[row] for row in rows]
    found = gather(parts)["x"]
    assert found.values.flags.writeable  # a batch belongs to whoever holds it
    assert found.counts.tolist() == [len(items) for items in expected[1:]]
    np.testing.assert_array_equal(found.values, np.concatenate(expected), strict=True)


@given(dense_images, dense_images)
def test_concatenate_is_stacking(first, second):
    shape = (2, 4)
    a, b = (
        np.resize(x, (len(x), *shape)) if x.size else np.zeros((0, *shape), np.float32)
        for x in (first, second)
    )
    joined = SparseRows.concatenate([SparseRows.from_dense(a), SparseRows.from_dense(b)])
    np.testing.assert_array_equal(joined.dense(shape), np.concatenate([a, b]))


def test_cells_named_twice_add_up():
    rows = SparseRows(np.array([0, 3]), np.array([1, 1, 0], np.uint16), np.array([1.0, 2.0, 5.0]))
    np.testing.assert_array_equal(rows.dense((2,)), [[5.0, 3.0]])


def test_index_type_holds_every_cell():
    assert index_dtype(3 * 64 * 64) is np.uint16
    assert index_dtype(2**16) is np.uint16
    assert index_dtype(3 * 224 * 224) is np.uint32


def test_columns_go_together():
    columns = {"x": np.arange(4), "image": SparseRows.from_dense(np.eye(4))}
    assert count(columns) == 4
    part = take(columns, np.array([3, 0]))
    both = concatenate([part, columns])
    np.testing.assert_array_equal(both["x"], [3, 0, 0, 1, 2, 3])
    np.testing.assert_array_equal(both["image"].dense((4,)).argmax(1), both["x"])
    with pytest.raises(ValueError, match="different numbers of rows"):
        count({"x": np.arange(4), "y": np.arange(3)})
