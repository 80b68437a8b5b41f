"""Windows in memory: those of the order that is asked for, and no more of them than said."""

import weakref

import numpy as np

from hpctrain.data.order import Order
from hpctrain.data.windows import WindowCache


class Numbers:
    """Events that are their own numbers."""

    fields = {}  # noqa: RUF012 - nobody asks
    events = 1000

    def read_range(self, start, stop, names=None):
        return {"x": np.arange(start, stop)}


def test_orders_take_turns():
    """Windows of two orders are at the same places; what is in them differs."""
    cache = WindowCache(Numbers(), ["x"])
    for settings in ({"window": 1000}, {"window": 300, "block": 10, "lanes": 4}):
        orders = [Order(1000, 64, seed, **settings) for seed in (1, 2)]
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
