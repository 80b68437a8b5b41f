"""Memory across ranks: the same events as from disk, whoever has them. The same tests on one rank and on N."""

import itertools
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpctrain import machine
from hpctrain.data.balance import Balance
from hpctrain.data.columns import RaggedRows, SparseRows
from hpctrain.data.loader import Loader
from hpctrain.data.memory.part import Part
from hpctrain.data.memory.peers import PeerMemory
from hpctrain.data.memory.store import MemoryStore, group_of
from hpctrain.data.order import Order
from hpctrain.data.schema import DenseField, RaggedField, SparseField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import InternalError, UserError
from hpctrain.launch.local import mpiexec
from hpctrain.training.checkpoint import Checkpoints

FIELDS = {
    "image": SparseField(shape=(2, 300, 300)),  # uint32 indices
    "label": DenseField(dtype="int64"),
    "selected": DenseField(dtype="bool"),
    "jets": DenseField(shape=(2, 3), dtype="float64"),
    "hits": RaggedField(shape=(2,)),
    "tracks": RaggedField(dtype="uint8"),  # 1 byte an item: nothing is aligned by itself
}
EVENTS = 413


def columns(events: int, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    cells = [np.sort(rng.choice(180_000, n, replace=False)) for n in rng.integers(0, 30, events)]
    offsets = np.concatenate([[0], np.cumsum([len(c) for c in cells])])
    indices = np.concatenate(cells).astype(np.uint32)
    return {
        "image": SparseRows(offsets, indices, rng.random(len(indices)).astype(np.float32)),
        "label": np.arange(events),
        "selected": rng.random(events) < 0.5,
        "jets": rng.random((events, 2, 3)),
        "hits": RaggedRows.from_lists([rng.random((n, 2)) for n in rng.integers(0, 9, events)], (2,)),
        "tracks": RaggedRows.from_lists(
            [rng.integers(0, 255, n) for n in rng.integers(0, 4, events)], (), "uint8"
        ),
    }


@pytest.fixture
def place(tmp_path, world) -> Path:
    """A folder that is the same on all ranks."""
    return Path(world.gather(str(tmp_path))[0])


@pytest.fixture
def write(place, world):
    """Writes a dataset, once; opens it on every rank."""

    def make(events: int, name: str = "d") -> ShardDataset:
        if world.rank == 0:
            with ShardWriter(
                place / name, FIELDS, provenance={"label": "test"}, events_per_shard=128
            ) as writer:
                writer.append(columns(events))
        world.barrier()
        return ShardDataset.open(place / name)

    return make


def same(a: dict, b: dict) -> None:
    """Bit for bit, types and offsets included."""
    assert list(a) == list(b)
    for name, column in a.items():
        assert type(column) is type(b[name])
        parts = {"": column} if isinstance(column, np.ndarray) else vars(column)
        for part, values in parts.items():
            other = getattr(b[name], part) if part else b[name]
            assert values.dtype == other.dtype, (name, part)
            np.testing.assert_array_equal(values, other, strict=True)


def assert_same_batches(got, expected) -> int:
    number = 0
    for a, b in zip(got, expected, strict=True):
        assert list(a) == list(b)
        assert all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)
        number += 1
    return number


@pytest.mark.mpi
@pytest.mark.parametrize("replica_ranks", [None, 1, 2, 99])
def test_any_events_are_those_on_disk(write, world, replica_ranks):
    dataset = write(EVENTS)
    store = MemoryStore.fill(dataset, world, replica_ranks=replica_ranks)
    assert store.events == EVENTS
    assert store.fields == dataset.fields
    same(store.read_range(0, EVENTS), dataset.read_range(0, EVENTS))
    rng = np.random.default_rng(world.rank)
    for _ in range(40):
        start, stop = np.sort(rng.choice(EVENTS + 1, 2, replace=False)).tolist()
        same(store.read_range(start, stop), dataset.read_range(start, stop))
        names = list(rng.permutation(list(FIELDS))[: rng.integers(1, 4)])
        rows = rng.integers(0, EVENTS, rng.integers(1, 60))
        same(store.read(rows, names), dataset.read(rows, names))
        for name in ("image", "hits", "tracks"):
            np.testing.assert_array_equal(
                store.counts(start, stop, name), dataset.counts(start, stop, name), strict=True
            )
    store.close()


@pytest.mark.mpi
def test_each_rank_keeps_its_part_and_no_more(write, world):
    dataset = write(EVENTS)
    whole = Part.measure(dataset, dataset.fields, 0, EVENTS).size
    for replica_ranks in (None, 1):
        store = MemoryStore.fill(dataset, world, replica_ranks=replica_ranks)
        ranks = world.size if replica_ranks is None else 1
        # parts are cut by events, whose sizes vary; every array is padded to 64 bytes
        assert abs(store.own_bytes - whole / ranks) < 0.15 * whole / ranks + 64 * 10
        store.close()
    labels = MemoryStore.fill(dataset, world, names=["label"])
    assert labels.own_bytes <= 8 * (EVENTS // world.size + 1) + 64
    same(labels.read_range(3, 400), dataset.read_range(3, 400, ["label"]))
    labels.close()


@pytest.mark.mpi
@pytest.mark.parametrize("balance", [None, Balance("hits")])
@pytest.mark.parametrize("first", [0, 5])
def test_batches_are_those_from_disk_while_ranks_talk(write, world, balance, first):
    """Also from the middle of an epoch, and while the training thread is in MPI all the time."""
    dataset = write(EVENTS)
    order = Order(EVENTS, 32, seed=5, block=16, window=96, lanes=3)
    store = MemoryStore.fill(dataset, world)
    options = {
        "rank": world.rank,
        "size": world.size,
        "balance": balance,
        "names": ["image", "label", "hits"],
    }
    for epoch in (0, 1):
        talked = 0

        def train(epoch=epoch):
            nonlocal talked
            for batch in Loader(store, **options).epoch(order, epoch, first):
                for _ in range(5):
                    total = world.all_reduce(torch.tensor([len(batch["row"]), 1]))
                    assert total[1] == world.size
                talked += int(total[0])
                yield batch

        assert assert_same_batches(train(), Loader(dataset, **options).epoch(order, epoch, first)) > 5
        assert talked == EVENTS - first * 32
    sequential = Loader(store, rank=world.rank, size=world.size).sequential(50)
    assert_same_batches(sequential, Loader(dataset, rank=world.rank, size=world.size).sequential(50))
    store.close()


@pytest.mark.mpi
def test_an_owner_that_computes_keeps_nobody_waiting(write, place, world):
    """On one node a fetch ends while the owner is outside MPI: here until it sees that the fetch has ended."""
    dataset = write(EVENTS)
    store = MemoryStore.fill(dataset, world)
    if world.rank == 0:
        same(store.read_range(0, EVENTS), dataset.read_range(0, EVENTS))
        (place / "fetched").touch()
    deadline = time.monotonic() + 20
    while not (place / "fetched").exists():
        assert time.monotonic() < deadline, "the fetch waits for its owner"
        time.sleep(0.01)
    store.close()


@pytest.mark.mpi
@pytest.mark.parametrize("events", [1, 2, 3, 65])
def test_fewer_events_than_ranks_would_like(write, world, events):
    dataset = write(events)
    store = MemoryStore.fill(dataset, world)
    same(store.read_range(0, events), dataset.read_range(0, events))
    order = Order(events, 8, seed=1)
    options = {"rank": world.rank, "size": world.size}
    assert_same_batches(Loader(store, **options).epoch(order, 0), Loader(dataset, **options).epoch(order, 0))
    store.close()


@pytest.mark.mpi
def test_what_was_read_stays_and_what_was_given_back_is_not_read(write, world):
    dataset = write(EVENTS)
    store = MemoryStore.fill(dataset, world)
    columns = store.read_range(0, EVENTS)
    store.close()
    store.close()
    same(columns, dataset.read_range(0, EVENTS))
    with pytest.raises(ValueError, match="given back"):
        store.read_range(0, 1)


@pytest.mark.mpi
def test_given_back_while_threads_read(write, world):
    """What is being fetched is fetched to its end, from memory that is still there; nothing is begun after that."""
    dataset = write(EVENTS)
    expected = dataset.read_range(0, EVENTS)
    for pause in np.random.default_rng(world.rank).uniform(0, 0.02, 15):
        store = MemoryStore.fill(dataset, world)
        ends: list[ValueError] = []

        def read_on(store=store):
            while True:
                same(store.read_range(0, EVENTS), expected)

        def read(read_on=read_on, ends=ends):
            with pytest.raises(ValueError, match="this memory was given back") as caught:
                read_on()
            ends.append(caught.value)

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(pause)
        store.close()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        assert len(ends) == 2


@pytest.mark.mpi
@pytest.mark.parametrize("taken", [0, 1, 5])
def test_given_back_while_a_loader_reads_ahead(write, world, taken):
    """Batches that come are right, then the loader says what happened; it may as well be left behind."""
    dataset = write(EVENTS)
    order = Order(EVENTS, 32, seed=5, block=16, window=96, lanes=3)
    options = {"rank": world.rank, "size": world.size, "prefetch": 4}
    for left_behind in (False, True):
        store = MemoryStore.fill(dataset, world)
        batches = Loader(store, **options).epoch(order, 0)
        right = Loader(dataset, **options).epoch(order, 0)
        assert_same_batches(itertools.islice(batches, taken), itertools.islice(right, taken))
        store.close()
        if left_behind:
            del batches
            continue
        with pytest.raises(ValueError, match="given back"):
            assert_same_batches(batches, right)


def test_giving_back_waits_for_what_is_being_fetched():
    memory = PeerMemory(8, None)
    memory.own[:] = 7
    memory.share()
    copying, closed = threading.Event(), threading.Event()

    class Slow(np.ndarray):
        """Memory from which copying takes until we say so."""

        def __getitem__(self, key):
            copying.set()
            assert not closed.wait(0.3), "the memory was given back under a copy"
            return np.asarray(super().__getitem__(key))

    memory.own = memory.own.view(Slow)
    into = np.zeros(8, dtype=np.uint8)
    reader = threading.Thread(target=memory.get, args=(0, 0, into))
    reader.start()
    assert copying.wait(30)
    memory.close()
    closed.set()
    reader.join(30)
    assert into.tolist() == [7] * 8
    for action in (lambda: memory.get(0, 0, into), lambda: memory.wait([0])):
        with pytest.raises(ValueError, match="given back"):
            action()


@pytest.mark.mpi
def test_a_shard_that_one_rank_finds_damaged_is_said_on_all(write, world):
    dataset = write(EVENTS)
    damaged = dataset.directory / dataset.info.shards[-1].file  # the last rank's
    content = damaged.read_bytes()
    world.barrier()
    if world.rank == 0:
        place = content.index(dataset.read_range(EVENTS - 1, EVENTS)["jets"].tobytes())
        damaged.unlink()  # HDF5 knows a file by its inode, and this one is open
        damaged.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    world.barrier()
    with pytest.raises(UserError, match=r"shard-00003.h5 is not what was written.*'jets'") as error:
        MemoryStore.fill(ShardDataset.open(dataset.directory), world)
    assert len(set(world.gather(str(error.value)))) == 1
    world.barrier()
    if world.rank == 0:
        damaged.unlink()
        damaged.write_bytes(content)
    world.barrier()
    store = MemoryStore.fill(ShardDataset.open(dataset.directory), world)  # the ranks are still together
    same(store.read_range(0, EVENTS), dataset.read_range(0, EVENTS))
    store.close()


@pytest.mark.mpi
def test_a_mistake_of_ours_on_one_rank_ends_all(write, world, monkeypatch):
    dataset = write(EVENTS)
    if world.rank == world.size - 1:
        monkeypatch.setattr(Part, "load", lambda *_: {}["nothing"])
    with pytest.raises(KeyError if world.rank == world.size - 1 else InternalError, match="nothing"):
        MemoryStore.fill(dataset, world)


@pytest.mark.mpi
def test_ranks_that_see_different_data_are_refused(write, world):
    one, other = write(EVENTS), write(EVENTS - 1, "other")
    if world.size > 1:
        with pytest.raises(UserError, match=f"rank {world.size - 1} sees another dataset than rank 0"):
            MemoryStore.fill(other if world.rank == world.size - 1 else one, world)


@pytest.mark.mpi
def test_too_little_memory_is_refused_before_any_is_taken(write, world, monkeypatch):
    dataset = write(EVENTS)
    monkeypatch.setattr(machine, "memory_bytes", lambda: 20_000)
    with pytest.raises(
        UserError, match=rf"the {world.size} ranks on .* would keep 0\.1 MB .*, 0\.0 MB are free"
    ):
        MemoryStore.fill(dataset, world)


def test_rows_outside_are_refused(write, world):
    store = MemoryStore.fill(write(EVENTS), world)
    for start, stop in [(0, EVENTS + 1), (-1, 3), (4, 4)]:
        with pytest.raises(IndexError, match="must lie in 0 to"):
            store.read_range(start, stop)
        with pytest.raises(IndexError, match="must lie in 0 to"):
            store.counts(start, stop, "hits")
    for rows in ([], [-1], [EVENTS]):
        with pytest.raises(IndexError, match="must be some of"):
            store.read(np.array(rows, dtype=int))


@given(st.integers(1, 300), st.none() | st.integers(1, 320))
def test_every_rank_is_in_one_group_that_is_large_enough(size, replica_ranks):
    groups = {group_of(rank, size, replica_ranks)[2] for rank in range(size)}
    assert sorted(rank for group in groups for rank in group) == list(range(size))
    sizes = {len(group) for group in groups}
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= min(replica_ranks or size, size)
    assert min(sizes) < 2 * (replica_ranks or size)
    for rank in range(size):
        number, ranks, members = group_of(rank, size, replica_ranks)
        assert members[number] == rank
        assert len(members) == ranks


def test_the_same_on_four_ranks():
    """The tests of staging as well: starting four ranks takes longer than they do."""
    files = [__file__, str(Path(__file__).parents[1] / "curation" / "test_staging.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "mpi", "-p", "no:cacheprovider", *files]
    result = subprocess.run(
        [mpiexec(), "-n", "4", *command],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count(" passed") == 4, result.stdout


FILL = """
import sys
from pathlib import Path
from hpctrain.data.memory import store
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError
from hpctrain.parallel.communicator import connect
from hpctrain.parallel.mpi import MpiCommunicator

store.SHARED_MEMORY = Path(sys.argv[2])
world = connect(MpiCommunicator.Config())
try:
    store.MemoryStore.fill(ShardDataset.open(Path(sys.argv[1])), world)
except UserError as error:
    Path(f"{sys.argv[1]}.{world.rank}").write_text(str(error))
world.close()
"""


def refused(directory: Path, shared_memory: Path) -> str:
    """What two ranks say that cannot fill a store; the same words on both."""
    command = [mpiexec(), "-n", "2", sys.executable, "-c", FILL, str(directory), str(shared_memory)]
    subprocess.run(command, check=True, timeout=60)
    words = {Path(f"{directory}.{rank}").read_text() for rank in range(2)}
    assert len(words) == 1
    return words.pop()


def test_shared_memory_too_small_is_refused_not_a_bus_error(tmp_path, small_disk, write_toy):
    words = refused(write_toy(tmp_path / "d", 2000), small_disk)
    assert f"1.0 MB are free in {small_disk}, where they share it. Make that larger" in words


def test_an_mpi_for_one_thread_is_refused(tmp_path, write_toy, monkeypatch):
    monkeypatch.setenv("MPI4PY_RC_THREAD_LEVEL", "serialized")
    words = refused(write_toy(tmp_path / "d", 20), Path("/dev/shm"))
    assert "MPI was started without MPI_THREAD_MULTIPLE. Use an MPI that has it" in words


WINDOWS = (
    "launch.ranks=2",
    "data.window=64",
    "data.block=8",
    "data.lanes=4",
    "training.epochs=12",
    "training.keep=3",
)


def start(run):
    return run.experiment.launch.build().start(
        ["worker", "train", str(run.path)], run.logs / "train.log", parallel=True
    )


def end(job) -> int:
    while (code := job.poll()) is None:
        time.sleep(0.05)
    return code


def test_training_from_memory_is_training_from_disk_killed_or_not(toy_run, tmp_path, monkeypatch):
    """With shards that were staged, too."""
    disk = toy_run("disk", *WINDOWS, "data.store=disk")
    assert end(start(disk)) == 0, (disk.logs / "train.log").read_text()
    (tmp_path / "node").mkdir()
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "node"))
    settings = ("data.store=memory", "data.stage=[$NOT_SET,$NODE_DISK]", "training.checkpoint_steps=2")
    run = toy_run("memory", *WINDOWS, *settings)
    job = start(run)
    while len(list(run.checkpoints.glob("*.pt"))) < 3:
        assert job.poll() is None, (run.logs / "train.log").read_text()
        time.sleep(0.01)
    text = (run.logs / "train.log").read_text()
    pid = next(line.split()[-1] for line in text.splitlines() if line.startswith("rank 1 is process"))
    subprocess.run(["kill", "-9", pid], check=True)
    began = time.monotonic()
    assert end(job) != 0
    assert time.monotonic() - began < 30, "the other rank did not notice"
    (run.logs / "train.log").unlink()
    assert end(start(run)) == 0, (run.logs / "train.log").read_text()
    copies = {path.name.split("-")[2]: str(path) for path in (tmp_path / "node").iterdir()}
    result = json.loads((run.logs / "train.result.json").read_text())["summary"]
    assert result["staged"] == copies, "train and validation, copied once"
    assert result["headline"].endswith(f"shards staged in {tmp_path / 'node'}")
    # MPI would complain at its end of memory that was not given back
    assert "WARN" not in (run.logs / "train.log").read_text()
    from_disk, from_memory = (Checkpoints(r.checkpoints).latest() for r in (disk, run))
    assert from_disk["step"] == from_memory["step"]
    assert from_disk["position"] == from_memory["position"]
    for name, value in from_disk["model"].items():
        assert torch.equal(value, from_memory["model"][name]), name


def test_another_engine_is_refused(toy_run):
    run = toy_run("x", "launch.ranks=2", "launch.engine=gloo", "data.store=memory")
    assert end(start(run)) == 2
    assert "data.store=memory needs MPI between the ranks" in (run.logs / "train.log").read_text()
