"""``hpctrain data …`` as users give it: what it says, what it writes, what it answers to mistakes."""

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from hpctrain import registry
from hpctrain.cli import main
from hpctrain.config import Experiment
from hpctrain.data.columns import RaggedRows
from hpctrain.data.schema import DenseField, RaggedField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.data.shards import ShardDataset
from hpctrain.data_options import COMMANDS

FIELDS = {
    "particles": RaggedField(shape=(3,), features=("pt", "eta", "phi")),
    "label": DenseField(dtype="int64"),
    "weight": DenseField(dtype="float64"),
    "source": DenseField(dtype="int64"),
}


def write(folder, events=200, seed=0):
    rng = np.random.default_rng(seed)
    provenance = {"label": "synthetic [toy] for tests", "sources": ["a.root", "b.root", "c.root", "d.root"]}
    with ShardWriter(folder, FIELDS, provenance=provenance, events_per_shard=64) as writer:
        writer.append(
            {
                "particles": RaggedRows.from_lists(
                    [rng.random((n, 3)) for n in rng.integers(0, 9, events)], (3,)
                ),
                "label": rng.integers(0, 2, events),
                "weight": rng.random(events),
                "source": np.arange(events) % 4,
            }
        )
    return folder


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Gives a command in an empty folder; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def give(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return give


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(call, command):
    code, out, _ = call("data", command, "--help")
    assert code == 0
    assert f"example: hpctrain data {command}" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trainn"], "unknown command 'trainn'. did you mean 'train'?"),
        (["dta"], "did you mean 'data'?"),
        (["data", "inspct"], "unknown command 'data inspct'. did you mean 'inspect'?"),
        (["frobnicate"], "commands are compress, data, doctor"),
        (["data"], "the following arguments are required: COMMAND. See `hpctrain data --help`"),
        (["train"], "the following arguments are required: target. See `hpctrain train --help`"),
        (["data", "merge", "x"], "required: --output. See `hpctrain data merge --help`"),
        (["data", "inspect", "x", "--events", "0"], "0 is not positive"),
        (["data", "inspect", "nosuch"], "no directory nosuch"),
        (["data", "verify", "nosuch"], "no directory nosuch"),
        (["data", "split", "d", "--output", "o", "--fractions", "1", "1", "1"], "are not three positive numbers"),
        (["data", "split", "d", "--output", "o", "--by", "labell"], "no field 'labell'. did you mean 'label'?"),
        (["data", "merge", "d", "d", "--output", "o"], "d holds events that d holds, too. Name each part once"),
        (["data", "merge", "d", "--output", "d"], "d already holds a dataset"),
        (["data", "inspect", "d", "--picture", "x.pdf"], "only PNG is written. Name it x.png"),
        (["data", "inspect", "d", "--picture", ""], "only PNG is written. Name it FILE.png"),
        (["data", "inspect", "d", "--rows", "7", "200"], "has the events 0 to 199"),
        (["data", "inspect", "d", "--rows", "-1"], "not all of [-1]"),
        (["data", "inspect", "d", "--rows", str(2**70)], "has the events 0 to 199"),
        (["data", "inspect", "d" * 300], "no directory ddd"),
        (["data", "split", "nosuch", "--output", "o"], "no directory nosuch. Name the directory that holds"),
        (["data", "split", "d/dataset.json", "--output", "o"], "no directory d/dataset.json"),
        (["data", "split", ".", "--output", "o"], ". is no dataset; in it are d. Name one of them"),
        (["data", "merge", "d", ".", "--output", "o"], ". is no dataset; in it are d. Name one of them"),
        (["data", "split", "d", "--output", "o", "--fractions", "nan", "0.5", "0.5"], "are not three positive"),
        (["data", "split", "d", "--output", "o", "--fractions", "0.5", "nan", "0.5"], "are not three positive"),
        (["data", "split", "d", "--output", "d/o"], "d/o lies in the dataset"),
        (["data", "stage", "d", "--to", "d"], "d (d is a dataset)"),
        (["data", "stage", "d", "--to", "", "~nosuchuser"], "'' (empty), ~nosuchuser (~nosuchuser is not a folder)"),
        (["data", "stage", "d", "--to", "x" * 300], "is not a folder"),
        (["data", "convert"], "no kind of files is given. Kinds are"),
        (["data", "convert", "nanoadd", "x", "--output", "o"], "unknown converters kind 'nanoadd'. did you mean 'nanoaod'?"),
        (["data", "convert", "table", "x.csv"], "no --output is given"),
        (["data", "convert", "table", "nosuch.csv", "--output", "o"], "nosuch.csv"),
        (["data", "stage", "d", "--to", "nosuch"], "nosuch"),
        (["data", "stage", "d"], "no folder to stage to is given. --to FOLDER …, or --site NAME"),
        (["data", "stage", "d", "--site", "laptop"], "the site laptop has no node-local folder. --to FOLDER …"),
        (["data", "stage", "d", "--site", "lapto"], "unknown site 'lapto'. did you mean 'laptop'?"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(call, tmp_path, arguments, words):
    write(tmp_path / "d")
    code, _, err = call(*arguments)
    assert code == 2
    assert words in err
    assert len(err.splitlines()) == 1
    assert "worker" not in err
    assert {path.name for path in tmp_path.iterdir()} <= {"d"}


def test_inspect_says_what_is_there_and_draws_it(call, tmp_path):
    write(tmp_path / "d")
    code, out, _ = call("data", "inspect", "d", "--events", "64")
    assert code == 0
    lines = " ".join(out.split())
    assert "d: 200 events in 4 shards" in lines
    assert "synthetic [toy] for tests" in lines
    assert "ranges of 64 of 200 events" in lines
    assert "particles ragged 3 float32" in lines
    labels = ShardDataset.open(tmp_path / "d").column("label")
    for value in (0, 1):
        assert f"{value} {(labels == value).sum()} {(labels == value).mean():.1%}" in lines
    assert "4 sources: a.root, b.root, c.root, d.root" in lines
    assert "Picture of events" in lines
    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")


def test_inspect_tells_what_other_programs_left_out(call, tmp_path):
    with ShardWriter(tmp_path / "d", {"x": DenseField()}) as writer:
        writer.append({"x": np.arange(5, dtype=np.float32)})
    code, out, _ = call("data", "inspect", "d", "--no-picture")
    assert code == 0
    assert "no provenance label" in out
    with ShardWriter(tmp_path / "empty", FIELDS):
        pass
    code, out, _ = call("data", "inspect", "empty")
    assert code == 0
    assert "0 events in 0 shards" in out
    assert [path.name for path in tmp_path.glob("*.png")] == []


def test_verify_lists_all_that_is_wrong(call, tmp_path):
    for name in ("train", "test"):
        write(tmp_path / "data" / name)
    code, out, _ = call("data", "verify", "data")
    assert code == 0
    assert out.count("200 events in 4 shards") == 2
    assert out.count("whole") == 2
    (tmp_path / "data/train/shard-00002.h5").unlink()
    path = tmp_path / "data/train/shard-00003.h5"
    path.write_bytes(path.read_bytes()[:-1])
    code, out, _ = call("data", "verify", "data")
    assert code == 1
    assert "data/train: 2 problems" in out
    assert "data/test: 200 events" in out
    assert "is missing" in out
    assert "were written" in out
    (tmp_path / "empty").mkdir()
    code, out, _ = call("data", "verify", "empty")
    assert code == 1
    assert "dataset.json is missing" in " ".join(out.split())


def test_merge_says_which_constants_it_leaves_out(call, tmp_path):
    for number in range(2):
        with ShardWriter(tmp_path / f"p{number}", {"x": DenseField()}, scale={"x": number, "y": 1}) as writer:
            writer.append({"x": np.full(10, number, dtype=np.float32)})
    code, out, err = call("data", "merge", "p0", "p1", "--output", "all")
    assert (code, err) == (0, "")
    line = next(line for line in out.splitlines() if line.startswith("!"))
    assert "left out: 'x' is 0 in p0 and 1 in p1. `hpctrain data split` computes them anew" in line
    assert ShardDataset.open(tmp_path / "all").scale == {"y": 1}


def test_merge_then_split_then_an_experiment(call, tmp_path):
    for number in range(3):
        write(tmp_path / f"part {number}", seed=number)
    code, out, _ = call("data", "merge", *sorted(tmp_path.glob("part*")), "--output", "all")
    assert code == 0
    assert "600 events in 12 shards" in out
    code, out, _ = call(
        "data", "split", "all", "--output", "mine", "--fractions", "0.5", "0.25", "0.25", "--by", "source"
    )
    assert code == 0
    assert "generate: {kind: shards, path: mine}" in out
    assert "train 300 50.00%" in " ".join(out.split())
    sources = [
        set(ShardDataset.open(tmp_path / "mine" / s).column("source").tolist()) for s in ("train", "test")
    ]
    assert not sources[0] & sources[1]
    (tmp_path / "x.yaml").write_text("name: x\ngenerate: {kind: shards, path: mine}\n")
    Experiment.load(tmp_path / "x.yaml").generate.build().check()


def test_split_says_when_a_class_is_missing(call, tmp_path):
    fields = {"label": DenseField(dtype="int64"), "source": DenseField(dtype="int64")}
    with ShardWriter(tmp_path / "d", fields) as writer:
        writer.append({"label": np.repeat([0, 1, 2], 30), "source": np.repeat([0, 1, 2], 30)})
    code, out, _ = call("data", "split", "d", "--output", "o", "--by", "source")
    assert code == 0
    assert out.count("has no event of label") == 3


def test_convert_takes_files_and_keys_in_any_order(call, tmp_path):
    numbers = np.arange(50)
    np.savez(tmp_path / "run=1.npz", a=numbers, c=numbers % 2)  # a file, though it looks like a key
    np.savez(tmp_path / "second.npz", a=numbers + 50, c=numbers % 2)
    code, out, err = call(
        "data", "convert", "table", "run=1.npz", "label=c", "second.npz", "--output", "o", "description=numbers"
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "100 events" in out
    dataset = ShardDataset.open(tmp_path / "o")
    assert dataset.column("label").tolist() == [n % 2 for n in range(50)] * 2
    assert dataset.provenance["label"] == "numbers"
    code, _, err = call("data", "convert", "table", "second.npz", "--output", "p", "labell=c")
    assert code == 2
    assert "did you mean 'label'" in err


def test_convert_lists_its_kinds_and_explains_their_keys(call):
    _, out, _ = call("data", "convert", "--help")
    for kind in registry.kinds("converters"):
        assert f"\n  {kind} " in out
        code, text, _ = call("data", "convert", kind, "--help")
        assert code == 0
        for key in registry.find("converters", kind).Config.model_fields:
            assert key == "kind" or f"\n  {key}  (" in text
    assert call("data", "convert", "nosuch", "--help")[0] == 2


def test_stage_prints_where_the_copy_is(call, tmp_path, monkeypatch):
    write(tmp_path / "d")
    (tmp_path / "fast").mkdir()
    monkeypatch.setenv("FAST", str(tmp_path / "fast"))
    code, out, _ = call("data", "stage", "d", "--to", "/nosuch/folder", "$FAST")
    assert code == 0
    place = out.strip()
    assert place.startswith(str(tmp_path / "fast"))
    assert call("data", "verify", place)[0] == 0
    (tmp_path / "here.yaml").write_text("name: here\nnode_local: [$FAST]\n")
    code, out, _ = call("data", "stage", "d", "--to", "/nosuch/folder", "--site", "here.yaml")
    assert (code, out.strip()) == (0, place)


def test_names_with_spaces_and_letters_of_all_languages(call, tmp_path):
    """What is printed can be pasted: into a shell, into YAML."""
    write(tmp_path / "größe [x], é")
    code, out, _ = call("data", "split", "größe [x], é", "--output", "ö/{a: b}")
    assert code == 0
    pasted = yaml.safe_load(out.split("Use it: ")[1])
    assert pasted == {"generate": {"kind": "shards", "path": "ö/{a: b}"}}
    code, out, _ = call(
        "data", "merge", *(f"ö/{{a: b}}/{name}" for name in ("train", "test")), "--output", "α β"
    )
    assert shlex.split(out.split("Look at it: hpctrain ")[1]) == ["data", "inspect", "α β"]
    assert call("data", "verify", "ö/{a: b}", "α β")[0] == 0
    (tmp_path / "fast disk").mkdir()
    code, out, _ = call("data", "stage", "größe [x], é", "--to", "fast disk")
    assert call("data", "verify", out.strip())[0] == 0


def test_what_may_not_be_read_or_written_is_one_line():
    """As another user than root, whom permissions do not stop; in a folder that such a user can see."""
    code = """
import os, sys
from hpctrain.cli import main
from hpctrain.data.curation import merge, splitting, staging
from hpctrain.report import dataset_tables
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
for command in sys.argv[1:]:
    try:
        main(["data", *command.split()])
    except SystemExit as end:
        assert end.code == 2, command
"""
    expected = {
        "inspect hidden/d": "cannot read hidden/d: Permission denied",
        "verify hidden/d": "cannot read hidden/d: Permission denied",
        "merge shut --output ro/o": "cannot read shut/dataset.json: Permission denied",
        "split d --output ro/o": "cannot write",
        "merge d --output ro/o": "cannot write",
        "stage d --to hidden/d ro": "hidden/d (hidden/d: Permission denied), ro (ro: Permission denied)",
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("d", "shut", "hidden/d"):
            write(folder / name)
        (folder / "ro").mkdir()
        modes = {".": 0o755, "hidden/d": 0, "shut/dataset.json": 0, "ro": 0o555}
        for name, mode in modes.items():
            (folder / name).chmod(mode)
        done = subprocess.run(
            [sys.executable, "-c", code, *expected],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        for line, words in zip(done.stderr.splitlines(), expected.values(), strict=True):
            assert words in line
        assert list((folder / "ro").iterdir()) == []
        (folder / "hidden" / "d").chmod(0o755)


def test_a_full_disk_is_one_line(call, tmp_path, small_disk):
    with ShardWriter(tmp_path / "big", {"x": DenseField(shape=(1000,))}) as writer:
        writer.append({"x": np.random.default_rng(0).random((600, 1000), dtype=np.float32)})
    for command in (["merge", "big"], ["split", "big"]):
        code, _, err = call("data", *command, "--output", small_disk / "o")
        assert code == 2
        assert "disk full while writing" in err
        assert len(err.splitlines()) == 1
        assert list(small_disk.iterdir()) == []


def test_an_interruption_leaves_nothing(tmp_path):
    """Ctrl-C while it splits."""
    write(tmp_path / "d", 3000)
    code = """
import sys, time
from hpctrain.data.curation import splitting
add = splitting.ExternalShuffle.add
def slow(self, columns, places):
    add(self, columns, places)
    print("adding", flush=True)
    time.sleep(60)
splitting.ExternalShuffle.add = slow
from hpctrain.cli import main
from hpctrain.config import Experiment
main(["data", "split", "d", "--output", "o"])
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout.readline() == "adding\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted; what was being written is gone" in err
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_reader_who_has_enough_is_no_error(tmp_path):
    write(tmp_path / "d")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        for command in (["inspect", "d", "--no-picture"], ["convert", "--help"]):
            done = subprocess.run(
                [sys.executable, "-m", "hpctrain", "data", *command],
                cwd=tmp_path, stdout=closed, stderr=subprocess.PIPE, text=True, check=False,
            )  # fmt: skip
            assert done.returncode != 0
            assert done.stderr == ""


def test_provenance_with_strange_names_does_not_break_tables(call, tmp_path):
    provenance = {
        "label": "[bold]x[/bold] [/",
        "processes": [{"name": "[red]"}, {"name": "plain"}],
        "sources": ["[/x]"],
    }
    with ShardWriter(tmp_path / "d", {"process": DenseField(dtype="int64")}, provenance=provenance) as writer:
        writer.append({"process": np.array([0, 1, 1])})
    code, out, _ = call("data", "inspect", "d", "--no-picture")
    assert code == 0
    assert "[bold]x[/bold] [/" in out
    assert "[red]" in out
    assert json.loads((tmp_path / "d" / "dataset.json").read_text())["events"] == 3
