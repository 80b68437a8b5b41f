import json
import re

import numpy as np
import pytest

from hpctrain.data import schema
from hpctrain.data.schema import DatasetInfo, DenseField, SparseField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError

CHANGED = "It is not as it was written: copy it again from where it came, or make the dataset again"
OLD = "Generate or convert the dataset again"


@pytest.fixture
def dataset(tmp_path):
    with ShardWriter(tmp_path / "d", {"x": DenseField()}, events_per_shard=64) as writer:
        writer.append({"x": np.zeros(100, np.float32)})
    return tmp_path / "d"


def refusal(dataset):
    with pytest.raises(UserError) as caught:
        ShardDataset.open(dataset)
    assert str(dataset) in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("change", "words", "hint"),
    [
        ({"schema_version": 1}, "schema version 1, this hpctrain reads 2", OLD),
        ({"schema_version": 3}, "schema version 3, this hpctrain reads 2", "Use a newer hpctrain"),
        ({"schema_version": None}, "there is no schema_version, this hpctrain reads 2", CHANGED),
        ({"schema_version": "2"}, "schema_version is '2', this hpctrain reads 2", CHANGED),
        ({"events": "many"}, "events: Input should be a valid integer", CHANGED),
        ({"events": 99}, "events is 99, the shards hold 100", CHANGED),
        ({"events": 2**63}, "events: Input should be less than or equal to", CHANGED),
        ({"surprise": 1}, "surprise: Extra inputs", CHANGED),
        ({"provenance": {"mean": float("nan")}}, "holds what is not JSON: Out of range float", CHANGED),
        ({"provenance": {"name": "\udc80"}}, "holds what is not JSON: .*surrogates", CHANGED),
        ({"fields": {"x": {"kind": "dense", "dtype": "S3"}}}, "fields.x.dense.dtype: .*is not a number's", CHANGED),
        ({"fields": {"x": {"kind": "dense", "shape": [-1]}}}, "fields.x.dense.shape.0: Input should be greater", CHANGED),
        ({"shards": 5}, "shards: Input should be a valid tuple", CHANGED),
    ],
)  # fmt: skip
def test_another_description_is_refused(dataset, change, words, hint):
    path = dataset / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    error = refusal(dataset)
    assert re.search(words, error.message)
    assert error.hint == hint


@pytest.mark.parametrize("key", ["events", "fields", "shards"])
def test_a_key_that_is_missing_is_named(dataset, key):
    path = dataset / "dataset.json"
    document = json.loads(path.read_text())
    del document[key]
    path.write_text(json.dumps(document))
    error = refusal(dataset)
    assert f"dataset.json: {key}: Field required" in error.message
    assert error.hint == CHANGED


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not readable JSON"),
        (b"#!/bin/sh\n", "not readable JSON"),
        (b"\xff\xfe\x00", "not readable JSON"),
        (b'{"schema_version": 2, "events": 1', "not readable JSON"),
        (b'{"schema_version": ' + b"9" * 5000 + b"}", "not readable JSON"),
        (b'{"provenance": ' + b"[" * 10**5 + b"]" * 10**5 + b"}", "not readable JSON"),
        (b"[2]", "is no JSON mapping"),
        (b"null", "is no JSON mapping"),
    ],
)
def test_a_description_that_is_no_json_mapping(dataset, content, words):
    (dataset / "dataset.json").write_bytes(content)
    error = refusal(dataset)
    assert f"dataset.json: {words}" in error.message
    assert error.hint == CHANGED


def test_a_truncated_description(dataset):
    path = dataset / "dataset.json"
    content = path.read_bytes().rstrip()
    for end in (1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:end])
        assert "not readable JSON" in refusal(dataset).message


def test_a_description_too_large_to_be_one_is_not_read(dataset):
    with (dataset / "dataset.json").open("r+b") as stream:
        stream.truncate(schema.LARGEST + 1)
    assert "no description of a dataset is so large" in refusal(dataset).message


def test_a_directory_without_description(tmp_path, dataset):
    (tmp_path / "empty").mkdir()
    assert "dataset.json is missing" in refusal(tmp_path / "empty").message
    assert "there is no such directory" in refusal(tmp_path / "nowhere").message
    error = refusal(tmp_path)
    assert "datasets in it are d" in error.message
    assert error.hint == f"Name one of them: {dataset}"
    error = refusal(dataset / "dataset.json")
    assert "cannot read" in error.message or "there is no such directory" in error.message


def test_shards_that_nothing_describes(dataset):
    """A writer died before ``dataset.json``: what to do is said, and doing it works."""
    (dataset / "dataset.json").unlink()
    error = refusal(dataset)
    assert "dataset.json is missing; without it the 2 .h5 files there are not read" in error.message
    assert "give that command (`hpctrain generate`, …) again" in error.hint
    with ShardWriter(dataset, {"x": DenseField()}) as writer:
        writer.append({"x": np.ones(10, np.float32)})
    assert DatasetInfo.read(dataset).events == 10
    assert ShardDataset.open(dataset).column("x").tolist() == [1.0] * 10
    assert sorted(path.name for path in dataset.iterdir()) == ["dataset.json", "shard-00000.h5"]


@pytest.mark.parametrize("dtype", [">f4", "longdouble", "complex64", "f4,f4", "(2,f4", "O", "S3", "", "x"])
def test_other_types_are_no_numbers_of_ours(dtype):
    with pytest.raises(ValueError, match="is not a number's; it may be bool, int8"):
        DenseField(dtype=dtype)


@pytest.mark.parametrize("dtype", ["f4", "<f4", "single", "float32"])
def test_one_type_has_one_name(dtype):
    assert DenseField(dtype=dtype) == DenseField(dtype="float32")


def test_more_cells_than_an_index_can_number():
    assert SparseField(shape=(2**16, 2**16)).shape == (65536, 65536)
    with pytest.raises(ValueError, match="more cells than a uint32 can number"):
        SparseField(shape=(2**16, 2**16 + 1))
