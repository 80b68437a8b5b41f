import importlib.util
import json
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hpctrain.config import TrackingConfig
from hpctrain.errors import UserError
from hpctrain.parallel.communicator import SingleCommunicator
from hpctrain.track import Follower, TensorBoardSink, Tracker, WandbSink, read_metrics, require_sinks, sinks


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
    with Tracker("train", tmp_path / "m", tmp_path / "p", sinks=[sink]) as tracker:
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
        sinks(TrackingConfig(wandb=True), "x", tmp_path, {})


def events_of(folder):
    """Tag → [(step, value), …] as TensorBoard reads them."""
    reader = EventAccumulator(str(folder))
    reader.Reload()
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_tensorboard_has_updates_at_their_step_and_epochs_at_theirs(tmp_path):
    (sink,) = sinks(TrackingConfig(tensorboard=True), "x", tmp_path, {})
    with Tracker("train", tmp_path / "m", tmp_path / "p", sinks=[sink]) as tracker:
        for step in (7, 8):
            tracker.log("step", epoch=1, global_step=step, loss=step / 2)
        tracker.log("epoch", epoch=1, validation_auc=0.75, text="x")
    assert events_of(tmp_path / "tensorboard") == {
        "train/loss": [(7, 3.5), (8, 4.0)],
        "train/validation_auc": [(1, 0.75)],
    }


def test_tensorboard_counts_what_has_no_step(tmp_path):
    sink = TensorBoardSink(tmp_path)
    for value in (1.0, 2.0):
        sink.log({"firmware/x": value})
    sink.close()
    assert events_of(tmp_path) == {"firmware/x": [(1, 1.0), (2, 2.0)]}


def test_a_training_is_tracked_in_its_run_directory(toy_run):
    run = toy_run("tracked", "tracking.wandb=true", "tracking.tensorboard=true")
    with run.tracker("train") as tracker:
        run.experiment.training.build().run(run, tracker, SingleCommunicator())
    assert list(run.path.glob("wandb/offline-run-*/run-*.wandb"))
    lines = read_metrics(run.metrics_path)
    for tag, event, key, place in (
        ("train/loss", "step", "loss", "global_step"),
        ("train/mfu", "epoch", "mfu", "epoch"),
    ):
        seen = events_of(run.path / "tensorboard")[tag]
        expected = [(line[place], line[key]) for line in lines if line["event"] == event]
        assert [step for step, _ in seen] == [step for step, _ in expected]
        assert [value for _, value in seen] == pytest.approx([value for _, value in expected], rel=1e-6)


def test_only_the_first_rank_has_sinks(toy_run):
    run = toy_run("quiet", "tracking.tensorboard=true")
    run.tracker("train", active=False).log("step", loss=1.0)
    assert not (run.path / "tensorboard").exists()


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_tracker_that_is_not_installed_is_missed_before_anything_starts(monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    require_sinks(TrackingConfig())
    with pytest.raises(UserError, match=f"tracking.{name} is on but {name} is not installed") as caught:
        require_sinks(TrackingConfig(**{name: True}))
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
