import gzip
import json

import pytest
import torch

from hpctrain.parallel.communicator import SingleCommunicator
from hpctrain.track import read_metrics
from hpctrain.training.checkpoint import Checkpoints
from hpctrain.training.trace import RANKS, ROWS, STEPS, Trace


def train(run, *, profile=True):
    run.profile = profile
    with run.tracker("train") as tracker:
        return run.experiment.training.build().run(run, tracker, SingleCommunicator())


def names_in(path):
    with gzip.open(path) as stream:
        return [event.get("name", "") for event in json.load(stream)["traceEvents"]]


def test_a_trace_of_a_few_steps_and_a_table(toy_run, capsys):
    run = toy_run("traced", "training.epochs=3")  # 21 steps
    summary = train(run)
    assert summary["trace"] == "profile/rank-0.trace.json.gz"
    names = names_in(run.path / summary["trace"])
    assert sum(name.startswith("ProfilerStep") for name in names) == STEPS
    assert names.count("aten::convolution_backward") == 2 * STEPS  # one for each convolution
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("operator, CPU time of its own")
    assert len(lines) == 1 + ROWS
    assert any(line.startswith("aten::convolution_backward") for line in lines)
    assert not any(line.startswith("ProfilerStep") for line in lines)
    assert sorted(path.name for path in run.traces.iterdir()) == ["rank-0.trace.json.gz"]


def test_tracing_changes_no_bit(toy_run):
    states = []
    for name, profile in (("a", True), ("b", False)):
        run = toy_run(name, "training.epochs=3")
        train(run, profile=profile)
        states.append(Checkpoints(run.checkpoints).latest()["model"])
        assert run.traces.exists() is profile
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_training_that_ends_meanwhile_leaves_what_there_was(toy_run):
    run = toy_run("short", "training.epochs=2")  # 14 steps: 7 are recorded
    summary = train(run)
    names = names_in(run.path / summary["trace"])
    assert 0 < sum(name.startswith("ProfilerStep") for name in names) < STEPS


def test_a_training_that_ends_before_is_told_so(toy_run):
    run = toy_run("shorter", "training.epochs=1", "training.global_batch_size=64")  # 4 steps
    assert "trace" not in train(run)
    warnings = [line["text"] for line in read_metrics(run.metrics_path) if line["event"] == "warning"]
    assert warnings == ["the training ended before step 8: there is no trace"]
    assert not run.traces.exists()


@pytest.mark.parametrize(("rank", "active"), [(0, True), (RANKS - 1, True), (RANKS, False)])
def test_the_first_ranks_write_one(tmp_path, rank, active):
    trace = Trace(tmp_path, rank, torch.device("cpu"), active=True)
    assert trace.active is active
    assert trace.path.name == f"rank-{rank}.trace.json.gz"


def test_an_error_is_not_hidden_by_the_trace(tmp_path):
    (tmp_path / "file").write_text("")
    trace = Trace(tmp_path / "file" / "nosuch", 0, torch.device("cpu"), active=True)  # cannot be written

    def training():
        with trace:
            for step in range(10):
                trace.step()
                1 / (8 - step)

    with pytest.raises(ZeroDivisionError):
        training()
