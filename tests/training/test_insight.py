"""Figures of made-up clocks and counters, and those that a real training writes."""

import json
import time

import pytest
import torch

from hpctrain.parallel.communicator import SingleCommunicator
from hpctrain.track import read_metrics
from hpctrain.training import insight as insights
from hpctrain.training.checkpoint import Checkpoints
from hpctrain.training.clock import PARTS
from hpctrain.training.insight import NO_ENERGY, Insight
from hpctrain.training.peak import Peak


def seconds(**parts):
    return {part: parts.get(part, 0.0) for part in PARTS}


class Two(SingleCommunicator):
    """Rank 0 of two; the other one answers the same, but for its clock and its energy."""

    size = 2
    other = (seconds(data=1.0, forward=2.0, communication=5.0), 30.0)

    def gather(self, value):
        return [value, self.other if isinstance(value, tuple) else value]


class ReadClock:
    def __init__(self, parts):
        self.parts = parts

    def start(self):
        pass

    def read(self):
        return self.parts


@pytest.fixture
def counted(tmp_path):
    """A node that counts its energy; calling it sets the counter, in joules."""
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "name").write_text("package-0")
    (zone / "max_energy_range_uj").write_text("1000000000")

    def set_(joules):
        (zone / "energy_uj").write_text(str(int(joules * 1e6)))
        return tmp_path

    set_(100)
    return set_


def test_the_figures_of_two_ranks(counted):
    insight = Insight(Two(), active=True, powercap=counted(100))
    insight.clock = ReadClock(seconds(data=1.0, forward=5.0, communication=2.0))
    insight.flops_per_sample, insight.peak = 4e6, Peak(1e9, "a guess")
    insight.start()
    counted(120)
    figures = insight.end(1000)
    assert figures == pytest.approx(
        {
            "seconds": 8.0, "samples_per_second": 125.0,
            "seconds_data": 1.0, "seconds_forward": 3.5, "seconds_backward": 0.0, "seconds_communication": 3.5,
            "seconds_optimiser": 0.0, "seconds_other": 0.0,
            "slowest_rank": 0, "seconds_communication_slowest": 2.0,
            "flops_per_second": 5e8, "mfu": 0.5,
            "joules": 50.0, "joules_per_sample": 0.05,
        }
    )  # fmt: skip
    insight.start()
    insight.end(1000)
    summary = insight.summary()
    assert summary["seconds_by_part"] == seconds(data=2.0, forward=7.0, communication=7.0)
    assert (summary["mfu"], summary["peak_measured_with"]) == (0.5, "a guess")
    assert summary["energy"] == {
        "joules": 80.0, "joules_per_sample": 0.04, "counted": ["processors (RAPL)"],
    }  # fmt: skip


def test_energy_that_cannot_be_read_is_said_once(tmp_path):
    insight = Insight(SingleCommunicator(), active=True, powercap=tmp_path)
    insight.start()
    assert "joules" not in insight.end(10)
    assert insight.summary()["energy"] == NO_ENERGY == "not readable here"


def test_nothing_is_said_of_no_epoch(tmp_path):
    assert Insight(SingleCommunicator(), active=True, powercap=tmp_path).summary() == {}


def train(run):
    with run.tracker("train") as tracker:
        return run.experiment.training.build().run(run, tracker, SingleCommunicator())


def epochs_of(run):
    return [line for line in read_metrics(run.metrics_path) if line["event"] == "epoch"]


def test_the_parts_of_an_epoch_are_all_of_it(toy_run):
    run = toy_run()
    started = time.monotonic()
    summary = train(run)
    passed = time.monotonic() - started
    epochs = epochs_of(run)
    for epoch in epochs:
        parts = [epoch[f"seconds_{part}"] for part in PARTS]
        assert sum(parts) == pytest.approx(epoch["seconds"])
        assert min(parts) >= 0
        assert all(epoch[f"seconds_{part}"] > 0 for part in ("data", "forward", "backward", "optimiser"))
        assert epoch["mfu"] == pytest.approx(epoch["flops_per_second"] / summary["peak_flops_per_second"])
        assert epoch["flops_per_second"] == pytest.approx(
            summary["flops_per_sample"] * epoch["samples_per_second"]
        )
        assert "slowest_rank" not in epoch
    assert sum(epoch["seconds"] for epoch in epochs) < passed
    for part in PARTS:
        assert summary["seconds_by_part"][part] == pytest.approx(sum(e[f"seconds_{part}"] for e in epochs))
    # 3×16² → 4 → 4 filters, 4·4² → 8 → 2
    products = [9 * 3 * 4 * 16**2, 9 * 4 * 4 * 8**2, 4 * 4**2 * 8, 8 * 2]
    assert summary["flops_per_sample"] == 6 * sum(products) - 2 * products[0]
    json.dumps(summary)


def test_looking_changes_no_bit(toy_run):
    looked, not_looked = toy_run("a"), toy_run("b", "training.insight=false")
    summaries = train(looked), train(not_looked)
    states = [Checkpoints(run.checkpoints).latest() for run in (looked, not_looked)]
    assert states[0]["identity"] == states[1]["identity"]
    assert states[0]["position"] == states[1]["position"]
    for name, value in states[0]["model"].items():
        assert torch.equal(value, states[1]["model"][name])
    assert "mfu" in summaries[0]
    assert not {"mfu", "energy", "seconds_by_part"} & summaries[1].keys()
    assert {key for key in epochs_of(not_looked)[0] if "seconds" in key} == {"seconds"}


def test_a_network_that_cannot_be_counted_is_trained_all_the_same(toy_run, monkeypatch):
    def fail(*_):
        raise NotImplementedError("no such operator")

    monkeypatch.setattr(insights, "step_flops", fail)
    run = toy_run()
    summary = train(run)
    warnings = [line["text"] for line in read_metrics(run.metrics_path) if line["event"] == "warning"]
    assert warnings == [
        "the FLOPs of this network cannot be counted, so there is no MFU: NotImplementedError: no such operator"
    ]
    assert summary["validation_auc"] > 0
    assert "mfu" not in summary
    assert summary["seconds_by_part"]["forward"] > 0


@pytest.mark.parametrize("engine", ["mpi", "gloo"])
def test_ranks_tell_who_is_waited_for(toy_run, engine):
    run = toy_run("two", "launch.ranks=2", f"launch.engine={engine}")
    job = run.experiment.launch.build().start(
        ["worker", "train", str(run.path)], run.logs / "train.log", parallel=True
    )
    while job.poll() is None:
        time.sleep(0.05)
    assert job.poll() == 0, (run.logs / "train.log").read_text()
    summary = json.loads((run.logs / "train.result.json").read_text())["summary"]
    assert "each of 2 ranks at once" in summary["peak_measured_with"]
    for epoch in epochs_of(run):
        assert epoch["seconds"] == pytest.approx(sum(epoch[f"seconds_{part}"] for part in PARTS))
        assert epoch["seconds_communication"] > 0
        assert epoch["slowest_rank"] in {0, 1}
        assert epoch["seconds_communication_slowest"] > 0
