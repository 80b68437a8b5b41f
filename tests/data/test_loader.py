import threading

import numpy as np
import pytest
import torch

from hpctrain.data.balance import Balance
from hpctrain.data.columns import RaggedRows
from hpctrain.data.loader import Loader
from hpctrain.data.order import Order
from hpctrain.data.schema import DenseField, RaggedField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError


@pytest.fixture
def dataset(tmp_path, write_toy):
    return ShardDataset.open(write_toy(tmp_path / "d", 101, events_per_shard=32))


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
    assert no_thread_stays()


def no_thread_stays() -> bool:
    """They end when they have read what they were reading."""
    readers = [t for t in threading.enumerate() if t.name.startswith("loader")]
    for reader in readers:
        reader.join(timeout=30)
    return not any(reader.is_alive() for reader in readers)


def test_leaving_early_leaves_no_thread(dataset):
    batches = Loader(dataset).sequential(8)
    next(batches)
    batches.close()
    assert no_thread_stays()


def test_an_iterator_left_behind_may_be_collected_while_it_reads(dataset):
    """… and even in the thread that reads, or one that holds a lock which that one waits for."""
    begun, done = threading.Event(), threading.Event()

    class Slow:
        fields, events = dataset.fields, dataset.events

        def read_range(self, start, stop, names=None):
            if start:
                begun.set()
                done.wait(30)
            return dataset.read_range(start, stop, names)

    batches = Loader(Slow(), prefetch=1).sequential(16)
    next(batches)
    assert begun.wait(30)
    closing = threading.Thread(target=batches.close, daemon=True)  # as the collector would
    closing.start()
    closing.join(timeout=10)
    waited = closing.is_alive()
    done.set()
    assert not waited
    assert no_thread_stays()


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """Events of 0 to 60 particles, one in twenty of 200; sorted by size, the worst case for a balance."""
    rng = np.random.default_rng(0)
    counts = np.sort(np.where(rng.random(1003) < 0.05, 200, rng.integers(0, 60, 1003)))
    particles = [rng.random((n, 3)).astype(np.float32) for n in counts]
    fields = {"particles": RaggedField(shape=(3,)), "label": DenseField(dtype="int64")}
    folder = tmp_path_factory.mktemp("graphs") / "d"
    with ShardWriter(folder, fields, events_per_shard=192) as writer:
        writer.append({"particles": RaggedRows.from_lists(particles, (3,)), "label": np.arange(1003)})
    return ShardDataset.open(folder), particles


ORDER = Order(1003, 96, seed=5, block=16, window=256, lanes=8)


def test_ragged_fields_arrive_with_offsets_and_without_padding(graphs):
    dataset, particles = graphs
    for batch in Loader(dataset).epoch(ORDER, 0):
        offsets, values = batch["particles.offsets"], batch["particles"]
        assert len(offsets) == len(batch["row"]) + 1
        for i, row in enumerate(batch["row"].tolist()):
            np.testing.assert_array_equal(values[offsets[i] : offsets[i + 1]].numpy(), particles[row])


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_balanced_ranks_see_the_same_batches_and_share_the_work(graphs, size):
    dataset, particles = graphs
    balance = Balance("particles")
    loaders = [Loader(dataset, rank=r, size=size, balance=balance) for r in range(size)]
    ranks = [list(loader.epoch(ORDER, 1)) for loader in loaders]
    worst = []
    for k, batches in enumerate(zip(*ranks, strict=True)):
        rows = torch.cat([batch["row"] for batch in batches]).numpy()
        np.testing.assert_array_equal(rows, ORDER.global_batch(1, k))
        work = [sum(len(particles[row]) ** 2 for row in b["row"].tolist()) for b in batches]
        worst.append(max(work) / (sum(work) / size))
        assert max(work) - min(work) <= 2 * 200**2
    assert [loader.imbalance.mean for loader in loaders] == pytest.approx([np.mean(worst)] * size)
    uneven = [
        [sum(len(particles[row]) ** 2 for row in ORDER.share(1, k, r, size)) for r in range(size)]
        for k in range(ORDER.batches)
    ]
    if size > 1:  # by numbers of events alone it would be worse
        assert np.mean(worst) < np.mean([max(w) / np.mean(w) for w in uneven])


def test_ranks_read_their_own_lanes(graphs, monkeypatch):
    dataset, _ = graphs
    read = []
    original = ShardDataset.read_ranges

    def spy(self, ranges, names=None):
        read.extend(ranges)
        return original(self, ranges, names)

    monkeypatch.setattr(ShardDataset, "read_ranges", spy)
    for rank in range(2):
        list(Loader(dataset, rank=rank, size=2).epoch(ORDER, 0))
    # Only in the smaller last batch do two ranks meet in one lane.
    assert dataset.events <= sum(stop - start for start, stop in read) <= dataset.events + 256 // 8


def test_a_batch_belongs_to_whoever_holds_it(dataset):
    """Buffers are used again only when nobody holds a tensor on them: not the batch, not a view, not numpy."""
    order = Order(101, 4, seed=1)
    loader = Loader(dataset)
    expected = [
        dataset.read(order.global_batch(0, k))["image"].dense((3, 16, 16)) for k in range(order.batches)
    ]
    kept = []
    for k, batch in enumerate(loader.epoch(order, 0)):
        np.testing.assert_array_equal(batch["image"].numpy(), expected[k])
        kept.append(
            [batch["image"], batch["image"][1:2], batch["image"].numpy(), batch["image"].detach()][k % 4]
        )
        if k % 3 == 0:
            batch["image"].add_(1000.0)  # theirs to spoil
            kept.pop()
            kept.append(None)
    for k, held in enumerate(kept):
        if held is not None:
            whole = expected[k][1:2] if k % 4 == 1 else expected[k]
            np.testing.assert_array_equal(np.asarray(held), whole)


def test_a_small_dataset_is_read_once(dataset, monkeypatch):
    read = []
    original = ShardDataset.read_ranges
    monkeypatch.setattr(ShardDataset, "read_ranges", lambda *a: read.extend(a[1]) or original(*a))
    loader, order = Loader(dataset), Order(101, 16, seed=2)
    seen = [[b["row"].tolist() for b in loader.epoch(order, epoch)] for epoch in range(3)]
    assert read == [(0, 101)]
    assert seen[0] != seen[1]
