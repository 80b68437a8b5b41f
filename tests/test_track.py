import importlib.util
import json
import sys

import pytest

from hpctrain.config import TrackingConfig
from hpctrain.errors import UserError
from hpctrain.parallel.communicator import SingleCommunicator
from hpctrain.track import Follower, Tracker, WandbSink, read_metrics, require_sinks


class Recorder:
    def __init__(self):
        self.lines, self.closed = [], False

    def log(self, values):
        self.lines.append(values)

    def close(self):
        self.closed = True


def test_lines_are_json_whatever_the_values(tmp_path):
    tracker = Tracker("train", tmp_path / "m.jsonl", tmp_path / "p")
    tracker.log("step", loss=0.5, odd=float("nan"), nested={"x": [float("inf"), 1]})
    tracker.log("epoch", epoch=1)
    lines = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["step", "epoch"]
    assert lines[0]["loss"] == 0.5
    assert lines[0]["odd"] is None
    assert lines[0]["nested"] == {"x": [None, 1]}


def test_a_line_torn_by_a_kill_is_passed_over(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"event": "a"}\n{"event": "b", "lo')
    assert [line["event"] for line in read_metrics(tmp_path / "m.jsonl")] == ["a"]
    assert read_metrics(tmp_path / "none") == []


def test_a_torn_line_does_not_swallow_the_next(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"event": "a"}\n{"event": "b", "lo')
    tracker = Tracker("train", tmp_path / "m.jsonl", tmp_path / "p")
    tracker.log("c")
    tracker.log("d")
    assert [line["event"] for line in read_metrics(tmp_path / "m.jsonl")] == ["a", "c", "d"]


def test_only_the_active_rank_writes(tmp_path):
    Tracker("train", tmp_path / "m.jsonl", tmp_path / "p", active=False).log("step", loss=1)
    assert not (tmp_path / "m.jsonl").exists()


def test_the_last_progress_is_never_throttled(tmp_path):
    tracker = Tracker("train", tmp_path / "m", tmp_path / "p")
    tracker.progress(1, 10, "samples")
    tracker.progress(2, 10, "samples")
    assert json.loads((tmp_path / "p").read_text())["done"] == 1
    tracker.progress(10, 10, "samples", loss=1.0)
    assert json.loads((tmp_path / "p").read_text()) == {
        "step": "train",
        "done": 10,
        "total": 10,
        "unit": "samples",
        "loss": 1.0,
    }


def test_a_sink_gets_numbers_under_the_name_of_the_step(tmp_path):
    sink = Recorder()
    with Tracker("train", tmp_path / "m", tmp_path / "p", sink=sink) as tracker:
        tracker.log("step", loss=1.0, text="x")
    assert sink.lines == [{"train/loss": 1.0}]
    assert sink.closed


def test_full_disk(small_disk):
    tracker = Tracker("train", small_disk / "m", small_disk / "p")
    (small_disk / "filler").write_bytes(b"x" * 1_040_000)
    with pytest.raises(UserError, match="disk full while writing"):
        tracker.log("step", text="y" * 100_000)


def test_wandb_is_offline_unless_told(tmp_path):
    sink = WandbSink(TrackingConfig(wandb=True), "x", tmp_path, {"a": 1})
    sink.log({"train/loss": 1.0})
    sink.close()
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


def test_wandb_that_is_not_installed_is_named_with_its_cure(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"wandb is not installed. pip install 'hpctrain\[tracking\]'"):
        WandbSink(TrackingConfig(wandb=True), "x", tmp_path, {})


def test_a_training_is_tracked_in_its_run_directory(toy_run):
    run = toy_run("tracked", "tracking.wandb=true")
    with run.tracker("train") as tracker:
        run.experiment.training.build().run(run, tracker, SingleCommunicator())
    assert list(run.path.glob("wandb/offline-run-*/run-*.wandb"))
    assert any(line["event"] == "epoch" for line in read_metrics(run.metrics_path))


def test_a_tracker_that_is_not_installed_is_missed_before_anything_starts(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    require_sinks(TrackingConfig())
    with pytest.raises(UserError, match="wandb is not installed") as caught:
        require_sinks(TrackingConfig(wandb=True))
    assert "hpctrain[tracking]" in caught.value.hint


def test_what_is_new_is_followed(tmp_path):
    path = tmp_path / "m.jsonl"
    early = Follower(path)
    tracker = Tracker("train", path, tmp_path / "p")
    tracker.warn("before")
    follower = Follower(path)
    assert follower.new() == []
    tracker.warn("the disk is slow")
    with path.open("ab") as stream:
        stream.write(b'{"event": "warn')  # half a line
    assert [line["text"] for line in follower.new()] == ["the disk is slow"]
    with path.open("ab") as stream:
        stream.write(b'ing", "text": "whole now"}\nnot JSON\n')
    assert [line["text"] for line in follower.new()] == ["whole now"]
    assert [line["text"] for line in early.new()] == ["before", "the disk is slow", "whole now"]
