import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.ingest.division import SPLITS, Division

FRACTIONS = {"train": 0.6, "validation": 0.15, "test": 0.25}


@given(events=st.integers(0, 3000), seed=st.integers(0, 2**31 - 1), train=st.floats(0.01, 0.98))
def test_every_event_has_one_place_in_one_split(events: int, seed: int, train: float) -> None:
    fractions = {"train": train, "validation": (1 - train) / 2, "test": (1 - train) / 2}
    division = Division("jz5", events, fractions, seed)
    assert division.counts.sum() == events
    assert np.all(np.abs(division.counts - events * np.array([fractions[s] for s in SPLITS])) <= 1)
    split, number = division.of(np.arange(events, dtype=np.int64))
    for which, count in enumerate(division.counts):
        assert np.array_equal(np.sort(number[split == which]), np.arange(count))


def test_it_follows_from_the_seed_and_the_name_alone() -> None:
    rows = np.arange(500, dtype=np.int64)
    first, again, other_seed, other_name = (
        Division(name, 500, FRACTIONS, seed).of(rows)[0]
        for name, seed in (("jz5", 1), ("jz5", 1), ("jz5", 2), ("jz6", 1))
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other_seed)
    assert not np.array_equal(first, other_name)
    # Event by event it is the same as all at once: nothing is stored, nothing depends on what was asked before.
    assert first.tolist() == [int(Division("jz5", 500, FRACTIONS, 1).of(rows[i : i + 1])[0][0]) for i in rows]


def test_neighbours_are_divided_independently() -> None:
    """Over many pairs of neighbours, as often in the same split as chance has it: Σ fraction²."""
    split, _ = Division("jz5", 100_000, FRACTIONS, 3).of(np.arange(100_000, dtype=np.int64))
    expected = sum(f * f for f in FRACTIONS.values())
    assert (split[1:] == split[:-1]).mean() == pytest.approx(expected, abs=5 * np.sqrt(0.25 / 1e5))


def test_a_billion_events_need_no_memory() -> None:
    division = Division("jz5", 10**9, FRACTIONS, 1)
    split, number = division.of(np.array([0, 10**9 - 1]))
    assert set(split) <= {0, 1, 2}
    assert np.all(number < division.counts[split])
