"""Windows in memory: those of the order that is asked for, and no more of them than said."""

import threading
import weakref

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.data.order import Order, split
from hpctrain.data.windows import WindowCache


class Numbers:
    """Events that are their own numbers."""

    fields = {}  # noqa: RUF012 - nobody asks
    events = 1000

    def read_ranges(self, ranges, names=None):
        return {"x": np.concatenate([np.arange(start, stop) for start, stop in ranges])}


def test_orders_take_turns():
    """Windows of two orders are at the same places; what is in them differs."""
    cache = WindowCache(Numbers(), ["x"])
    for sizes in ({"window": 1000}, {"window": 300, "block": 10, "lanes": 4}):
        orders = [Order(1000, 64, seed, **sizes) for seed in (1, 2)]
        for k in range(orders[0].batches):
            for order in orders:
                taken = cache.take(order, 0, order.pieces(k))
                np.testing.assert_array_equal(taken["x"], order.global_batch(0, k))
                np.testing.assert_array_equal(taken["row"], taken["x"])


def test_a_window_goes_before_the_next_one_of_its_lane_comes():
    read: list[weakref.ref] = []

    class Watched(WindowCache):
        def _load(self, ranges):
            assert not [window for window in read if window() is not None]
            columns = super()._load(ranges)
            read.append(weakref.ref(columns["x"]))
            return columns

    cache, order = Watched(Numbers(), ["x"]), Order(1000, 64, 1, block=10, window=100, lanes=1)
    for epoch in range(2):
        for k in range(order.batches):
            cache.take(order, epoch, order.pieces(k))
    assert len(read) == 20


@settings(max_examples=100, deadline=None)
@given(
    st.builds(
        Order,
        samples=st.just(1000),
        global_batch_size=st.integers(1, 120),
        seed=st.integers(0, 99),
        block=st.integers(1, 40),
        window=st.integers(1, 500),
        lanes=st.integers(1, 40),
    ),
    st.integers(1, 4),
)
def test_shares_are_those_of_the_order(order, size):
    """Also where a batch goes through several windows of a lane."""
    caches = [WindowCache(Numbers(), ["x"]) for _ in range(size)]
    for k in range(order.batches):
        batch = order.global_batch(0, k)
        for rank, cache in enumerate(caches):
            pieces = order.share_pieces(k, rank, size)
            if pieces:
                np.testing.assert_array_equal(cache.take(order, 0, pieces)["x"], split(batch, rank, size))


def test_a_thread_that_was_left_behind_changes_no_batch():
    """It goes on with the batch that it had begun, of another epoch, while the next one begins."""
    reading, go, left = threading.Event(), threading.Event(), threading.Event()
    order = Order(1000, 64, 1, block=10, window=300, lanes=4)
    taken = []

    class Slow(Numbers):
        def read_ranges(self, ranges, names=None):
            if not reading.is_set():
                reading.set()
                go.wait(30)
            return super().read_ranges(ranges, names)

    class Watched(WindowCache):
        def _selections(self, pieces):
            if threading.current_thread() is second:  # between having its windows and taking from them
                go.set()
                left.wait(30)
            return super()._selections(pieces)

    def first_epoch():
        cache.take(order, 0, order.pieces(0))
        left.set()

    cache = Watched(Slow(), ["x"])
    first = threading.Thread(target=first_epoch, daemon=True)
    second = threading.Thread(target=lambda: taken.append(cache.take(order, 1, order.pieces(0))), daemon=True)
    first.start()
    assert reading.wait(30)
    second.start()
    go.wait(0.2)
    go.set()
    first.join(30)
    second.join(30)
    np.testing.assert_array_equal(taken[0]["x"], order.global_batch(1, 0))


def test_groups_of_lanes_are_read_together():
    """Of 64 lanes 4 go on at a time: one read of theirs, and then 16 pieces a batch instead of 64."""
    reads: list[int] = []

    class Watched(WindowCache):
        def _load(self, ranges):
            reads.append(sum(stop - start for start, stop in ranges))
            return super()._load(ranges)

    class Many(Numbers):
        events = 64 * 320

    cache, order = Watched(Many(), ["x"]), Order(64 * 320, 64, 1, block=8, window=64 * 32, lanes=64)
    for k in range(order.batches):
        cache.take(order, 0, order.pieces(k))
    assert sum(reads) == order.samples
    assert reads[0] == 64 * 17  # the first windows of all, 2 to 32 long
    assert set(reads[1:-16]) == {4 * 32}
