"""The operations of the kits that are more than a name: the smallest of each row, to the last bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.data.graphs.kits import COLUMNS, Kit, NumpyKit, TorchKit

KITS = (NumpyKit(), TorchKit(torch.device("cpu")))


def distances(rng: np.random.Generator, shape: tuple[int, int], kind: str) -> np.ndarray:
    """Squared distances, some of them missing (inf) and one of a row an item's own (−1)."""
    if kind == "apart":
        made = rng.uniform(0, 9, shape)
    elif kind == "ties":
        made = rng.integers(0, 6, shape) / 4
    else:  # apart in the last bits of a float32 alone
        made = (rng.choice([0x3F000000, 0x40400000], shape) + rng.integers(0, 40, shape)).astype(np.int32)
        made = made.view(np.float32)
    made = made.astype(np.float32)
    made[rng.random(shape) < rng.choice([0.0, 0.1, 0.9])] = np.inf
    made[:, rng.integers(shape[1])] = rng.choice([-1.0, np.inf])
    return made


@pytest.mark.parametrize("kit", KITS, ids=lambda kit: type(kit).__name__)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_least_are_the_smallest_to_the_last_bit(kit: Kit, data: st.DataObject):
    width = data.draw(st.sampled_from([1, 2, 7, 64, 100, 129, 300, COLUMNS, COLUMNS + 1]))
    k = data.draw(st.integers(1, min(width, 40)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    squared = distances(rng, (3, width), data.draw(st.sampled_from(["apart", "ties", "close"])))
    numbers = None
    if data.draw(st.booleans()):
        numbers = rng.permuted(np.tile(np.arange(10**6, 10**6 + width), (3, 1)), axis=1)
    names = np.tile(np.arange(width), (3, 1)) if numbers is None else numbers
    expected = np.stack([name[np.lexsort((name, row))[:k]] for row, name in zip(squared, names, strict=True)])
    # As a search has them: an axis more than rows and columns.
    arrays = [
        None if array is None else kit.of(torch.from_numpy(array.copy()))[None]
        for array in (squared, numbers)
    ]
    found = kit.tensor(kit.least(*arrays, k))
    assert found.dtype == torch.int64
    some = np.isfinite(np.sort(squared, axis=1)[:, :k])  # what is not there has no order among itself
    np.testing.assert_array_equal(found.numpy()[0][some], expected[some])


def test_few_rows_are_done_again():
    """Distances of points lie close together only by chance: else half the bits would gain nothing."""
    again = []

    class Counted(NumpyKit):
        @staticmethod
        def _exact(squared, numbers, k):
            again.append(len(squared))
            return NumpyKit._exact(squared, numbers, k)

    squared = np.random.default_rng(1).uniform(0, 9, (1, 5000, 100)).astype(np.float32)
    np.testing.assert_array_equal(
        Counted().least(squared, None, 16), np.argsort(squared, axis=-1, kind="stable")[..., :16]
    )
    assert 0 < sum(again) < 50
