"""The blocks' permutation, and how well the two-level order mixes beside a full permutation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hpctrain.data.mixing import BlockShuffle, Permutation
from hpctrain.data.order import Order


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**31 - 1), st.integers(0, 9))
def test_a_permutation_and_its_inverse(n, seed, epoch):
    permutation = Permutation(n, (seed, epoch))
    numbers = permutation.number(np.arange(n))
    np.testing.assert_array_equal(np.sort(numbers), np.arange(n))
    np.testing.assert_array_equal(permutation.place(numbers), np.arange(n))


@pytest.mark.parametrize("n", [4, 17, 100])
def test_every_number_lands_everywhere_alike(n):
    """Over many keys each number is at each place equally often (chi-square over the n × n table)."""
    keys = 100 * n
    table = np.zeros((n, n))
    for seed in range(keys):
        table[np.arange(n), Permutation(n, (seed, 0)).number(np.arange(n))] += 1
    statistic = ((table - keys / n) ** 2 / (keys / n)).sum()
    assert stats.chi2.sf(statistic, (n - 1) ** 2) > 1e-4


def test_neighbours_part():
    """Blocks that follow one another in the dataset do not in the epoch: steps between them look random."""
    n = 4096
    numbers = Permutation(n, (1, 0)).number(np.arange(n))
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 4 / np.sqrt(n)
    assert (np.abs(np.diff(numbers)) == 1).sum() < 15  # 2 are expected


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 500), st.integers(1, 60), st.integers(0, 99), st.data())
def test_ranges_are_the_places(samples, block, seed, data):
    shuffle = BlockShuffle(samples, block, seed, 0)
    whole = [row for a, b in shuffle.ranges([(0, samples)]) for row in range(a, b)]
    assert sorted(whole) == list(range(samples))
    starts = data.draw(st.lists(st.integers(0, samples - 1), max_size=4))
    places = [(start, data.draw(st.integers(start + 1, samples))) for start in starts]
    part = [row for a, b in shuffle.ranges(places) for row in range(a, b)]
    assert part == [row for start, stop in places for row in whole[start:stop]]


def batches(order: Order, epoch: int) -> list[np.ndarray]:
    """The whole global batches of an epoch, each window computed once."""
    windows = {}
    found = []
    for k in range(order.batches - 1):
        rows = []
        for piece in order.pieces(k):
            if piece.window not in windows:
                mixed = order.mixed(epoch, piece.window)
                windows[piece.window] = order.window_rows(epoch, piece.window)[mixed]
            rows.append(windows[piece.window][piece.first : piece.last])
        found.append(np.concatenate(rows))
    np.testing.assert_array_equal(found[0], order.global_batch(epoch, 0))
    return found


def excess(order: Order, labels: np.ndarray) -> float:
    """Variance of a batch's label fraction over epochs, relative to that of a full permutation's batches."""
    n, p = order.global_batch_size, labels.mean()
    expected = p * (1 - p) / n * (len(labels) - n) / (len(labels) - 1)
    fractions = [labels[rows].mean() for e in range(8) for rows in batches(order, e)]
    return float(np.mean((np.array(fractions) - p) ** 2) / expected)


SORTED = np.repeat([0, 1], 16_384)  # the worst case: one class after the other on disk


def test_mixing_beside_a_full_permutation():
    """A window of many blocks mixes data sorted by class nearly as a full permutation; a window of few does not.

    Within a window of ``m`` blocks the fraction of a class has the variance of ``m`` draws, so the batch's is
    1 + batch/m times that of a full permutation (docs/data.md): the statistic must follow this law.
    """
    samples, batch = len(SORTED), 64
    assert excess(Order(samples, batch, 1, window=samples), SORTED) == pytest.approx(1.0, abs=0.1)
    found = {
        blocks: excess(Order(samples, batch, 1, block=16, window=16 * blocks, lanes=8), SORTED)
        for blocks in (64, 256, 512)
    }
    for blocks, value in found.items():
        law = 1 + batch / blocks * (1 - blocks * 16 / samples)  # blocks are drawn without putting back
        assert value == pytest.approx(law, rel=0.2), (blocks, value)
    assert found[64] > 1.5
    assert found[512] < 1.3
