import gc
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hpctrain.data.batches import Buffers, dense, rows_of, scatter, to_batch
from hpctrain.data.columns import RaggedRows, SparseRows
from hpctrain.data.schema import DenseField, RaggedField, SparseField

CPU = torch.device("cpu")


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 5), st.integers(1, 3), st.integers(1, 6)),
        elements=st.sampled_from([0.0, 0.0, 1.5, -2.0]),
    )
)
def test_sparse_becomes_dense(array):
    buffers, rows, shape = Buffers(), SparseRows.from_dense(array), array.shape[1:]
    np.testing.assert_array_equal(scatter(rows, shape, CPU).numpy(), array)
    for _ in range(3):
        got = dense(rows, shape, buffers)
        np.testing.assert_array_equal(got.numpy(), array)
        got.fill_(5.0)  # its owner may
        del got


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 5, 8, 17])
@pytest.mark.parametrize("cells", [1, 9, 100])
def test_a_few_rows_at_a_time(rows, cells, monkeypatch):
    monkeypatch.setattr("hpctrain.data.batches.CACHE_BYTES", 4 * 4 * 9)
    rng = np.random.default_rng(rows)
    array = (rng.random((rows, cells)) * (rng.random((rows, cells)) < 0.3)).astype(np.float32)
    array[::3] = 0  # events without a cell
    got = dense(SparseRows.from_dense(array), (cells,), Buffers())
    np.testing.assert_array_equal(got.numpy(), array, strict=True)


def test_large_images_have_large_indices():
    image = np.zeros((2, 3, 200, 200), np.float32)
    image[0, 2, 199, 199], image[1, 0, 0, 0] = 3.0, 4.0
    last = np.zeros((1, 65_536), np.float32)
    last[0, 65_535] = 1.0  # 2^16 - 1 is -1 as a signed number of that width
    assert SparseRows.from_dense(image).indices.dtype == np.uint32
    for array in (image, last):
        rows, shape = SparseRows.from_dense(array), array.shape[1:]
        np.testing.assert_array_equal(scatter(rows, shape, CPU).numpy(), array)
        np.testing.assert_array_equal(dense(rows, shape, Buffers()).numpy(), array)


def test_columns_become_tensors():
    fields = {"x": DenseField(shape=(2,)), "p": RaggedField(shape=(3,)), "i": SparseField(shape=(4,))}
    columns = {
        "x": np.arange(4, dtype=np.float32).reshape(2, 2),
        "p": RaggedRows.from_lists([np.ones((2, 3)), np.zeros((0, 3))], (3,)),
        "i": SparseRows.from_dense(np.eye(2, 4, dtype=np.float32)),
    }
    batch = to_batch(columns, fields, CPU)
    assert list(batch) == ["x", "p", "p.offsets", "i"]
    assert batch["p.offsets"].tolist() == [0, 2, 2]
    assert batch["p"].shape == (2, 3)
    assert batch["i"].tolist() == np.eye(2, 4).tolist()


def test_rows_of_a_batch_are_the_batch_of_those_rows():
    values = np.arange(10, dtype=np.float32)
    columns = {
        "row": np.arange(4),
        "tracks": RaggedRows(np.array([0, 3, 3, 7, 10]), values),
        "image": np.arange(8.0).reshape(4, 2),
    }
    fields = {"tracks": RaggedField(dtype="float32"), "image": DenseField(shape=(2,), dtype="float64")}
    part = rows_of(to_batch(columns, fields, CPU), 1, 4)
    assert part["row"].tolist() == [1, 2, 3]
    assert part["tracks"].tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert part["tracks.offsets"].tolist() == [0, 0, 4, 7]
    assert part["image"].tolist() == [[2, 3], [4, 5], [6, 7]]


def test_memory_comes_back_when_the_last_tensor_goes():
    buffers = Buffers()
    first = buffers.lend(1000, "<f4")
    place = first.data_ptr()
    view = first.view(10, 100)[3]
    del first
    gc.collect()
    assert buffers.lend(1000, "<f4").data_ptr() != place  # the view still has it
    view.fill_(7.0)
    del view
    gc.collect()
    again = [buffers.lend(1000, "<f4") for _ in range(2)]
    assert place in {tensor.data_ptr() for tensor in again}


def test_memory_may_come_back_in_the_middle_of_anything():
    """A batch in a cycle (an exception's traceback, say) is freed by the collector, wherever that strikes."""

    def work():
        buffers = Buffers()
        for _ in range(3000):
            cycle = {"batch": buffers.lend(100, "<f4")}
            cycle["self"] = cycle

    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        worker.join(timeout=30)
        assert not worker.is_alive()
    finally:
        gc.set_threshold(*before)


def test_threads_share_buffers_but_no_memory():
    buffers, wrong = Buffers(), []

    def work(number):
        for i in range(500):
            tensor = buffers.lend(1000 * (1 + i % 3), "<f4").fill_(number)
            again = buffers.lend(1000, "<f4").fill_(-number)
            wrong.extend([i] if (tensor != number).any() or (again != -number).any() else [])

    threads = [threading.Thread(target=work, args=(n,)) for n in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64", "int16", "float16", "bool"])
def test_any_number_type_scatters(dtype):
    array = np.array([[0, 1, 0], [0, 0, 0], [1, 0, 1]], dtype)
    if np.dtype(dtype).kind != "b":
        array[0, 1] = 200 if np.dtype(dtype).kind == "u" else 100
    if np.dtype(dtype).kind == "u":
        array[2, 2] = np.iinfo(dtype).max
    rows = SparseRows.from_dense(array)
    for got in (scatter(rows, (3,), CPU), dense(rows, (3,), Buffers())):
        np.testing.assert_array_equal(got.numpy(), array, strict=True)
