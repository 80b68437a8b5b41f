"""What is chosen when nobody says: windows that fit, lanes that ranks can share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.data.sizes import WINDOW_BYTES, block_for, lanes_for, order_for, window_for


@pytest.mark.parametrize(
    ("batch", "sizes"),
    [
        (512, (1, 2, 4, 8, 16, 32)),
        (4096, (1, 4, 32, 64)),
        (1000, (1, 2, 5, 10, 25)),
        (25_600, (1, 50, 100, 200, 400)),
    ],
)
def test_usual_numbers_of_ranks_read_nothing_twice(batch, sizes):
    """Whole-detector images of 2 kB: up to hundreds of ranks, at 16 events a rank or more."""
    order = order_for(10**7, 2000, batch, 1)
    assert {size: order.times_read(size) for size in sizes} == dict.fromkeys(sizes, 1.0)


@pytest.mark.parametrize("size", [3, 6, 12, 48, 100, 256])
def test_others_read_little_twice(size):
    assert order_for(10**7, 2000, 64 * size, 1).times_read(size) < 1.6


@given(st.floats(1, 1e8), st.integers(1, 10**6))
def test_windows_fit_and_hold_batches(row_bytes, batch):
    window = window_for(row_bytes, batch)
    assert window >= 4 * batch
    assert window <= max(2**16, 16 * batch)
    assert window * row_bytes <= max(WINDOW_BYTES, 4 * batch * row_bytes, 2**16 * batch)
    assert 64 <= block_for(row_bytes) <= 256


@given(st.integers(1, 10**5), st.integers(0, 3000))
def test_lanes_deal_the_batch(batch, most):
    lanes = lanes_for(batch, most)
    assert 1 <= lanes <= max(1, min(most, batch))
    divisors = [n for n in range(1, min(most, batch) + 1) if batch % n == 0]
    if divisors and divisors[-1] > min(most, batch) // 2:
        assert lanes == divisors[-1]


def test_what_is_said_is_taken():
    order = order_for(1000, 2000, 64, 7, block=10, window=100, lanes=3)
    assert (order.samples, order.global_batch_size, order.seed) == (1000, 64, 7)
    assert (order.block, order.window, order.lanes) == (10, 100, 3)
