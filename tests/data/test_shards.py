import json

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.data.columns import concatenate
from hpctrain.data.shards import (
    DenseField,
    ShardDataset,
    ShardWriter,
    SparseField,
    SparseRows,
    read_shard,
    write_shard,
)
from hpctrain.errors import UserError

FIELDS = {
    "image": SparseField(shape=(3, 8, 8)),
    "label": DenseField(dtype="int64"),
    "jets": DenseField(shape=(5, 4)),
}


def columns(events, seed=0):
    rng = np.random.default_rng(seed)
    image = (rng.random((events, 3, 8, 8)) * (rng.random((events, 3, 8, 8)) < 0.1)).astype(np.float32)
    return {
        "image": SparseRows.from_dense(image),
        "label": np.arange(events),
        "jets": rng.random((events, 5, 4)).astype(np.float32),
    }


@pytest.fixture
def dataset(tmp_path):
    with ShardWriter(tmp_path / "d", FIELDS, provenance={"label": "test"}, events_per_shard=16) as writer:
        writer.append(columns(50))
    return tmp_path / "d"


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.lists(st.integers(1, 15), min_size=1, max_size=5), st.integers(0, 99))
def test_what_is_written_is_read_however_it_was_cut(tmp_path_factory, per_shard, pieces, seed):
    folder = tmp_path_factory.mktemp("x") / "d"
    everything = columns(sum(pieces), seed)
    with ShardWriter(folder, FIELDS, events_per_shard=per_shard) as writer:
        start = 0
        for size in pieces:
            rows = np.arange(start, start + size)
            writer.append(
                {k: v.take(rows) if isinstance(v, SparseRows) else v[rows] for k, v in everything.items()}
            )
            start += size
    read = ShardDataset.open(folder)
    rows = np.random.default_rng(seed).integers(0, len(read), 30)
    got = read.read(rows)
    np.testing.assert_array_equal(got["label"], rows)
    np.testing.assert_array_equal(got["jets"], everything["jets"][rows])
    np.testing.assert_array_equal(got["image"].dense((3, 8, 8)), everything["image"].dense((3, 8, 8))[rows])
    assert all(shard.events <= per_shard for shard in read.info.shards)


def test_others_can_read_it_with_h5py_alone(dataset):
    with h5py.File(dataset / "shard-00001.h5") as file:
        assert list(file["label"]) == list(range(16, 32))
        offsets, values = file["image/offsets"][:], file["image/values"][:]
        assert offsets[-1] == len(values) == len(file["image/indices"])


def test_cache_is_bounded_and_changes_nothing(dataset):
    small = ShardDataset.open(dataset)
    small._cache_bytes = 1
    rows = np.random.default_rng(1).permutation(50)
    np.testing.assert_array_equal(small.read(rows)["label"], rows)
    assert len(small._cache) == 1


@pytest.mark.parametrize("rows", [[], [-1], [50]])
def test_rows_outside_are_refused(dataset, rows):
    with pytest.raises(IndexError, match="0 to 49"):
        ShardDataset.open(dataset).read(np.array(rows, dtype=np.int64))


def corrupt(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (corrupt, "is not what was written: its checksum differs"),
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), r"\(\d+ bytes, \d+ were written\)"),
        (lambda path: path.unlink(), "is missing"),
    ],
    ids=["flipped bit", "truncated", "missing"],
)
def test_damage_is_named_and_never_read(dataset, damage, words):
    damage(dataset / "shard-00002.h5")
    with pytest.raises(UserError, match=words) as caught:
        ShardDataset.open(dataset).read(np.arange(50))
    assert "shard-00002.h5" in str(caught.value)


def test_a_shard_of_another_dataset_is_refused(dataset, tmp_path):
    info = write_shard(tmp_path / "other.h5", {"label": DenseField(dtype="int64")}, {"label": np.arange(3)})
    with pytest.raises(UserError, match="checksum differs"):
        read_shard(tmp_path / "other.h5", ShardDataset.open(dataset).info.shards[0])
    assert read_shard(tmp_path / "other.h5", info)["label"].tolist() == [0, 1, 2]


def test_not_hdf5(tmp_path):
    (tmp_path / "x.h5").write_bytes(b"PNG" * 100)
    with pytest.raises(UserError, match="not a readable HDF5 shard"):
        read_shard(tmp_path / "x.h5")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("jets"), "fields differ from the schema: jets"),
        (lambda c: c.update(label=c["label"].astype(np.int32)), r"field 'label': is int32\[\], the schema says int64\[\]"),
        (lambda c: c.update(jets=c["jets"][:, :3]), r"field 'jets': is float32\[3, 4\]"),
        (lambda c: c["jets"].__setitem__((1, 0, 0), np.nan), "field 'jets': has NaN"),
        (lambda c: c["image"].values.__setitem__(0, np.inf), "field 'image': has NaN or infinite"),
        (lambda c: c["image"].indices.__setitem__(0, 192), r"field 'image': has an index 192 outside"),
        (lambda c: c["image"].offsets.__setitem__(1, 10**6), "field 'image': has offsets"),
        (lambda c: c["image"].indices.__setitem__(1, c["image"].indices[0]), "field 'image': has rows whose indices"),
        (lambda c: c.update(label=c["label"][:-1]), "different numbers of rows"),
    ],
)  # fmt: skip
def test_wrong_events_are_not_written(tmp_path, change, words):
    wrong = columns(8)
    change(wrong)
    with pytest.raises(UserError, match=words), ShardWriter(tmp_path / "d", FIELDS) as writer:
        writer.append(wrong)
    assert not (tmp_path / "d").exists()


def test_unfinished_dataset_says_so(tmp_path):
    (tmp_path / "d").mkdir()
    with pytest.raises(UserError, match=r"no dataset at .* dataset.json is missing"):
        ShardDataset.open(tmp_path / "d")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 99}, "schema version 99, this hpctrain reads 1"),
        ({"events": "many"}, "events: Input should be a valid integer"),
        ({"events": 49}, "events is 49, the shards hold 50"),
        ({"surprise": 1}, "surprise: Extra inputs"),
    ],
)
def test_other_schema_is_refused(dataset, change, words):
    path = dataset / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=words):
        ShardDataset.open(dataset)


def test_an_exception_leaves_no_dataset(tmp_path):
    wrong = {**columns(8), "label": np.zeros(3)}
    writer = ShardWriter(tmp_path / "d", FIELDS, events_per_shard=4)
    writer.append(columns(8))
    with pytest.raises(UserError), writer:
        writer.append(wrong)
    assert not (tmp_path / "d" / "dataset.json").exists()


def test_a_dataset_is_never_overwritten(dataset):
    with pytest.raises(UserError, match="already holds a dataset"):
        ShardWriter(dataset, FIELDS)


def test_full_disk_keeps_the_shards_before(small_disk):
    big = columns(2000)
    writer = ShardWriter(small_disk / "d", FIELDS, events_per_shard=1000)
    with pytest.raises(UserError, match=r"disk full while writing .*shard-0000\d.h5"):
        writer.append(concatenate([big] * 5))
    names = sorted(path.name for path in (small_disk / "d").iterdir())
    assert names
    assert all(name.endswith(".h5") for name in names)
    assert len(read_shard(small_disk / "d" / names[0])["label"]) == 1000
