from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.data.columns import Columns, RaggedRows, SparseRows, concatenate, count, part, take
from hpctrain.errors import InternalError, UserError
from hpctrain.ingest.spill import PLACE, in_order


def _events(events: int) -> Columns:
    """One field of each kind, told apart by its number."""
    numbers = np.arange(events)
    cells = np.zeros((events, 40), dtype=np.float32)
    cells[numbers, numbers % 40] = 1.0 + numbers
    return {
        "number": numbers,
        "sparse": SparseRows.from_dense(cells),
        "ragged": RaggedRows.from_lists([[float(n)] * (n % 4) for n in range(events)]),
    }


def _pieces(events: int, seed: int, most: int) -> Iterator[Columns]:
    """All events in a random sequence, cut at random, each with its number as its place."""
    rng = np.random.default_rng(seed)
    columns = take(_events(events), rng.permutation(events))
    start = 0
    while start < events:
        stop = min(events, start + int(rng.integers(1, most + 1)))
        piece = part(columns, start, stop)
        yield {**piece, PLACE: piece["number"]}
        start = stop


@settings(max_examples=25, deadline=None)
@given(
    events=st.integers(1, 400),
    seed=st.integers(0, 99),
    most=st.integers(1, 100),
    memory=st.integers(300, 20000),
)
def test_events_come_in_order_whole(
    tmp_path_factory: pytest.TempPathFactory, events: int, seed: int, most: int, memory: int
) -> None:
    folder = tmp_path_factory.mktemp("spill") / "files"
    found = concatenate(list(in_order(_pieces(events, seed, most), 0, events, 30.0, folder, memory)))
    expected = _events(events)
    assert list(found) == list(expected)
    assert np.array_equal(found["number"], expected["number"])
    for name in ("sparse", "ragged"):
        for attribute in ("offsets", "values"):
            a, b = getattr(found[name], attribute), getattr(expected[name], attribute)
            assert a.dtype == b.dtype
            assert np.array_equal(a, b)
    assert not [p for p in folder.parent.rglob("*") if p.is_file()]


def test_what_fits_touches_no_disk(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    assert count(concatenate(list(in_order(_pieces(50, 1, 7), 0, 50, 30.0, folder)))) == 50
    assert not folder.exists()


def test_a_second_level_of_files(tmp_path: Path) -> None:
    """600 events of which one fits: 256 files hold two or three each, so each is dealt again."""
    found = list(in_order(_pieces(600, 1, 500), 0, 600, 30.0, tmp_path / "files", 40))
    assert len(found) == 600
    assert [int(piece["number"][0]) for piece in found] == list(range(600))


@pytest.mark.parametrize("memory", [2**20, 500])
def test_an_event_lost_or_doubled_is_noticed(tmp_path: Path, memory: int) -> None:
    lost = (piece for n, piece in enumerate(_pieces(200, 1, 20)) if n != 3)
    with pytest.raises(InternalError, match="not all there once"):
        list(in_order(lost, 0, 200, 30.0, tmp_path / "a", memory))
    doubled = [*_pieces(200, 1, 20), *_pieces(5, 1, 5)]
    with pytest.raises(InternalError, match="not all there once"):
        list(in_order(doubled, 0, 200, 30.0, tmp_path / "b", memory))


def test_a_full_disk_is_a_user_error(small_disk: Path) -> None:
    with pytest.raises(UserError, match="disk full while writing"):
        list(in_order(_pieces(40_000, 1, 5000), 0, 40_000, 30.0, small_disk / "files", 2**16))
