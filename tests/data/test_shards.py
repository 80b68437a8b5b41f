import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.data.columns import nbytes, part, take
from hpctrain.data.loader import Loader
from hpctrain.data.schema import DatasetInfo
from hpctrain.data.shard_file import write_shard
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.data.shards import ShardDataset
from hpctrain.data.stored_array import StoredArray
from hpctrain.errors import UserError


@pytest.fixture
def dataset(tmp_path, columns, fields):
    with ShardWriter(tmp_path / "d", fields, provenance={"label": "test"}, events_per_shard=16) as writer:
        writer.append(columns(50))
    return tmp_path / "d"


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 90),
    st.lists(st.integers(1, 70), min_size=1, max_size=4),
    st.integers(0, 99),
    st.sampled_from(["none", "zstd"]),
)
def test_what_is_written_is_read_however_it_was_cut(
    columns, fields, tmp_path_factory, per_shard, pieces, seed, compression
):
    folder = tmp_path_factory.mktemp("x") / "d"
    everything = columns(sum(pieces), seed)
    with ShardWriter(folder, fields, events_per_shard=per_shard, compression=compression) as writer:
        start = 0
        for size in pieces:
            writer.append(part(everything, start, start + size))
            start += size
    read = ShardDataset.open(folder)
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(read), 30)
    same(read.read(rows), take(everything, rows))
    low = int(rng.integers(0, len(read)))
    high = int(rng.integers(low + 1, len(read) + 1))
    same(read.read_range(low, high), part(everything, low, high))
    np.testing.assert_array_equal(
        read.counts(low, high, "particles"), everything["particles"].counts[low:high]
    )
    ranges = [tuple(sorted(rng.integers(0, len(read) + 1, 2).tolist())) for _ in range(rng.integers(0, 6))]
    rows = np.concatenate([np.zeros(0, dtype=np.int64), *(np.arange(*ends) for ends in ranges)])
    same(read.read_ranges(ranges), take(everything, rows))
    assert all(shard.events <= per_shard for shard in read.info.shards)


def same(got, expected):
    assert list(got) == list(expected)
    for name, values in expected.items():
        for attribute in ("offsets", "indices", "values"):
            if hasattr(values, attribute):
                np.testing.assert_array_equal(
                    getattr(got[name], attribute), getattr(values, attribute), strict=True
                )
        if isinstance(values, np.ndarray):
            np.testing.assert_array_equal(got[name], values, strict=True)


def test_a_forked_process_reads_for_itself(dataset):
    opened = ShardDataset.open(dataset)
    opened.column("label")
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    children = [
        context.Process(target=lambda: answers.put(opened.column("label").tolist())) for _ in range(2)
    ]
    for child in children:
        child.start()
    assert [answers.get(timeout=60) for _ in children] == [list(range(50))] * 2
    for child in children:
        child.join()
    assert opened.column("label").tolist() == list(range(50))


def test_others_can_read_it_with_h5py_alone(dataset):
    with h5py.File(dataset / "shard-00001.h5") as file:
        assert list(file["label"]) == list(range(16, 32))
        offsets, values = file["image/offsets"][:], file["image/values"][:]
        assert offsets[-1] == len(values) == len(file["image/indices"])


def test_open_files_are_bounded_and_change_nothing(dataset, monkeypatch):
    monkeypatch.setattr(ShardDataset, "OPEN_FILES", 1)
    small = ShardDataset.open(dataset)
    rows = np.random.default_rng(1).permutation(50)
    np.testing.assert_array_equal(small.read(rows)["label"], rows)
    assert len(small._open) == 1


def test_threads_read_at_once_with_few_files_open(dataset, monkeypatch):
    monkeypatch.setattr(ShardDataset, "OPEN_FILES", 1)
    shared = ShardDataset.open(dataset)

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(60):
            rows = rng.integers(0, 50, 5)
            np.testing.assert_array_equal(shared.read(rows)["label"], rows)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    held = [file.path for file in psutil.Process().open_files() if str(dataset) in file.path]
    assert len(held) == 1  # what was put away is closed


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_bytes_of_a_row_are_those_in_memory(tmp_path, compression, columns, fields):
    """… by which a window is chosen that fits into it."""
    content = columns(1000)
    content["jets"][:] = 1.0  # compresses to nothing
    with ShardWriter(tmp_path / "d", fields, events_per_shard=64, compression=compression) as writer:
        writer.append(content)
    assert ShardDataset.open(tmp_path / "d").row_bytes == pytest.approx(nbytes(content) / 1000, rel=0.02)


def test_a_dataset_travels_to_another_process(dataset):
    opened = ShardDataset.open(dataset)
    opened.column("label")
    assert pickle.loads(pickle.dumps(opened)).column("label").tolist() == list(range(50))


@pytest.mark.parametrize("rows", [[], [-1], [50]])
def test_rows_outside_are_refused(dataset, rows):
    with pytest.raises(IndexError, match="0 to 49"):
        ShardDataset.open(dataset).read(np.array(rows, dtype=np.int64))


def test_unfinished_dataset_says_so(tmp_path):
    (tmp_path / "d").mkdir()
    with pytest.raises(UserError, match=r"no dataset at .* dataset.json is missing"):
        ShardDataset.open(tmp_path / "d")


def test_a_dataset_without_events_is_read_as_such(tmp_path, columns, fields):
    with ShardWriter(tmp_path / "d", fields):
        pass
    empty = ShardDataset.open(tmp_path / "d")
    assert (len(empty), empty.row_bytes, list(empty.chunks(["label"]))) == (0, 0.0, [])
    same(empty.read_range(0, 0), part(columns(3), 0, 0))
    assert len(empty.column("image")) == 0
    assert list(Loader(empty).sequential(4)) == []
    with pytest.raises(IndexError):
        empty.read_range(0, 1)


def test_a_shard_without_events_among_others(tmp_path, columns, fields):
    """Ours has none, but the format allows it."""
    infos = [
        write_shard(tmp_path / f"shard-{n}.h5", fields, part(columns(70), *range_))
        for n, range_ in enumerate([(0, 0), (0, 30), (30, 30), (30, 70), (70, 70)])
    ]
    info = DatasetInfo(events=70, fields=fields, shards=tuple(infos))
    (tmp_path / "dataset.json").write_text(info.model_dump_json())
    dataset = ShardDataset.open(tmp_path)
    same(dataset.read_range(0, 70), columns(70))
    rows = np.random.default_rng(1).permutation(70)
    same(dataset.read(rows), take(columns(70), rows))


def test_few_files_are_enough_for_many_shards(tmp_path, columns, fields):
    """… and one that has none left says how to have more."""
    with ShardWriter(tmp_path / "d", fields, events_per_shard=2) as writer:
        writer.append(columns(200))
    code = f"""
import os, resource
from pathlib import Path
from hpctrain.data.loader import Loader
from hpctrain.data.shard_file import write_shard
from hpctrain.data.shards import ShardDataset
from hpctrain.data.stored_array import StoredArray
from hpctrain.errors import UserError
dataset = ShardDataset.open(Path({str(tmp_path / "d")!r}))
used = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (used + 30, used + 30))
assert [dataset.read_range(n, n + 1)["label"][0] for n in range(200)] == list(range(200))
assert len(dataset._open) == (used + 30) // 4
taken = []
try:
    while True:
        taken.append(os.open(".", os.O_RDONLY))
except OSError:
    pass
try:
    dataset.read_range(0, 1)
except UserError as error:
    assert "cannot read shard" in error.message and "Too many open files" in error.message, error
    assert "ulimit -n" in error.hint
else:
    raise AssertionError("there was a file left")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_a_block_costs_does_not_grow_with_its_shard(tmp_path, monkeypatch, columns, fields):
    """Of offsets, too, only those are read that the events asked for need."""
    with ShardWriter(tmp_path / "d", fields) as writer:
        writer.append(columns(2000))
    dataset = ShardDataset.open(tmp_path / "d")
    dataset.read_range(0, 1)
    read: list[tuple[int, int]] = []
    original = StoredArray.read

    def watched(self, descriptor, into, start):
        read.append((len(into), self.nbytes))
        original(self, descriptor, into, start)

    monkeypatch.setattr(StoredArray, "read", watched)
    same(dataset.read_range(640, 700), part(columns(2000), 640, 700))
    assert (
        dataset.counts(1990, 2000, "particles").tolist() == columns(2000)["particles"].counts[1990:].tolist()
    )
    offsets = [rows for rows, nbytes in read if nbytes == 8 * 2001]
    assert offsets == [65, 65, 17]  # of blocks of 64 events, the last shorter


@pytest.mark.parametrize("options", [{"userblock_size": 512}, {"libver": "latest"}, {"libver": "v108"}])
def test_files_of_other_layouts_are_read_alike(tmp_path, options, columns, fields):
    with ShardWriter(tmp_path / "d", fields) as writer:
        writer.append(columns(150))
    info = DatasetInfo.read(tmp_path / "d")
    path = tmp_path / "d" / "shard-00000.h5"
    with h5py.File(path) as old, h5py.File(tmp_path / "new.h5", "w", **options) as new:
        for name in old:
            old.copy(name, new)
    (tmp_path / "new.h5").replace(path)
    shards = (info.shards[0].model_copy(update={"bytes": path.stat().st_size}),)
    (tmp_path / "d" / "dataset.json").write_text(info.model_copy(update={"shards": shards}).model_dump_json())
    same(ShardDataset.open(tmp_path / "d").read_range(0, 150), columns(150))
