"""Events of every kind of field, for tests of what is made of them."""

from collections.abc import Callable

import numpy as np
import pytest

from hpctrain.data.columns import Columns, RaggedRows, SparseRows
from hpctrain.data.schema import DenseField, Fields, RaggedField, SparseField


@pytest.fixture(scope="session")
def fields() -> Fields:
    return {
        "image": SparseField(shape=(3, 8, 8)),
        "label": DenseField(dtype="int64"),
        "jets": DenseField(shape=(5, 4)),
        "particles": RaggedField(shape=(3,), features=("pt", "eta", "phi")),
    }


@pytest.fixture(scope="session")
def columns() -> Callable[..., Columns]:
    """So many random events of these fields."""

    def make(events: int, seed: int = 0) -> Columns:
        rng = np.random.default_rng(seed)
        image = (rng.random((events, 3, 8, 8)) * (rng.random((events, 3, 8, 8)) < 0.1)).astype(np.float32)
        return {
            "image": SparseRows.from_dense(image),
            "label": np.arange(events),
            "jets": rng.random((events, 5, 4)).astype(np.float32),
            "particles": RaggedRows.from_lists(
                [rng.random((n, 3)) for n in rng.integers(0, 6, events)], (3,)
            ),
        }

    return make
