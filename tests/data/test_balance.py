"""Shares of equal work, and what graphs really cost."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.data import graphs
from hpctrain.data.balance import NEARLY, Imbalance, NeighbourWork, RadiusWork, cuts, fully_connected_work
from hpctrain.data.columns import offsets_of
from hpctrain.errors import UserError

WORKS = st.lists(st.one_of(st.integers(0, 50), st.floats(0, 1e6), st.floats(0, 1e-300)), max_size=60).map(
    lambda works: np.array(works, dtype=np.float64)
)


def least_largest_share(work, size):
    """Of all ways to cut, by dynamic programming."""
    ends = np.concatenate([[0.0], np.cumsum(work)])
    best = ends.copy()  # of the first n events in one share
    for _ in range(size - 1):
        best = np.array([np.maximum(best[: n + 1], ends[n] - ends[: n + 1]).min() for n in range(len(ends))])
    return best[-1]


@settings(max_examples=400, deadline=None)
@given(WORKS, st.integers(1, 70))
def test_shares_are_contiguous_complete_and_as_equal_as_can_be(work, size):
    places = cuts(work, size)
    assert places.dtype == np.int64
    assert len(places) == size + 1
    assert places[0] == 0
    assert places[-1] == len(work)
    assert (np.diff(places) >= 0).all()
    if work.sum() > 0:
        shares = np.diff(np.concatenate([[0.0], np.cumsum(work)])[places])
        ideal, rounding = work.sum() / size, 1e-12 * work.sum()
        assert shares.max() <= ideal + work.max() + rounding
        assert shares.max() <= least_largest_share(work, size) + NEARLY * ideal + rounding
        assert shares.min() >= ideal - work.max() - rounding


@pytest.mark.parametrize("work", [[1.0, -0.5], [1.0, np.nan], [np.inf]])
def test_no_such_work(work):
    with pytest.raises(UserError, match="negative, NaN or infinite"):
        cuts(np.array(work), 2)


@given(st.integers(0, 60), st.integers(1, 70))
def test_events_without_work_are_shared_by_number(events, size):
    counts = np.diff(cuts(np.zeros(events), size))
    assert counts.sum() == events
    assert counts.max() - counts.min() <= 1


@given(st.integers(1, 30), st.integers(1, 8))
def test_equal_events_are_shared_equally(each, size):
    assert np.diff(cuts(np.full(each * size, 3.0), size)).tolist() == [each] * size


COUNTS = st.lists(st.integers(0, 15), max_size=6).map(lambda counts: np.array(counts, dtype=np.int64))


@settings(max_examples=60, deadline=None)
@given(COUNTS, st.integers(1, 20))
def test_work_is_the_nodes_and_edges_that_the_builders_make(counts, k):
    offsets = torch.from_numpy(offsets_of(counts))
    positions = torch.from_numpy(np.random.default_rng(k).normal(size=(counts.sum(), 2)))
    for edges, work in (
        (graphs.fully_connected(offsets), fully_connected_work(counts)),
        (graphs.knn(positions, offsets, k, phi=1), NeighbourWork(k)(counts)),
        (graphs.radius(positions, offsets, 100.0, phi=None), RadiusWork(1.0)(counts)),
    ):
        made = counts + graphs.edge_offsets(edges, offsets).diff().numpy()
        np.testing.assert_array_equal(work, made)


def test_work_of_a_radius_is_right_on_average():
    """Evenly spread over |η| < 2.5: the fraction of pairs is measured once and holds for other events."""
    rng = np.random.default_rng(4)

    def edges_and_pairs(counts):
        items = counts.sum()
        positions = np.stack([rng.uniform(-2.5, 2.5, items), rng.uniform(-np.pi, np.pi, items)], axis=1)
        made = graphs.radius(torch.from_numpy(positions), torch.from_numpy(offsets_of(counts)), 0.4, phi=1)
        return made.shape[1], (counts * (counts - 1)).sum()

    edges, pairs = edges_and_pairs(np.full(400, 100))
    counts = rng.integers(0, 200, 100)
    other_edges, _ = edges_and_pairs(counts)
    assert RadiusWork(edges / pairs)(counts).sum() == pytest.approx(counts.sum() + other_edges, rel=0.03)


def test_imbalance_is_largest_over_mean():
    imbalance = Imbalance()
    assert imbalance.mean == 1.0
    imbalance.add(np.array([1.0, 1.0, 2.0, 4.0]), np.array([0, 2, 4]))  # shares 2 and 6
    imbalance.add(np.array([1.0, 1.0, 2.0, 4.0]), np.array([0, 3, 4]))  # shares 4 and 4
    assert imbalance.mean == pytest.approx((6 / 4 + 1) / 2)
    imbalance.add(np.zeros(3), np.array([0, 1, 3]))  # nothing to do is no imbalance
    assert imbalance.mean == pytest.approx((6 / 4 + 1) / 2)


def test_shares_of_work_are_nearer_than_shares_of_events():
    counts = np.random.default_rng(6).lognormal(4, 0.6, 20 * 512).astype(np.int64).reshape(20, 512)
    by_work, by_number = Imbalance(), Imbalance()
    for batch in counts:
        work = fully_connected_work(batch)
        by_work.add(work, cuts(work, 8))
        by_number.add(work, cuts(np.ones(512), 8))
    assert by_work.mean < 1.06
    assert by_number.mean > 1.2
