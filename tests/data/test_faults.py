"""Everything that can be wrong with data on disk, caused: named, cured, and never returned as a batch."""

import json
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

from hpctrain.data import checksums, schema, shard_file
from hpctrain.data.columns import RaggedRows, SparseRows, concatenate
from hpctrain.data.loader import Loader
from hpctrain.data.order import Order
from hpctrain.data.schema import DatasetInfo, DenseField, RaggedField, SparseField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError

FIELDS = {
    "image": SparseField(shape=(2, 8, 8)),
    "label": DenseField(dtype="int64"),
    "energy": DenseField(),
    "hits": RaggedField(shape=(2,)),
}


def columns(events, seed=0):
    rng = np.random.default_rng(seed)
    image = (rng.random((events, 2, 8, 8)) * (rng.random((events, 2, 8, 8)) < 0.2)).astype(np.float32)
    return {
        "image": SparseRows.from_dense(image),
        "label": np.arange(events),
        "energy": rng.random(events).astype(np.float32),
        "hits": RaggedRows.from_lists([rng.random((n, 2)) for n in rng.integers(0, 5, events)], (2,)),
    }


@pytest.fixture
def dataset(tmp_path):
    with ShardWriter(tmp_path / "d", FIELDS, provenance={"label": "test"}, events_per_shard=128) as writer:
        writer.append(columns(500))
    return tmp_path / "d"


def read_everything(dataset):
    """As training does: every batch of an epoch in a shuffled order of several windows."""
    opened = ShardDataset.open(dataset)
    return list(Loader(opened).epoch(Order(opened.events, 64, 1, block=32, window=128, lanes=2), 0))


def cured(caught, dataset):
    """The message names the file in its dataset, the hint says what to do."""
    assert f"{dataset}/shard-0000" in caught.value.message
    assert caught.value.hint == "Copy it again from where it came, or make the dataset again"


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def place_of(path, name):
    """Where an array's bytes lie in the file."""
    with h5py.File(path, locking=False) as file:
        return file[name].id.get_offset() + file[name].id.get_storage_size() // 2


@pytest.mark.parametrize(
    "name",
    ["image/offsets", "image/indices", "image/values", "label", "energy", "hits/offsets", "hits/values"],
)
def test_a_flipped_byte_is_found_wherever_it_is(dataset, name):
    path = dataset / "shard-00002.h5"
    flip(path, place_of(path, name))
    with pytest.raises(
        UserError, match=f"shard-00002.h5 is not what was written: dataset '{name}' differs near event"
    ) as caught:
        read_everything(dataset)
    cured(caught, dataset)


def test_a_flipped_byte_of_the_checksums_themselves(dataset):
    path = dataset / "shard-00002.h5"
    flip(path, place_of(path, "_checksums/label"))
    with pytest.raises(
        UserError, match=r"shard-00002.h5 is not what was written: its table of checksums differs"
    ) as caught:
        read_everything(dataset)
    cured(caught, dataset)


def test_flipped_bytes_anywhere_give_an_error_or_the_right_events(dataset):
    """Also in HDF5's own structures: what is read is right, or it is refused in one line."""
    path = dataset / "shard-00001.h5"
    whole = path.read_bytes()

    def energies():
        opened = ShardDataset.open(dataset)
        return opened.read_range(100, 300)["energy"].tolist()

    expected = energies()
    refused = 0
    for place in np.random.default_rng(3).integers(0, len(whole), 150).tolist() + list(range(0, 100, 7)):
        path.write_bytes(whole)
        flip(path, place)
        try:
            got = energies()
        except UserError as error:
            refused += "shard-00001.h5" in str(error)
            continue
        assert got == expected
    assert refused > 75


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), r"\(\d+ bytes, \d+ were written\)"),
        (lambda path: path.write_bytes(b""), r"\(0 bytes, \d+ were written\)"),
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b"P" * path.stat().st_size), "is not a readable HDF5 shard"),
    ],
    ids=["truncated", "empty", "missing", "not HDF5"],
)
def test_damage_is_named_and_never_read(dataset, damage, words):
    damage(dataset / "shard-00002.h5")
    with pytest.raises(UserError, match=words) as caught:
        read_everything(dataset)
    assert "shard-00002.h5" in str(caught.value)
    cured(caught, dataset)


def test_a_file_replaced_between_epochs(dataset, tmp_path):
    """By another whole shard of the same schema and the same size: it is not of this dataset."""
    with ShardWriter(tmp_path / "other", FIELDS, events_per_shard=128) as writer:
        writer.append({**columns(500), "label": np.arange(500) + 7})
    opened = ShardDataset.open(dataset)
    opened.OPEN_FILES = 1
    order = Order(500, 64, 1, block=32, window=128, lanes=2)
    loader = Loader(opened)
    list(loader.epoch(order, 0))
    new = tmp_path / "other" / "shard-00001.h5"
    assert new.stat().st_size == (dataset / "shard-00001.h5").stat().st_size
    new.replace(dataset / "shard-00001.h5")
    with pytest.raises(UserError, match=r"shard-00001.h5 is not what was written") as caught:
        list(loader.epoch(order, 1))
    cured(caught, dataset)


def test_a_file_overwritten_while_it_is_open(dataset):
    opened = ShardDataset.open(dataset)
    opened.column("label")
    path = dataset / "shard-00003.h5"
    place = place_of(path, "energy")
    with path.open("r+b") as stream:
        stream.seek(place)
        stream.write(b"\xff\x00\xff\x00")
    with pytest.raises(UserError, match=r"shard-00003.h5 .*dataset 'energy'") as caught:
        opened.column("energy")
    cured(caught, dataset)


def foreign(folder, change, fields=FIELDS):
    """A dataset whose writer follows the format and its checksums, but writes what it should not."""
    content = columns(100)
    change(content)
    original = schema.check
    try:
        schema.check = lambda columns, fields, where: 100  # this writer does not look
        info = shard_file.write_shard(folder / "shard-00000.h5", fields, content)
    finally:
        schema.check = original
    document = DatasetInfo(events=100, fields=dict(fields), shards=(info,)).model_dump(mode="json")
    (folder / "dataset.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["energy"].__setitem__(70, np.nan), "'energy': has NaN or infinite"),
        (lambda c: c["hits"].values.__setitem__((0, 0), np.inf), "'hits': has NaN or infinite"),
        (lambda c: c["hits"].offsets.__setitem__(100, 10**9), "'hits': has offsets to 1000000000"),
        (lambda c: c["hits"].offsets.__setitem__(50, 0), "'hits': has offsets that do not rise"),
        (lambda c: c["image"].indices.__setitem__(-1, 200), "'image': has an index 200 outside its shape"),
        (lambda c: c.update(energy=c["energy"].astype(np.float64)), r"dataset 'energy' is float64\[100\], for 100 events the schema says float32\[100\]"),
        (lambda c: c.update(energy=c["energy"][:-1]), "dataset 'energy'"),
    ],
    ids=["NaN energy", "infinite hit", "offsets out of range", "offsets fall", "cell out of range", "other type", "short"],
)  # fmt: skip
def test_what_other_writers_get_wrong_is_refused(tmp_path, change, words):
    with pytest.raises(UserError, match=words) as caught:
        read_everything(foreign(tmp_path, change))
    assert "shard-00000.h5" in str(caught.value)
    cured(caught, tmp_path)


def test_a_field_that_the_file_has_not(tmp_path):
    folder = foreign(tmp_path, lambda c: None)
    path = folder / "dataset.json"
    document = json.loads(path.read_text())
    document["fields"]["mass"] = {"kind": "dense"}
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"shard-00000.h5 is not a readable HDF5 shard: .*mass"):
        read_everything(folder)


def test_a_table_of_checksums_of_another_length(tmp_path, monkeypatch):
    original = checksums.tables
    monkeypatch.setattr(checksums, "tables", lambda *a: {k: v[:-1] for k, v in original(*a).items()})
    folder = foreign(tmp_path, lambda c: None)
    with pytest.raises(UserError, match=r"shard-00000.h5: '_checksums/image/offsets' has the shape \[1\]"):
        read_everything(folder)


def test_a_path_out_of_the_directory_is_refused(dataset):
    path = dataset / "dataset.json"
    document = json.loads(path.read_text())
    document["shards"][0]["file"] = "../../etc/passwd"
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"shards.0.file: String should match pattern"):
        ShardDataset.open(dataset)


def test_two_writers_in_one_directory(tmp_path):
    first = ShardWriter(tmp_path / "d", FIELDS)
    first.append(columns(10))
    with pytest.raises(UserError, match="another process is writing a dataset into") as caught:
        ShardWriter(tmp_path / "d", FIELDS).append(columns(10))
    assert "data merge" in caught.value.hint
    assert first.close().events == 10
    with pytest.raises(UserError, match="already holds a dataset"):
        ShardWriter(tmp_path / "d", FIELDS)
    assert {path.name for path in (tmp_path / "d").iterdir()} == {"dataset.json", "shard-00000.h5"}


def test_a_writer_that_was_killed_leaves_no_dataset_and_no_obstacle(tmp_path):
    code = f"""
import os, numpy as np
from pathlib import Path
from hpctrain.data.schema import DenseField
from hpctrain.data.shard_writer import ShardWriter
writer = ShardWriter(Path({str(tmp_path / "d")!r}), {{"x": DenseField()}}, events_per_shard=64)
writer.append({{"x": np.zeros(100, np.float32)}})
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with pytest.raises(UserError, match="no dataset at"):
        ShardDataset.open(tmp_path / "d")
    with ShardWriter(tmp_path / "d", {"x": DenseField()}) as writer:
        writer.append({"x": np.ones(7, np.float32)})
    assert ShardDataset.open(tmp_path / "d").column("x").tolist() == [1.0] * 7


def test_full_disk_keeps_the_shards_before(small_disk):
    writer = ShardWriter(small_disk / "d", FIELDS, events_per_shard=1000)
    with pytest.raises(UserError, match=r"disk full while writing .*shard-0000\d.h5"):
        writer.append(concatenate([columns(2000)] * 5))
    names = sorted(path.name for path in (small_disk / "d").iterdir() if path.name != ".writing")
    assert names
    assert all(name.endswith(".h5") for name in names)
    for name in names:  # whole: its table of checksums is that of its events
        with h5py.File(small_disk / "d" / name) as file:
            assert (
                file["_checksums/label"][0] == checksums.checksums(file["label"][:64], np.array([0, 64]))[0]
            )


def test_a_moved_dataset_reads_as_before(dataset, tmp_path):
    before = [b["row"].tolist() for b in read_everything(dataset)]
    shutil.move(dataset, tmp_path / "elsewhere")
    assert [b["row"].tolist() for b in read_everything(tmp_path / "elsewhere")] == before
