"""A split is a partition of the events: nothing lost, nothing twice, no group in two, the same for the same seed."""

import functools
import os
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.data.columns import RaggedRows, SparseRows, concatenate
from hpctrain.data.curation import assignment, splitting
from hpctrain.data.curation.merge import merge
from hpctrain.data.curation.splitting import SPLITS, Plan, split
from hpctrain.data.curation.verify import verify
from hpctrain.data.schema import DenseField, RaggedField, SparseField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError
from hpctrain.ingest.existing_shards import ExistingShards
from hpctrain.run import RunDirectory

FIELDS = {
    "number": DenseField(dtype="int64"),
    "image": SparseField(shape=(2, 4, 4)),
    "hits": RaggedField(shape=(2,), features=("x", "t")),
    "label": DenseField(dtype="int64"),
    "source": DenseField(dtype="int64"),
    "process": DenseField(dtype="int64"),
}
SOURCES = [f"file-{n}.root" for n in range(7)]


def columns(events, seed=0):
    """Sorted by class, as converted data come; ``number`` tells each event."""
    rng = np.random.default_rng(seed)
    image = (rng.random((events, 2, 4, 4)) * (rng.random((events, 2, 4, 4)) < 0.3)).astype(np.float32)
    label = np.sort(rng.integers(0, 3, events))
    return {
        "number": np.arange(events) + 1_000_000 * seed,
        "image": SparseRows.from_dense(image),
        "hits": RaggedRows.from_lists([rng.random((n, 2)) for n in rng.integers(0, 4, events)], (2,)),
        "label": label,
        "source": np.sort(rng.integers(0, 7, events)),
        "process": (label > 0).astype(np.int64),
    }


def write(folder, events, seed=0, provenance=None):
    provenance = provenance or {
        "label": "synthetic toy",
        "sources": SOURCES,
        "processes": [{"name": "qcd", "weight": 2.0}, {"name": "top"}],
    }
    with ShardWriter(folder, FIELDS, provenance=provenance, events_per_shard=128) as writer:
        if events:
            writer.append(columns(events, seed))
    return folder


def read(folder):
    """Split → its columns."""
    found = {}
    for name in SPLITS:
        opened = ShardDataset.open(folder / name)
        found[name] = opened.read_range(0, opened.events)
    return found


@settings(max_examples=20, deadline=None)
@given(
    events=st.integers(20, 700),
    seed=st.integers(0, 2**31),
    cuts=st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(1, 8)),
    by=st.sampled_from([None, "source"]),
    stratify=st.sampled_from([None, "label", "process"]),
    memory=st.sampled_from([2**30, 2**14]),
)
def test_every_event_once_whole_and_no_group_in_two(
    tmp_path_factory, events, seed, cuts, by, stratify, memory
):
    folder = tmp_path_factory.mktemp("split")
    data = write(folder / "data", events)
    fractions = tuple(cut / sum(cuts) for cut in cuts)
    plan = Plan(fractions=fractions, by=by, stratify=stratify, seed=seed)
    try:
        contents = split(data, folder / "out", plan, memory=memory)
    except UserError as error:
        # So few events, or so small a fraction, that a split would be empty.
        assert "none is left for" in str(error) or "too few for" in str(error)  # noqa: PT017
        return
    found = read(folder / "out")
    original = columns(events)
    numbers = np.concatenate([found[name]["number"] for name in SPLITS])
    assert sorted(numbers.tolist()) == list(range(events))
    every = concatenate([found[name] for name in SPLITS])
    for name in ("label", "source", "process"):
        assert every[name].tolist() == original[name][numbers].tolist()
    for name in ("image", "hits"):
        expected = original[name].take(numbers)
        np.testing.assert_array_equal(every[name].offsets, expected.offsets)
        np.testing.assert_array_equal(every[name].values, expected.values)
    for name in SPLITS:
        assert contents[name].events == len(found[name]["number"])
        assert sum(contents[name].labels.values()) == contents[name].events
    if by:
        groups = [set(found[name]["source"].tolist()) for name in SPLITS]
        assert not groups[0] & groups[1]
        assert not groups[1] & groups[2]
        assert not groups[0] & groups[2]
        assert all(groups)
    else:
        for value in np.unique(original[stratify]) if stratify else [None]:
            total = int((original[stratify] == value).sum()) if stratify else events
            ends = np.rint(np.cumsum(fractions) * total).astype(int)
            mine = [
                int((found[name][stratify] == value).sum()) if stratify else contents[name].events
                for name in SPLITS
            ]
            assert np.cumsum(mine)[:2].tolist() == ends[:2].tolist()
    assert {path.name for path in (folder / "out").iterdir()} == set(SPLITS)


@pytest.mark.parametrize("plan", [Plan(seed=5), Plan(seed=5, stratify="label"), Plan(seed=5, by="source")])
def test_the_same_seed_is_the_same_split_whatever_the_memory(tmp_path, plan, monkeypatch):
    data = write(tmp_path / "data", 900)
    split(data, tmp_path / "a", plan)
    split(data, tmp_path / "b", plan, memory=3000)
    for name in SPLITS:
        documents = [(tmp_path / which / name / "dataset.json").read_text() for which in "ab"]
        assert documents[0] == documents[1]  # with the checksums of every event in its place
    split(data, tmp_path / "c", Plan(seed=6, by=plan.by, stratify=plan.stratify))
    assert (
        read(tmp_path / "a")["train"]["number"].tolist() != read(tmp_path / "c")["train"]["number"].tolist()
    )


@pytest.mark.parametrize("kept", [True, False])
def test_the_order_is_a_full_permutation(tmp_path, monkeypatch, kept):
    """Sorted data come out mixed as well as by a true permutation, kept in memory or computed."""
    if not kept:
        monkeypatch.setattr(assignment, "_SMALL", 0)
        monkeypatch.setattr(assignment.scattered, "__kwdefaults__", {"keep": 0})
    data = write(tmp_path / "data", 6000)
    split(data, tmp_path / "out", Plan(fractions=(0.8, 0.1, 0.1)), memory=100_000)
    number = read(tmp_path / "out")["train"]["number"]
    label = columns(6000)["label"][number]
    # Classes in runs of 60 vary as hypergeometric counts do: mean of chi²/n is 1 within 5 standard deviations.
    runs = (label == 0)[: len(label) // 60 * 60].reshape(-1, 60).sum(axis=1)
    share = (label == 0).mean()
    variance = 60 * share * (1 - share) * (len(label) - 60) / (len(label) - 1)
    ratio = ((runs - 60 * share) ** 2).mean() / variance
    assert abs(ratio - 1) < 5 * np.sqrt(2 / len(runs))
    assert abs(np.corrcoef(np.arange(len(number)), number)[0, 1]) < 5 / np.sqrt(len(number))
    assert abs(np.corrcoef(number[1:], number[:-1])[0, 1]) < 5 / np.sqrt(len(number))


def test_groups_come_near_the_fractions_and_keep_classes_together(tmp_path):
    sizes = np.random.default_rng(1).integers(5, 60, 40)
    source = np.repeat(np.arange(40), sizes)
    label = np.random.default_rng(2).integers(0, 2, len(source))
    fields = {"source": DenseField(dtype="int64"), "label": DenseField(dtype="int64")}
    with ShardWriter(tmp_path / "data", fields) as writer:
        writer.append({"source": source, "label": label})
    contents = split(tmp_path / "data", tmp_path / "out", Plan(by="source", stratify="label"))
    for name, fraction in zip(SPLITS, (0.6, 0.15, 0.25), strict=True):
        for value in (0, 1):
            assert contents[name].labels[value] / (label == value).sum() == pytest.approx(fraction, abs=0.03)


def test_scale_constants_are_those_of_the_training_split_alone(tmp_path):
    split(write(tmp_path / "data", 400), tmp_path / "out", Plan(), memory=20_000)
    train = read(tmp_path / "out")["train"]
    image = train["image"].dense((2, 4, 4)).astype(np.float64)
    for name in SPLITS:
        scale = ShardDataset.open(tmp_path / "out" / name).scale
        assert scale["image_max"] == image.max(axis=(0, 2, 3)).tolist()
        mean = image.sum(axis=(0, 2, 3)) / (image > 0).sum(axis=(0, 2, 3))
        assert scale["image_mean_nonzero"] == pytest.approx(mean.tolist(), rel=1e-12)
        assert scale["hits"]["mean"] == pytest.approx(train["hits"].values.mean(axis=0).tolist(), rel=1e-5)


def test_provenance_says_what_evaluation_needs(tmp_path):
    data = write(tmp_path / "data", 300)
    split(data, tmp_path / "out", Plan(stratify="process"))
    process = columns(300)["process"]
    fractions = np.zeros(2)
    for name in SPLITS:
        opened = ShardDataset.open(tmp_path / "out" / name)
        assert opened.provenance["label"] == "synthetic toy"
        assert opened.provenance["split"] == name
        assert opened.provenance["split_of"]["directory"] == str(data)
        assert opened.provenance["sources"] == SOURCES
        qcd, top = opened.provenance["processes"]
        assert qcd["weight"] == 2.0
        for number, entry in enumerate((qcd, top)):
            assert entry["in_split"] == (opened.column("process") == number).sum()
            assert entry["preselected"] == (process == number).sum()
            assert entry["split_fraction"] == entry["in_split"] / entry["preselected"]
            fractions[number] += entry["split_fraction"]
    np.testing.assert_allclose(fractions, 1)


def test_a_split_of_a_split_keeps_the_share_of_the_whole(tmp_path):
    split(write(tmp_path / "data", 1000), tmp_path / "out", Plan(fractions=(0.5, 0.25, 0.25)))
    split(tmp_path / "out" / "train", tmp_path / "again", Plan(fractions=(0.5, 0.25, 0.25)))
    qcd = ShardDataset.open(tmp_path / "again" / "train").provenance["processes"][0]
    assert qcd["split_fraction"] == qcd["in_split"] / (columns(1000)["process"] == 0).sum()
    history = ShardDataset.open(tmp_path / "again" / "train").provenance["split_of"]
    assert history["split_of"]["directory"] == str(tmp_path / "data")


def test_files_of_merged_parts_are_told_apart_by_their_names(tmp_path):
    """Part b has files and processes of its own, under the numbers of part a; one file is the same."""
    parts = [
        write(tmp_path / "a", 200),
        write(
            tmp_path / "b", 300, seed=1,
            provenance={"label": "b", "sources": ["file-0.root", *(f"other-{n}" for n in range(6))],
                        "processes": [{"name": "top"}, {"name": "qcd", "weight": 3.0}]},
        ),
    ]  # fmt: skip
    merge(parts, tmp_path / "whole")
    split(tmp_path / "whole", tmp_path / "out", Plan(by="source"))
    own = {0: SOURCES, 1: ["file-0.root", *(f"other-{n}" for n in range(6))]}
    files = []
    for name in SPLITS:
        opened = ShardDataset.open(tmp_path / "out" / name)
        found = opened.read_range(0, opened.events)
        names = [opened.provenance["sources"][number] for number in found["source"]]
        processes = [opened.provenance["processes"][number]["name"] for number in found["process"]]
        for number, source, process in zip(found["number"].tolist(), names, processes, strict=True):
            part, row = divmod(number, 1_000_000)
            original = columns(200 if part == 0 else 300, part)
            assert source == own[part][original["source"][row]]
            assert process == ["qcd", "top"][original["process"][row] ^ part]
        files.append(set(names))
        qcd = next(p for p in opened.provenance["processes"] if p["name"] == "qcd")
        assert "weight" not in qcd  # the parts say different ones
        assert "merged" not in opened.provenance
        assert len(opened.provenance["split_of"]["merged"]) == 2
    assert not files[0] & files[1]
    assert not files[0] & files[2]
    assert not files[1] & files[2]
    assert len(set.union(*files)) == 13


def test_a_number_that_its_type_cannot_hold_is_refused(tmp_path):
    fields = {"source": DenseField(dtype="uint8")}
    for part in range(2):
        names = {"label": "x", "sources": [f"{part}-{n}" for n in range(200)]}
        with ShardWriter(tmp_path / str(part), fields, provenance=names) as writer:
            writer.append({"source": np.roll(np.arange(200, dtype=np.uint8), part)})
    merge([tmp_path / "0", tmp_path / "1"], tmp_path / "whole")
    with pytest.raises(UserError, match=r"more than the field 'source' of uint8 can number"):
        split(tmp_path / "whole", tmp_path / "out", Plan())


def test_an_experiment_takes_it_as_it_is(tmp_path, toy_run):
    split(write(tmp_path / "data", 300), tmp_path / "out", Plan())
    run: RunDirectory = toy_run("own")
    for name in SPLITS:
        for file in (run.data / name).iterdir():
            file.unlink()
        (run.data / name).rmdir()
    shards = ExistingShards(ExistingShards.Config(path=tmp_path / "out"))
    shards.check()
    with run.tracker("generate") as tracker:
        assert shards.run(run, tracker)["events"] == {"train": 180, "validation": 45, "test": 75}


@pytest.mark.parametrize(
    ("plan", "words", "cure"),
    [
        (lambda: Plan(fractions=(0.5, 0.5, 0.5)), "0.5 0.5 0.5 are not three", "--fractions"),
        (lambda: Plan(fractions=(0.9, 0.1, 0.0)), "not three positive numbers", "--fractions"),
        (lambda: Plan(by="sauce"), "has no field 'sauce'", "did you mean 'source'"),
        (lambda: Plan(stratify="hits"), "'hits' is not one integer per event", "fields of integers are"),
        (lambda: Plan(by="process"), "2 different values of 'process', too few", "without --by"),
        (lambda: Plan(fractions=(0.998, 0.001, 0.001)), "none is left for the (validation|test)", "other fractions"),
    ],
)  # fmt: skip
def test_what_cannot_be_split_is_said(tmp_path, plan, words, cure):
    data = write(tmp_path / "data", 300)
    with pytest.raises(UserError, match=words) as caught:
        split(data, tmp_path / "out", plan())
    assert cure in caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("plan", [Plan(), Plan(stratify="label"), Plan(by="source")])
def test_no_events_cannot_be_split(tmp_path, plan):
    with pytest.raises(UserError, match=r"none is left for|too few for"):
        split(write(tmp_path / "data", 0), tmp_path / "out", plan)


@pytest.mark.parametrize("value", [-1, 2])
def test_a_process_that_nobody_named(tmp_path, value):
    content = columns(300)
    content["process"][77] = value
    with ShardWriter(
        tmp_path / "d", FIELDS, provenance={"processes": [{"name": "a"}, {"name": "b"}]}
    ) as writer:
        writer.append(content)
    with pytest.raises(UserError, match=f"an event has the process {value}, provenance has 2 processes"):
        split(tmp_path / "d", tmp_path / "out", Plan())


def test_a_damaged_shard_stops_it_and_leaves_nothing(tmp_path):
    data = write(tmp_path / "data", 300)
    path = data / "shard-00001.h5"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"shard-00001.h5 is not what was written"):
        split(data, tmp_path / "out", Plan(), memory=10_000)
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("memory", [2**30, 2**20])
def test_a_full_disk_is_left_clean(tmp_path, small_disk, memory):
    with ShardWriter(tmp_path / "big", {"x": DenseField(shape=(1000,))}) as writer:
        writer.append({"x": np.random.default_rng(0).random((600, 1000), dtype=np.float32)})
    with pytest.raises(UserError, match="disk full while writing"):
        split(tmp_path / "big", small_disk / "out", Plan(), memory=memory)
    assert list(small_disk.iterdir()) == []


def test_killed_in_the_middle_leaves_nothing_and_no_obstacle(tmp_path):
    data = write(tmp_path / "data", 900)
    code = f"""
import time
from pathlib import Path
from hpctrain.data.curation.splitting import Plan, split
def slow(done, total):
    print(done, flush=True)
    time.sleep(60 if done > 1500 else 0)
split(Path({str(data)!r}), Path({str(tmp_path / "out")!r}), Plan(), memory=20_000, progress=slow)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if int(line) > 1500:
                break
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.wait()
    assert not (tmp_path / "out").exists()
    split(data, tmp_path / "out", Plan())
    assert {path.name for path in tmp_path.iterdir()} == {"data", "out"}
    assert all(verify(tmp_path / "out" / name) == [] for name in SPLITS)


def test_what_was_put_aside_is_held_to_its_checksum(tmp_path, monkeypatch):
    """A disk that returns other bytes than were written a moment ago must not get into the new shards."""
    write_splits = splitting.Splitter._write_splits

    def damaged(self, folder, *arguments):
        path = max((folder / "buckets").iterdir(), key=lambda p: p.stat().st_size)
        content = bytearray(path.read_bytes())
        content[len(content) - 300] ^= 1
        path.write_bytes(content)
        return write_splits(self, folder, *arguments)

    monkeypatch.setattr(splitting.Splitter, "_write_splits", damaged)
    with pytest.raises(UserError, match=r"bucket-\d+ is not what was written a moment ago"):
        split(write(tmp_path / "data", 300), tmp_path / "out", Plan(), memory=10_000)
    assert not (tmp_path / "out").exists()


def test_memory_is_bounded_for_a_dataset_that_is_larger(tmp_path, monkeypatch):
    with ShardWriter(
        tmp_path / "big", {"x": DenseField(shape=(500,)), "n": DenseField(dtype="int64")}, shard_bytes=2**21
    ) as writer:
        for start in range(0, 40_000, 1000):
            x = np.random.default_rng(start).random((1000, 500), dtype=np.float32)
            writer.append({"x": x, "n": np.arange(start, start + 1000)})  # 80 MB
    # A writer's shards come on top, 64 MiB each: smaller ones here, so that what the split holds is seen.
    monkeypatch.setattr(splitting, "ShardWriter", functools.partial(ShardWriter, shard_bytes=2**21))
    tracemalloc.start()
    try:
        split(tmp_path / "big", tmp_path / "out", Plan(), memory=12 * 2**20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 24 * 2**20, peak
