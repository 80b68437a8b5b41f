"""Everything that is wrong is found, not only the first of it; and nothing in a whole dataset is."""

import hashlib
import json
import shutil

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.data import schema, shard_file
from hpctrain.data.columns import RaggedRows, SparseRows
from hpctrain.data.curation import verify
from hpctrain.data.schema import DatasetInfo, DenseField, RaggedField, SparseField
from hpctrain.data.shard_writer import ShardWriter

FIELDS = {
    "image": SparseField(shape=(2, 4, 4)),
    "energy": DenseField(),
    "hits": RaggedField(shape=(2,)),
}


def columns(events, seed=0):
    rng = np.random.default_rng(seed)
    image = (rng.random((events, 2, 4, 4)) * (rng.random((events, 2, 4, 4)) < 0.3)).astype(np.float32)
    return {
        "image": SparseRows.from_dense(image),
        "energy": rng.random(events).astype(np.float32),
        "hits": RaggedRows.from_lists([rng.random((n, 2)) for n in rng.integers(0, 4, events)], (2,)),
    }


@pytest.fixture
def dataset(tmp_path):
    with ShardWriter(tmp_path / "d", FIELDS, events_per_shard=128) as writer:
        writer.append(columns(500))
    return tmp_path / "d"


def found(directory):
    return [(problem.path.name, problem.what) for problem in verify.verify(directory)]


def flip(path, name, part=0.5):
    with h5py.File(path, locking=False) as file:
        place = file[name].id.get_offset() + int(file[name].id.get_storage_size() * part)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("events", [0, 1, 64, 300])
def test_a_whole_dataset_has_no_problem(tmp_path, events, compression):
    with ShardWriter(tmp_path / "d", FIELDS, events_per_shard=128, compression=compression) as writer:
        if events:
            writer.append(columns(events))
    steps = []
    assert verify.verify(tmp_path / "d", lambda done, total: steps.append((done, total))) == []
    assert all(done <= total for done, total in steps)
    assert steps == sorted(steps)
    if events:
        assert steps[-1][0] > 0.99 * steps[-1][1]


def test_every_problem_of_every_shard_is_listed(dataset):
    (dataset / "shard-00000.h5").unlink()
    flip(dataset / "shard-00001.h5", "energy")
    flip(dataset / "shard-00001.h5", "hits/values")
    path = dataset / "shard-00002.h5"
    path.write_bytes(path.read_bytes()[:-1])
    flip(dataset / "shard-00003.h5", "_checksums/energy")
    problems = found(dataset)
    assert [(name, what.split(" near")[0].split(",")[0]) for name, what in problems] == [
        ("shard-00000.h5", "is missing"),
        ("shard-00001.h5", "is not what was written: dataset 'energy' differs"),
        ("shard-00001.h5", "is not what was written: dataset 'hits/values' differs"),
        ("shard-00002.h5", f"has {path.stat().st_size} bytes"),
        ("shard-00003.h5", "is not what was written: its table of checksums differs"),
    ]
    assert all("make the dataset again" in problem.cure for problem in verify.verify(dataset))


def test_a_wrong_array_is_one_problem(dataset, monkeypatch):
    monkeypatch.setattr(verify, "_PIECE", 1)  # read block by block
    for part in (0.1, 0.9):
        flip(dataset / "shard-00001.h5", "energy", part)
    ((name, what),) = found(dataset)
    assert name == "shard-00001.h5"
    assert (
        what
        == "is not what was written: dataset 'energy' differs near event 0, and 1 more places of this field"
    )


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(tmp_path_factory, place, bit):
    """Also where no reader would notice: the SHA-256 is of all bytes."""
    folder = tmp_path_factory.mktemp("flipped") / "d"
    with ShardWriter(folder, FIELDS) as writer:
        writer.append(columns(70))
    path = folder / "shard-00000.h5"
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    assert {name for name, _ in found(folder)} == {"shard-00000.h5"}


def test_a_file_that_differs_where_nothing_is_read(dataset):
    path = dataset / "shard-00001.h5"
    with h5py.File(path, "r+") as file:
        file["extra"] = np.arange(1000)
    document = json.loads((dataset / "dataset.json").read_text())
    document["shards"][1].update(
        bytes=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest()
    )
    (dataset / "dataset.json").write_text(json.dumps(document))
    assert found(dataset) == []
    flip(path, "extra")
    ((name, what),) = found(dataset)
    assert name == "shard-00001.h5"
    assert "SHA-256 differs, though every event in it" in what


def test_a_shard_of_another_dataset(dataset, tmp_path):
    with ShardWriter(tmp_path / "other", FIELDS, events_per_shard=128) as writer:
        writer.append(columns(500, seed=1))
    shutil.copy(tmp_path / "other" / "shard-00003.h5", dataset / "shard-00003.h5")
    assert [name for name, _ in found(dataset)] == ["shard-00003.h5"]


def test_what_other_writers_get_wrong(tmp_path, monkeypatch):
    content = columns(100)
    content["energy"][70] = np.nan
    content["hits"].offsets[50] = 0
    content["image"].indices[-1] = 200
    with monkeypatch.context() as patch:
        patch.setattr(schema, "check", lambda columns, fields, where: 100)  # this writer does not look
        info = shard_file.write_shard(tmp_path / "shard-00000.h5", FIELDS, content)
    document = DatasetInfo(events=200, fields=FIELDS, shards=(info, info)).model_dump(mode="json")
    (tmp_path / "dataset.json").write_text(json.dumps(document))
    problems = [what for _, what in found(tmp_path)]
    assert problems[:3] == [
        "field 'image': has an index 200 outside its shape [2, 4, 4]",
        "field 'energy': has NaN or infinite values",
        "field 'hits': has offsets that do not rise from 0",
    ]
    assert problems[-1] == "stands twice in dataset.json: its events would be counted twice"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(schema_version=1), "schema version 1, this hpctrain reads 2"),
        (lambda d: d.update(events=7), "events is 7, the shards hold 500"),
        (lambda d: d["fields"].update(mass={"kind": "dense"}), "not a readable HDF5 shard"),
        (
            lambda d: d["fields"]["energy"].update(dtype="float64"),
            "dataset 'energy' is float32[128], for 128 events the schema says float64[128]",
        ),
    ],
)
def test_another_schema(dataset, change, words):
    document = json.loads((dataset / "dataset.json").read_text())
    change(document)
    (dataset / "dataset.json").write_text(json.dumps(document))
    assert words in found(dataset)[0][1]


def test_no_dataset_is_a_problem_too(tmp_path):
    ((name, what),) = found(tmp_path)
    assert name == "dataset.json"
    assert "is missing" in what


def test_memory_is_bounded_whatever_the_size_of_a_shard(tmp_path, monkeypatch):
    with ShardWriter(tmp_path / "d", FIELDS) as writer:
        writer.append(columns(6400))
    read = shard_file.ShardFile.read
    pieces = []

    def watched(self, start, stop, names):
        pieces.append(stop - start)
        return read(self, start, stop, names)

    monkeypatch.setattr(shard_file.ShardFile, "read", watched)
    size = (tmp_path / "d" / "shard-00000.h5").stat().st_size
    monkeypatch.setattr(verify, "_PIECE", size // 10)
    assert verify.verify(tmp_path / "d") == []
    assert max(pieces) <= 640
    assert sum(pieces) == 3 * 6400


def test_a_shard_that_nothing_names(dataset):
    """As an interrupted copy or another writer leaves it."""
    (dataset / "shard-00009.h5").write_bytes((dataset / "shard-00001.h5").read_bytes())
    (dataset / "mine.h5").write_text("not of this dataset")
    (problem,) = verify.verify(dataset)
    assert problem.path == dataset / "shard-00009.h5"
    assert problem.what == "dataset.json does not name it: no event of it is read"
    assert problem.cure.startswith("Delete it")
