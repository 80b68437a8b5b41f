import json
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.data.columns import nbytes, part, take
from hpctrain.data.schema import DatasetInfo
from hpctrain.data.shards import (
    DenseField,
    RaggedField,
    RaggedRows,
    ShardDataset,
    ShardWriter,
    SparseField,
    SparseRows,
)
from hpctrain.errors import UserError

FIELDS = {
    "image": SparseField(shape=(3, 8, 8)),
    "label": DenseField(dtype="int64"),
    "jets": DenseField(shape=(5, 4)),
    "particles": RaggedField(shape=(3,), features=("pt", "eta", "phi")),
}


def columns(events, seed=0):
    rng = np.random.default_rng(seed)
    image = (rng.random((events, 3, 8, 8)) * (rng.random((events, 3, 8, 8)) < 0.1)).astype(np.float32)
    return {
        "image": SparseRows.from_dense(image),
        "label": np.arange(events),
        "jets": rng.random((events, 5, 4)).astype(np.float32),
        "particles": RaggedRows.from_lists([rng.random((n, 3)) for n in rng.integers(0, 6, events)], (3,)),
    }


@pytest.fixture
def dataset(tmp_path):
    with ShardWriter(tmp_path / "d", FIELDS, provenance={"label": "test"}, events_per_shard=16) as writer:
        writer.append(columns(50))
    return tmp_path / "d"


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 90),
    st.lists(st.integers(1, 70), min_size=1, max_size=4),
    st.integers(0, 99),
    st.sampled_from(["none", "zstd"]),
)
def test_what_is_written_is_read_however_it_was_cut(tmp_path_factory, per_shard, pieces, seed, compression):
    folder = tmp_path_factory.mktemp("x") / "d"
    everything = columns(sum(pieces), seed)
    with ShardWriter(folder, FIELDS, events_per_shard=per_shard, compression=compression) as writer:
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


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=5), st.integers(1, 60_000))
def test_where_shards_end_follows_from_the_events_not_from_the_pieces(tmp_path_factory, pieces, shard_bytes):
    """… and so does every byte written."""
    everything = columns(sum(pieces))
    infos = []
    for cuts in (pieces, [sum(pieces)]):
        with ShardWriter(tmp_path_factory.mktemp("x") / "d", FIELDS, shard_bytes=shard_bytes) as writer:
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
def test_bytes_of_a_row_are_those_in_memory(tmp_path, compression):
    """… by which a window is chosen that fits into it."""
    content = columns(1000)
    content["jets"][:] = 1.0  # compresses to nothing
    with ShardWriter(tmp_path / "d", FIELDS, events_per_shard=64, compression=compression) as writer:
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
        ({"schema_version": 99}, "schema version 99, this hpctrain reads 2"),
        ({"events": "many"}, "events: Input should be a valid integer"),
        ({"events": 49}, "events is 49, the shards hold 50"),
        ({"events": 2**63}, "events: Input should be less than or equal to"),
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


ONE = {"x": DenseField(dtype="int64")}


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
        patch.setattr("hpctrain.data.shards.write_shard", full)
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


def test_a_dataset_is_never_overwritten(dataset):
    with pytest.raises(UserError, match="already holds a dataset"):
        ShardWriter(dataset, FIELDS)
