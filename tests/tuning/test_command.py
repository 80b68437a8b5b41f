"""The command: what it measures really, what it writes, and what stays when it is interrupted."""

import io
import json
from dataclasses import replace

import pytest
import yaml
from rich.console import Console

from hpctrain.config import Experiment
from hpctrain.errors import UserError
from hpctrain.files import write_json
from hpctrain.stopping import Warned
from hpctrain.tuning import command
from hpctrain.tuning.bench import Bench
from hpctrain.tuning.command import Tuning
from hpctrain.tuning.measurement import Measurement
from hpctrain.tuning.settings import Setting
from hpctrain.tuning.timing import Stretches

SHORT = Stretches(warmup_steps=1, stretches=3, seconds=0.3)


@pytest.fixture
def tune():
    """Runs the command on a target; what it printed is in ``text``."""

    def run(target, *, minutes=5.0, dry_run=False, allow_precision=False):
        text = io.StringIO()
        tuning = Tuning(target, [], Console(file=text, width=120))
        run.text = text
        return tuning.perform(
            minutes=minutes, dry_run=dry_run, allow_precision=allow_precision, stretches=SHORT
        )

    return run


@pytest.fixture
def formula(monkeypatch):
    """Measurements by formula: two ranks are twice as fast, bf16 four times."""

    def measure(self, setting):
        rate = 100.0 * setting.ranks * (4 if setting.precision == "bf16" else 1)
        return Measurement(setting, (rate, rate * 1.01), peak_memory_bytes=2**30)

    monkeypatch.setattr(Bench, "measure", measure)
    monkeypatch.setattr(command.bf16.Bf16, "pays", True)
    monkeypatch.setattr(
        command, "layouts", lambda current, *_, **__: [replace(current, ranks=n, threads=1) for n in (1, 2)]
    )


def test_the_best_is_written_and_the_file_as_it_was_kept(toy_run, tune, formula):
    run = toy_run("toy", "launch.threads=1")
    before = run.config_path.read_text()
    best = tune(run.path)
    assert (best.ranks, best.precision) == (2, "float32")
    after = Experiment.load(run.config_path)
    assert after.launch.ranks == 2
    assert (run.path / "config.yaml.before-tune").read_text() == before
    assert after.model_copy(
        update={"launch": Experiment.load(run.config_path, ["launch.ranks=1"]).launch}
    ) == (Experiment.from_mapping(yaml.safe_load(before)))
    said = run_text(tune)
    assert "it changes the result of training: --allow-precision takes it" in said
    assert "launch.ranks=2 (before:" in said


def run_text(tune):
    return " ".join(tune.text.getvalue().split())


def test_a_dry_run_writes_nothing_but_what_was_measured(toy_run, tune, formula):
    run = toy_run("toy", "launch.threads=1")
    before = run.config_path.read_text()
    tune(run.path, dry_run=True)
    assert run.config_path.read_text() == before
    assert not (run.path / "config.yaml.before-tune").exists()
    assert "Would write" in run_text(tune)
    record = json.loads((run.path / "tuning.json").read_text())
    rates = [one["samples_per_second"] for one in record["measurements"]]
    assert rates == sorted(rates, reverse=True)
    assert record["global_batch_size"] == 32


def test_another_precision_is_taken_when_allowed_and_said(toy_run, tune, formula):
    run = toy_run("toy", "launch.threads=1")
    assert tune(run.path, allow_precision=True).precision == "bf16"
    assert Experiment.load(run.config_path).training.precision == "bf16"
    assert "changes the result of training" in run_text(tune)


def test_a_training_that_has_begun_keeps_its_precision(toy_run, tune, formula):
    run = toy_run("toy", "launch.threads=1")
    write_json(run.steps / "train.begun", {"fingerprint": "x"})
    assert tune(run.path, allow_precision=True).precision == "float32"
    assert "another precision is another training: give name=NEW" in run_text(tune)


def test_an_experiment_keeps_its_comments(toy_run, tune, formula, tmp_path):
    run = toy_run("toy", "launch.threads=1")
    file = tmp_path / "mine.yaml"
    file.write_text(f"name: toy  # for my thesis\noutput: {tmp_path}\nlaunch: {{threads: 1}}\n")
    tune(file)
    assert "# for my thesis" in file.read_text()
    assert Experiment.load(file).launch.ranks == 2
    assert (tmp_path / "mine.tuning.json").exists()
    assert not (run.path / "tuning.json").exists()


def test_what_was_measured_stays_when_interrupted(toy_run, tune, formula, monkeypatch):
    run = toy_run("toy", "launch.threads=1")
    before, measure, asked = run.config_path.read_text(), Bench.measure, []

    def interrupted(self, setting):
        asked.append(setting)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return measure(self, setting)

    monkeypatch.setattr(Bench, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune(run.path)
    record = json.loads((run.path / "tuning.json").read_text())
    assert [one["setting"]["ranks"] for one in record["measurements"]] == [2, 1]
    assert run.config_path.read_text() == before
    assert "Interrupted: no setting was written" in run_text(tune)


def test_when_nothing_runs_the_first_reason_is_told(toy_run, tune, formula, monkeypatch):
    monkeypatch.setattr(Bench, "measure", lambda self, setting: Measurement(setting, error="no such field"))
    with pytest.raises(UserError, match="no setting could be measured; the first failed: no such field"):
        tune(toy_run("toy").path)


@pytest.mark.slow
def test_a_real_short_tune(toy_run, tune):
    """Real ranks; what is faster is not asked."""
    run = toy_run("toy", "launch.threads=1")
    before = {p for p in run.path.rglob("*") if "data" not in p.parts}
    best = tune(run.path, minutes=0.5)
    record = json.loads((run.path / "tuning.json").read_text())
    measured = [one for one in record["measurements"] if not one["error"]]
    assert measured, record
    assert all(len(one["rates"]) % 3 == 0 and one["peak_memory_bytes"] > 2**27 for one in measured)
    assert {one["setting"]["ranks"] for one in measured} >= {1}
    assert record["events"] == f"events of {run.data}"
    left = {p.name for p in run.path.rglob("*") if "data" not in p.parts} - {p.name for p in before}
    assert left <= {"tuning.json", "config.yaml.before-tune", ".lock"}
    assert Setting.of(Experiment.load(run.config_path), Tuning(run.path, [], Console()).here) == best


@pytest.mark.slow
def test_ranks_really_run_a_setting_on_random_events(tmp_path):
    experiment = Experiment.from_mapping({
        "name": "a", "generate": {"image_bins": 16}, "launch": {"engine": "gloo"},
        "training": {"global_batch_size": 16}, "task": {"model": {"filters": [4, 4], "hidden": 8}},
    })  # fmt: skip
    data = command.write_specimen(experiment, tmp_path / "data", 64)
    bench = Bench(experiment, data, tmp_path / "scratch", minutes=1, stretches=SHORT, warned=Warned())
    (tmp_path / "scratch").mkdir()
    one = bench.measure(Setting(2, 1, channels_last=True, precision="bf16"))
    assert one.error == ""
    assert len(one.rates) == 3
    log = (tmp_path / "scratch/setting-1/logs/tune.log").read_text()
    assert log.count("1 thread;") == 2
    broken = bench.measure(Setting(1, 1))
    assert broken.error == ""
    (tmp_path / "scratch/setting-3").mkdir()
    bench.data = tmp_path  # no shards
    assert "tune: " in bench.measure(Setting(1, 1)).error
