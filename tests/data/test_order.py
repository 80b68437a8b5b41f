import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.data.order import Order, permutation, split

orders = st.builds(
    Order,
    samples=st.integers(1, 400),
    global_batch_size=st.integers(1, 64),
    seed=st.integers(0, 2**31 - 1),
    block=st.integers(1, 40),
    window=st.integers(1, 450),
    lanes=st.integers(1, 9),
)


@settings(max_examples=300, deadline=None)
@given(orders, st.integers(0, 5))
def test_each_sample_exactly_once_an_epoch(order, epoch):
    rows = np.concatenate([order.global_batch(epoch, k) for k in range(order.batches)])
    np.testing.assert_array_equal(np.sort(rows), np.arange(order.samples))
    sizes = [len(order.global_batch(epoch, k)) for k in range(order.batches)]
    assert sizes == [order.batch_size(k) for k in range(order.batches)]
    assert set(sizes[:-1]) <= {order.global_batch_size}


@settings(max_examples=200, deadline=None)
@given(orders, st.integers(0, 3), st.integers(1, 9), st.data())
def test_a_global_batch_is_the_same_at_any_number_of_ranks(order, epoch, size, data):
    k = data.draw(st.integers(0, order.batches - 1))
    shares = [order.share(epoch, k, rank, size) for rank in range(size)]
    np.testing.assert_array_equal(np.concatenate(shares), order.global_batch(epoch, k))
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1
    for rank, share in enumerate(shares):
        np.testing.assert_array_equal(order.rows(epoch, order.share_pieces(k, rank, size)), share)


@settings(max_examples=100, deadline=None)
@given(orders, st.integers(0, 3), st.data())
def test_stopped_anywhere_and_gone_on_at_another_size(order, epoch, data):
    """The position is two integers: what was seen before it and what comes after make up the epoch."""
    stop = data.draw(st.integers(0, order.batches))
    before, after = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    seen = [order.share(epoch, k, r, before) for k in range(stop) for r in range(before)]
    first = sum(map(len, seen)) // order.global_batch_size if stop < order.batches else order.batches
    assert first == stop
    seen += [order.share(epoch, k, r, after) for k in range(first, order.batches) for r in range(after)]
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(order.samples))


@settings(max_examples=100, deadline=None)
@given(orders, st.integers(0, 3))
def test_windows_are_long_runs_of_neighbours(order, epoch):
    """What is read from disk for a window: few pieces, none longer than a block unless neighbours meet."""
    windows = {p.window for k in range(order.batches) for p in order.pieces(k)}
    assert sum(w.stop - w.start for w in windows) == order.samples
    for window in windows:
        ranges = list(order.ranges(epoch, [window]))
        assert sum(b - a for a, b in ranges) == window.stop - window.start
        if order.samples > order.window:
            assert all(b - a <= order.block for a, b in ranges)
            # Whole blocks but at the ends, and where the short last block of the dataset lies.
            assert sum(b - a < order.block for a, b in ranges) <= 3


def test_ranks_that_divide_the_lanes_read_nothing_twice():
    order = Order(20_000, 256, 1, block=50, window=1600, lanes=16)
    for size in (2, 4, 8, 16):
        read = [
            {p.window for k in range(order.batches) for p in order.share_pieces(k, rank, size)}
            for rank in range(size)
        ]
        assert sum(map(len, read)) == len(set.union(*read))


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 16, 64, 100, 400])
@pytest.mark.parametrize("lanes", [1, 16, 24])
def test_how_often_rows_are_read_is_said(size, lanes):
    """Counted: the lanes that ranks touch in an epoch of whole batches, over all lanes."""
    order = Order(9600, 480, 1, block=20, window=480, lanes=lanes)
    lanes_of = [
        {p.window.lane for k in range(order.batches) for p in order.share_pieces(k, rank, size)}
        for rank in range(size)
    ]
    assert order.times_read(size) == sum(map(len, lanes_of)) / lanes


def test_epochs_and_seeds_differ_and_repeat():
    for window in (2000, 200):
        first = Order(1000, 100, 1, block=10, window=window, lanes=4)
        np.testing.assert_array_equal(first.global_batch(0, 0), first.global_batch(0, 0))
        other = Order(1000, 100, 2, block=10, window=window, lanes=4)
        whole = [
            np.concatenate([o.global_batch(e, k) for k in range(10)])
            for o, e in [(first, 0), (first, 1), (other, 0)]
        ]
        assert (whole[0] != whole[1]).mean() > 0.9
        assert (whole[0] != whole[2]).mean() > 0.9


def test_the_order_is_the_same_on_every_machine():
    # Written down on 2026-11-21 (permutation) and 2026-11-22 (windows) with numpy 2.4; a change would break every
    # resumed training.
    assert permutation(8, 1, 0).tolist() == [0, 5, 4, 1, 2, 6, 3, 7]
    assert Order(40, 8, 1, block=4, window=16, lanes=2).global_batch(0, 1).tolist() == GOLDEN


def test_large_seeds_are_seeds_too():
    """Numbers beyond int64, which numpy takes for floating-point ones where it may."""
    seeds = [0, 2**63, 2**63 + 1, 2**64 - 1]
    assert len({tuple(permutation(50, seed, 0)) for seed in seeds}) == len(seeds)


GOLDEN = [13, 0, 2, 3, 24, 23, 21, 22]


def test_a_thousand_million_samples_start_at_once_and_take_no_memory():
    order = Order(10**9, 4096, 1)
    tracemalloc.start()
    started = time.process_time()
    rows = order.global_batch(3, order.batches // 2)
    assert time.process_time() - started < 1.0  # the promise itself, not a benchmark: it takes some 5 ms
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(np.unique(rows)) == 4096
    assert peak < 40 * order.window


def test_split_of_nothing():
    assert [len(split(np.arange(2), rank, 4)) for rank in range(4)] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "bad", [{"samples": 0}, {"global_batch_size": 0}, {"block": 0}, {"window": 0}, {"lanes": 0}]
)
def test_senseless_sizes(bad):
    with pytest.raises(ValueError, match="positive"):
        Order(**{"samples": 5, "global_batch_size": 2, "seed": 0, **bad})


def test_batch_outside_the_epoch():
    with pytest.raises(IndexError, match="global batch 4 of 4"):
        Order(100, 32, 0).global_batch(0, 4)
