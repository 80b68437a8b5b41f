from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.data.columns import SparseRows
from hpctrain.data.schema import SparseField, check
from hpctrain.physics.calorimeter import Towers
from hpctrain.physics.detector import DetectorEvents, Tracks
from hpctrain.physics.images import detector_images

Make = Callable[..., Towers]


def _tracks(seed: int, n_events: int = 3) -> Tracks:
    rng = np.random.default_rng(seed)
    n = 40 * n_events
    event = np.sort(rng.integers(0, n_events, n))
    return Tracks(
        n_events, event, rng.exponential(5, n), rng.uniform(-2.6, 2.6, n), rng.uniform(-np.pi, np.pi, n)
    )


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), bins=st.sampled_from([8, 33, 64, 224]))
def test_sums_are_those_of_the_towers_and_tracks_in_acceptance(
    random_towers: Make, seed: int, bins: int
) -> None:
    towers, tracks = random_towers(seed), _tracks(seed)
    images = detector_images(towers, tracks, bins=bins).dense().astype(np.float64)
    assert images.shape == (3, 3, bins, bins)
    for channel, rows, values in (
        (0, towers, towers.ecal),
        (1, towers, towers.hcal),
        (2, tracks, np.ones(len(tracks))),
    ):
        seen = np.abs(rows.eta) < 2.5
        expected = np.bincount(rows.event[seen], weights=values[seen], minlength=3)
        assert images[:, channel].sum(axis=(1, 2)) == pytest.approx(expected, rel=1e-5)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), turn=st.integers(-63, 63))
def test_turning_by_whole_bins_rolls_the_image(random_towers: Make, seed: int, turn: int) -> None:
    towers, tracks = random_towers(seed), _tracks(seed)

    def turned(phi: np.ndarray) -> np.ndarray:
        # From cell centres, so that rounding cannot carry anything over an edge.
        cell = np.floor((phi + np.pi) / (2 * np.pi) * 64)
        return -np.pi + ((cell + turn) % 64 + 0.5) * 2 * np.pi / 64

    plain = detector_images(towers, tracks).dense()
    rolled = detector_images(
        Towers(3, towers.event, towers.eta, turned(towers.phi), towers.ecal, towers.hcal),
        Tracks(3, tracks.event, tracks.pt, tracks.eta, turned(tracks.phi)),
    ).dense()
    assert np.allclose(rolled, np.roll(plain, turn, axis=3), rtol=1e-6, atol=0)


def test_one_tower_and_one_track_lie_where_they_should() -> None:
    towers = Towers(
        2,
        np.array([1]),
        np.array([-2.5 + 5 / 64 * 10.5]),
        np.array([-np.pi + 0.01]),
        np.array([7.0]),
        np.zeros(1),
    )
    tracks = Tracks(2, np.array([0]), np.array([3.0]), np.array([2.499]), np.array([np.pi]))
    images = detector_images(towers, tracks).dense()
    assert np.argwhere(images).tolist() == [[0, 2, 63, 0], [1, 0, 10, 0]]
    assert images[1, 0, 10, 0] == 7.0
    assert images[0, 2, 63, 0] == 1.0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), bins=st.sampled_from([4, 8, 64]))
def test_a_shard_takes_every_row(random_towers: Make, seed: int, bins: int) -> None:
    """Each cell once, in rising order, also where many towers share it: else the shard refuses the rows."""
    images = detector_images(random_towers(seed), _tracks(seed), bins=bins)
    rows = SparseRows(images.offsets, images.indices.astype(np.uint16), images.values)
    assert check({"image": rows}, {"image": SparseField(shape=(3, bins, bins))}, "images") == 3
    for start, stop in zip(images.offsets[:-1], images.offsets[1:], strict=True):
        assert np.all(np.diff(images.indices[start:stop].astype(int)) > 0)


def test_rows_are_sorted_and_without_doubles(rpv_events: DetectorEvents) -> None:
    images = detector_images(rpv_events.towers, rpv_events.tracks)
    assert len(images) == 60
    assert images.values.min() > 0
    for start, stop in zip(images.offsets[:-1], images.offsets[1:], strict=True):
        assert np.all(np.diff(images.indices[start:stop].astype(int)) > 0)
    per_event = np.diff(images.offsets)
    assert 200 < per_event.mean() < 600


def test_taking_rows(rpv_events: DetectorEvents) -> None:
    images = detector_images(rpv_events.towers, rpv_events.tracks)
    rows = np.array([5, 0, 5, 59])
    assert np.array_equal(images.take(rows).dense(), images.dense()[rows])
    assert len(images.take(np.zeros(0, dtype=np.int64))) == 0


def test_events_without_anything() -> None:
    none = np.zeros(0)
    empty = detector_images(
        Towers(4, none.astype(int), none, none, none, none), Tracks(4, none.astype(int), none, none, none)
    )
    assert len(empty) == 4
    assert empty.dense().sum() == 0
