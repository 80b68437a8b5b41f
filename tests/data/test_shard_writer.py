import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.data.columns import part
from hpctrain.data.schema import DatasetInfo, DenseField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError

ONE = {"x": DenseField(dtype="int64")}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=5), st.integers(1, 60_000))
def test_where_shards_end_follows_from_the_events_not_from_the_pieces(
    columns, fields, tmp_path_factory, pieces, shard_bytes
):
    """… and so does every byte written."""
    everything = columns(sum(pieces))
    infos = []
    for cuts in (pieces, [sum(pieces)]):
        with ShardWriter(tmp_path_factory.mktemp("x") / "d", fields, shard_bytes=shard_bytes) as writer:
            start = 0
            for size in cuts:
                writer.append(part(everything, start, start + size))
                start += size
        infos.append(DatasetInfo.read(writer.directory).shards)
    assert infos[0] == infos[1]
    assert all(shard.events % 64 == 0 for shard in infos[0][:-1])


def test_a_piece_belongs_to_the_caller_again_once_it_is_appended(tmp_path):
    with ShardWriter(tmp_path / "d", {"x": DenseField(dtype="int64")}) as writer:
        buffer = np.zeros(3, dtype=np.int64)
        for number in range(4):
            buffer[:] = number
            writer.append({"x": buffer})
    assert ShardDataset.open(tmp_path / "d").column("x").tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


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
def test_wrong_events_are_not_written(tmp_path, change, words, columns, fields):
    wrong = columns(8)
    change(wrong)
    with pytest.raises(UserError, match=words), ShardWriter(tmp_path / "d", fields) as writer:
        writer.append(wrong)
    assert not (tmp_path / "d").exists()


def test_an_exception_leaves_no_dataset(tmp_path, columns, fields):
    wrong = {**columns(8), "label": np.zeros(3)}
    writer = ShardWriter(tmp_path / "d", fields, events_per_shard=4)
    writer.append(columns(8))
    with pytest.raises(UserError), writer:
        writer.append(wrong)
    assert not (tmp_path / "d" / "dataset.json").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"provenance": {"seed": np.int64(3)}}, "provenance or scale is not JSON: .*numpy.int64"),
        ({"scale": {"image_max": [1.0, float("nan")]}}, "provenance or scale is not JSON: "),
        ({"provenance": {"name": "\udc80"}}, "provenance or scale is not JSON: .*surrogates"),
        ({"fields": {"a b": ONE["x"]}}, "fields.a b.* String should match pattern"),
        ({"provenance": {"processes": ["ttbar", "qcd"]}}, "'processes' is not a list of mappings"),
        ({"fields": {"row": ONE["x"]}}, "a field cannot be called 'row'"),
    ],
)
def test_what_dataset_json_cannot_hold_is_refused_before_there_are_events(tmp_path, given, words):
    with pytest.raises(UserError, match=words):
        ShardWriter(tmp_path / "d", **{"fields": ONE, **given})


def test_provenance_that_went_wrong_later_loses_nothing(tmp_path):
    writer = ShardWriter(tmp_path / "d", ONE)
    writer.append({"x": np.arange(100)})
    writer.provenance["seed"] = np.int64(3)
    with pytest.raises(UserError, match=r"\.item\(\)"):
        writer.close()
    writer.provenance["seed"] = 3
    assert writer.close().events == 100
    assert writer.close().provenance == {"seed": 3}  # once more does nothing
    assert ShardDataset.open(tmp_path / "d").column("x").tolist() == list(range(100))


def test_a_writer_that_lost_events_makes_no_dataset(tmp_path, monkeypatch):
    writer = ShardWriter(tmp_path / "d", ONE, events_per_shard=64)

    def full(*_, **__):
        raise UserError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("hpctrain.data.shard_writer.write_shard", full)
        with pytest.raises(UserError, match="disk full"):
            writer.append({"x": np.arange(100)})
    with pytest.raises(UserError, match="not all events that were given could be written"):
        writer.close()
    assert not (tmp_path / "d" / "dataset.json").exists()


def test_nothing_is_added_to_a_dataset_that_is_closed(tmp_path):
    late = ShardWriter(tmp_path / "d", ONE)
    with ShardWriter(tmp_path / "d", ONE) as writer:
        writer.append({"x": np.arange(10)})
    for one in (writer, late):
        with pytest.raises(UserError, match="already holds a dataset"):
            one.append({"x": np.arange(10)})
    assert {path.name for path in (tmp_path / "d").iterdir()} == {"dataset.json", "shard-00000.h5"}


def test_a_dataset_is_never_overwritten(tmp_path):
    with ShardWriter(tmp_path / "d", ONE) as writer:
        writer.append({"x": np.arange(10)})
    with pytest.raises(UserError, match="already holds a dataset"):
        ShardWriter(tmp_path / "d", ONE)


@pytest.mark.parametrize("name", ["gzip", "", None, "ZSTD", ["zstd"]])
def test_a_compression_that_does_not_exist_is_refused_at_once(tmp_path, name):
    with pytest.raises(UserError, match="shards cannot be written with compression=") as caught:
        ShardWriter(tmp_path / "d", ONE, compression=name)
    assert "It may be none or zstd" in caught.value.hint
    assert not (tmp_path / "d").exists()


def test_a_compression_that_is_not_installed_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(UserError, match="needs hdf5plugin"):
        ShardWriter(tmp_path / "d", ONE, compression="zstd")


def test_what_an_unfinished_writer_left_goes(tmp_path):
    """Shards that no ``dataset.json`` will name would be copied about and taken for data."""
    left = tmp_path / "d"
    left.mkdir()
    for name in ("shard-00000.h5", "shard-00007.h5", ".shard-00008.h5.host.12.tmp"):
        (left / name).write_bytes(b"x")
    (left / "notes.txt").write_text("mine")
    (left / "hits.h5").write_text("mine too")
    with ShardWriter(left, ONE, events_per_shard=64) as writer:
        writer.append({"x": np.arange(100)})
    assert sorted(path.name for path in left.iterdir()) == [
        "dataset.json", "hits.h5", "notes.txt", "shard-00000.h5", "shard-00001.h5",
    ]  # fmt: skip
    assert ShardDataset.open(left).events == 100
