import threading

import numpy as np
import pytest
import torch

from hpctrain.data.batches import scatter
from hpctrain.data.loader import Loader
from hpctrain.data.order import Order
from hpctrain.data.shards import ShardDataset, SparseRows
from hpctrain.errors import UserError


@pytest.fixture
def dataset(tmp_path, write_toy):
    return ShardDataset.open(write_toy(tmp_path / "d", 101, events_per_shard=32))


def test_scatter_is_dense():
    dense = np.random.default_rng(0).random((5, 2, 3)) * (np.random.default_rng(1).random((5, 2, 3)) < 0.4)
    got = scatter(SparseRows.from_dense(dense), (2, 3), torch.device("cpu"))
    np.testing.assert_array_equal(got.numpy(), dense)


def test_ranks_together_see_each_global_batch(dataset):
    order = Order(101, 32, seed=3, block=8, window=64, lanes=4)
    ranks = [list(Loader(dataset, rank=r, size=3).epoch(order, 1)) for r in range(3)]
    assert len({len(batches) for batches in ranks}) == 1
    for k, batches in enumerate(zip(*ranks, strict=True)):
        rows = torch.cat([batch["row"] for batch in batches]).numpy()
        np.testing.assert_array_equal(rows, order.global_batch(1, k))
        labels = torch.cat([batch["label"] for batch in batches]).numpy()
        np.testing.assert_array_equal(labels, dataset.column("label")[rows])


def test_going_on_in_the_middle_of_an_epoch(dataset):
    order = Order(101, 16, seed=3, block=8, window=64, lanes=4)
    whole = list(Loader(dataset).epoch(order, 0))
    rest = list(Loader(dataset).epoch(order, 0, first=4))
    assert [b["row"].tolist() for b in rest] == [b["row"].tolist() for b in whole[4:]]


def test_a_share_may_be_empty(dataset):
    batches = [next(iter(Loader(dataset, rank=r, size=4).epoch(Order(2, 2, 0), 0))) for r in range(4)]
    assert [len(batch["row"]) for batch in batches] == [0, 1, 0, 1]
    assert batches[0]["image"].shape == (0, 3, 16, 16)


def test_sequential_covers_everything_once(dataset):
    def rows(rank: int, **options) -> list[int]:
        batches = Loader(dataset, rank=rank, size=2).sequential(16, **options)
        return [row for batch in batches for row in batch["row"].tolist()]

    assert rows(0) + rows(1) == list(range(101))
    assert rows(1, whole=True) == list(range(101))


def test_an_error_while_reading_ahead_arrives_whole_and_no_thread_stays(dataset):
    (dataset.directory / "shard-00002.h5").write_bytes(b"gone")
    with pytest.raises(UserError, match=r"shard-00002.h5"):
        list(Loader(dataset).sequential(16))
    assert not [t for t in threading.enumerate() if t.name.startswith("loader")]


def test_leaving_early_leaves_no_thread(dataset):
    batches = Loader(dataset).sequential(8)
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("loader")]
