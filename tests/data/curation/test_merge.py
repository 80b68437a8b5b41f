"""Joined datasets: the same events, never twice, and no more said of them than their parts say."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.data.columns import RaggedRows, SparseRows, concatenate
from hpctrain.data.curation.merge import merge
from hpctrain.data.curation.provenance import Numbering
from hpctrain.data.curation.verify import verify
from hpctrain.data.schema import DenseField, RaggedField, SparseField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError

FIELDS = {
    "image": SparseField(shape=(2, 4, 4)),
    "hits": RaggedField(shape=(2,), features=("eta", "phi")),
    "source": DenseField(dtype="int64"),
    "energy": DenseField(),
}


HITS = {"hits": {"mean": [1.0], "std": [1.0]}}


def columns(events, seed):
    rng = np.random.default_rng(seed)
    image = (rng.random((events, 2, 4, 4)) * (rng.random((events, 2, 4, 4)) < 0.3)).astype(np.float32)
    return {
        "image": SparseRows.from_dense(image),
        "hits": RaggedRows.from_lists([rng.random((n, 2)) for n in rng.integers(0, 4, events)], (2,)),
        "source": rng.integers(0, 2, events),
        "energy": rng.random(events).astype(np.float32),
    }


def write(folder, events, seed, *, fields=FIELDS, provenance=None, scale=None, per_shard=64):
    content = columns(events, seed)
    with ShardWriter(
        folder, fields, provenance=provenance or {"label": "toy"}, scale=scale, events_per_shard=per_shard
    ) as writer:
        if events:
            writer.append({name: content[name] for name in fields})
    return folder


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for name, values in expected.items():
        if isinstance(values, np.ndarray):
            np.testing.assert_array_equal(found[name], values)
        else:
            np.testing.assert_array_equal(found[name].offsets, values.offsets)
            np.testing.assert_array_equal(found[name].values, values.values)


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 150), min_size=1, max_size=5), copy=st.booleans(), data=st.data())
def test_merged_is_the_parts_one_after_the_other(tmp_path_factory, sizes, copy, data):
    folder = tmp_path_factory.mktemp("merge")
    parts = [write(folder / f"part {n}", size, seed=n) for n, size in enumerate(sizes)]
    info = merge(parts, folder / "whole", copy=copy)
    assert info.events == sum(sizes)
    assert verify(folder / "whole") == []
    opened = ShardDataset.open(folder / "whole")
    if info.events:
        every = concatenate([columns(size, n) for n, size in enumerate(sizes) if size])
        assert_equal(opened.read_range(0, info.events), every)
        rows = np.array(data.draw(st.lists(st.integers(0, info.events - 1), min_size=1, max_size=20)))
        assert opened.read(rows)["energy"].tolist() == every["energy"][rows].tolist()
    for shard in info.shards:
        assert ((folder / "whole" / shard.file).stat().st_nlink == 1) == copy


def test_parts_may_go_when_they_are_linked(tmp_path):
    parts = [write(tmp_path / name, 100, seed) for seed, name in enumerate("ab")]
    merge(parts, tmp_path / "whole")
    for part in parts:
        for file in part.iterdir():
            file.unlink()
    assert verify(tmp_path / "whole") == []


def test_a_merge_of_merges_lists_every_part(tmp_path):
    a, b, c = (
        write(
            tmp_path / name, 70, seed, provenance={"label": f"toy {name}", "generator": "numpy", "seed": seed}
        )
        for seed, name in enumerate("abc")
    )
    merge([a, b], tmp_path / "ab")
    provenance = merge([tmp_path / "ab", c], tmp_path / "abc").provenance
    assert provenance["label"] == "toy a + toy b + toy c"
    assert provenance["generator"] == "numpy"
    assert "seed" not in provenance
    assert [(part["directory"], part["events"]) for part in provenance["merged"]] == [
        (str(part), 70) for part in (a, b, c)
    ]
    assert [part["provenance"]["seed"] for part in provenance["merged"]] == [0, 1, 2]


def test_labels_are_joined_honestly(tmp_path):
    labels = ["parametrised simulation", "synthetic toy", "parametrised simulation", None]
    parts = [
        write(tmp_path / str(n), 10, n, provenance={"label": label} if label else {"seed": 1})
        for n, label in enumerate(labels)
    ]
    label = merge(parts, tmp_path / "whole").provenance["label"]
    assert label == "parametrised simulation + synthetic toy + events without a label"


def test_numbers_of_sources_keep_their_meaning(tmp_path):
    """Number 0 of one part is another file than number 0 of the next; the third part names one of them again."""
    names = [["x.root", "y.root"], ["z.root", "x.root"], []]
    parts = [
        write(tmp_path / str(n), 40, n, provenance={"label": "toy", "sources": sources} if sources else None)
        for n, sources in enumerate(names)
    ]
    merge(parts, tmp_path / "whole")
    opened = ShardDataset.open(tmp_path / "whole")
    numbering = Numbering("source", opened.provenance, opened.events)
    values = opened.column("source")
    found = [
        numbering.entries[number]
        for start in range(0, 120, 30)  # in pieces that do not end where the parts do
        for number in numbering.unify(values[start : start + 30], start)
    ]
    expected = [
        names[part][value] if names[part] else f"source {value} of {parts[part]}"
        for part in range(3)
        for value in columns(40, part)["source"]
    ]
    assert found == expected


def test_what_all_parts_name_alike_needs_no_numbering(tmp_path):
    provenance = {"label": "toy", "sources": ["a", "b"], "processes": [{"name": "p", "in_split": 10}]}
    parts = [write(tmp_path / str(n), 10, n, provenance=provenance) for n in range(2)]
    merged = merge(parts, tmp_path / "whole").provenance
    assert merged["sources"] == ["a", "b"]
    assert "processes" not in merged  # 10 of each part would be read as 10 of all
    assert merged["merged"][1]["provenance"]["processes"] == provenance["processes"]
    values = np.array([1, 0, 1])
    assert Numbering("source", merged, 20).unify(values, 9).tolist() == values.tolist()


def test_scale_constants(tmp_path):
    constants = [{"image_max": [3.0, 5.0], "other": 1}, {"image_max": [4.0, 2.0], "other": 1}, {}]
    parts = [
        write(tmp_path / str(n), 10 if scale else 0, n, scale=scale) for n, scale in enumerate(constants)
    ]
    told = []
    scale = merge(parts, tmp_path / "whole", warn=told.append).scale
    assert scale == {"image_max": [4.0, 5.0], "other": 1}
    assert not told


@pytest.mark.parametrize(
    ("scale", "kept", "words"),
    [
        (
            {"image_max": [0.5, 2.0], "hits": {"mean": [2.0], "std": [1.0]}},
            {"image_max": [1.0, 2.0]},
            r"'hits' is {\"mean\": \[1.0\], \"std\": \[1.0\]} in .*a and {\"mean\": \[2.0\], .* in .*b",
        ),
        ({"image_max": [1.0, 1.0]}, {"image_max": [1.0, 1.0]}, r"'hits' is .* in .*a and missing in .*b"),
        ({"image_max": [1.0], **HITS}, HITS, r"'image_max' is \[1.0, 1.0\] in .*a and \[1.0\] in .*b"),
        ({"image_max": "large", **HITS}, HITS, r"'image_max' is \[1.0, 1.0\] in .*a and \"large\" in .*b"),
        ({"image_max": [1.0, None], **HITS}, HITS, r"'image_max' is .* and \[1.0, null\] in .*b"),
    ],
)
def test_scale_constants_that_differ_are_left_out_with_a_word(tmp_path, scale, kept, words):
    """Also where a third part agrees with the first again."""
    first = {"image_max": [1.0, 1.0], **HITS}
    parts = [
        write(tmp_path / name, 10, seed, scale=constants)
        for seed, (name, constants) in enumerate({"a": first, "b": scale, "c": first}.items())
    ]
    told = []
    assert merge(parts, tmp_path / "whole", warn=told.append).scale == kept
    assert ShardDataset.open(tmp_path / "whole").scale == kept
    (line,) = told
    assert re.match(words, line)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.pop("energy"), r"field 'energy' is dense float32\[\] in .*a and missing in .*b"),
        (lambda f: f.update(hits=RaggedField(shape=(2,))), r"field 'hits' is .*\(eta, phi\) in .*a"),
    ],
)
def test_other_fields_are_named(tmp_path, change, words):
    fields = dict(FIELDS)
    change(fields)
    parts = [write(tmp_path / "a", 10, 0), write(tmp_path / "b", 10, 1, fields=fields)]
    with pytest.raises(UserError, match=words):
        merge(parts, tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def test_no_event_comes_in_twice(tmp_path):
    part = write(tmp_path / "a", 100, 0)
    (tmp_path / "link").symlink_to(part)
    copied = merge([part], tmp_path / "copy", copy=True)
    assert copied.events == 100
    for again in (part, tmp_path / "link", tmp_path / "copy"):
        with pytest.raises(UserError, match=r"holds events that .*a holds, too"):
            merge([part, write(tmp_path / f"b{again.name}", 5, 1), again], tmp_path / "whole")


@pytest.mark.parametrize("copy", [False, True])
def test_a_damaged_shard_stops_it(tmp_path, copy):
    part = write(tmp_path / "a", 100, 0)
    path = part / "shard-00001.h5"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # in an array: a link does not look at those, a copy does
    other = write(tmp_path / "other", 100, 5) / "shard-00001.h5"
    path.write_bytes(content if copy else other.read_bytes())
    with pytest.raises(UserError, match=r"shard-00001.h5 is not what was written"):
        merge([part], tmp_path / "whole", copy=copy)
    assert [p.name for p in tmp_path.iterdir() if "whole" in p.name] == []


def test_an_output_that_holds_something_is_left_alone(tmp_path):
    part = write(tmp_path / "a", 10, 0)
    with pytest.raises(UserError, match="already holds a dataset"):
        merge([part], part)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="is not empty"):
        merge([part], tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    assert merge([part], tmp_path / "empty").events == 10


def test_another_file_system_is_copied_to_and_a_full_one_left_clean(tmp_path, small_disk):
    part = write(tmp_path / "a", 100, 0)
    merge([part], small_disk / "fits")
    assert verify(small_disk / "fits") == []
    big = tmp_path / "big"
    with ShardWriter(big, {"x": DenseField(shape=(1000,))}, events_per_shard=64) as writer:
        writer.append({"x": np.random.default_rng(0).random((320, 1000), dtype=np.float32)})
    with pytest.raises(UserError, match="disk full while writing"):
        merge([big], small_disk / "whole")
    assert [path.name for path in small_disk.iterdir()] == ["fits"]


def test_killed_in_the_middle_leaves_nothing_and_no_obstacle(tmp_path):
    parts = [write(tmp_path / name, 300, seed) for seed, name in enumerate("ab")]
    code = f"""
import sys, time
from pathlib import Path
from hpctrain.data.curation.merge import merge
def slow(done, total):
    print(done, flush=True)
    time.sleep(60 if done == 3 else 0)
merge([Path(p) for p in {[str(p) for p in parts]}], Path({str(tmp_path / "whole")!r}), progress=slow)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if line.strip() == "3":
                break
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.wait()
    left = [path.name for path in tmp_path.iterdir() if path not in parts]
    assert not (tmp_path / "whole").exists()
    assert len(left) == 1
    assert left[0].startswith(".whole.")
    merge(parts, tmp_path / "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "whole"}


def test_what_another_process_is_writing_is_left_alone(tmp_path):
    part = write(tmp_path / "a", 100, 0)
    code = f"""
import time
from pathlib import Path
from hpctrain.data.curation.whole_directory import whole_directory
with whole_directory(Path({str(tmp_path / "whole")!r})) as folder:
    (folder / "dataset.json").write_text("mine")
    print("here", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "here\n"
        merge([part], tmp_path / "whole")
        (other,) = tmp_path.glob(".whole.*.writing")
        assert (other / "dataset.json").read_text() == "mine"
    finally:
        process.kill()
        process.wait()


def test_many_parts_say_once_what_they_have_in_common(tmp_path):
    """Those of a generation by many processes."""
    parts = []
    for number in range(300):
        provenance = {"label": "toy", "long": "x" * 10_000, "task": number}
        with ShardWriter(tmp_path / f"part-{number}", {"x": DenseField()}, provenance=provenance) as writer:
            writer.append({"x": np.full(3, number, dtype=np.float32)})
        parts.append(writer.directory)
    info = merge(parts, tmp_path / "whole")
    assert ShardDataset.open(tmp_path / "whole").column("x").tolist() == np.repeat(np.arange(300), 3).tolist()
    assert len(json.dumps(info.provenance)) < 100_000
