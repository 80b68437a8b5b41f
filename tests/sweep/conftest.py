"""A sweep over a toy training, and a training that takes no time."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from hpctrain.errors import UserError
from hpctrain.steps import fingerprint
from hpctrain.sweep import driver
from hpctrain.sweep.directory import Sweep, Trial

RATE = "training.optimizer.learning_rate"
PARAMETERS = {RATE: {"low": 1e-3, "high": 0.1, "log": True}, "task.model.hidden": [4, 8, 16]}


class Quiet:
    """Sees everything and says nothing; implements ``driver.Watcher`` and ``pipeline.Display``."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.trials: list[Trial] = []
        self.passed: list[int] = []

    def began(self, number, parameters):
        self.begun.append(number)
        return self

    def ended(self, trial):
        self.trials.append(trial)

    def passed_over(self, number, why):
        self.passed.append(number)

    def __getattr__(self, name):
        return lambda *arguments: None


@pytest.fixture
def watcher() -> Quiet:
    return Quiet()


@pytest.fixture
def toy_shards(tmp_path: Path, write_toy: Callable[..., Path]) -> Path:
    """Folder of toy shards for training."""
    for number, (split, events) in enumerate({"train": 203, "validation": 60, "test": 60}.items()):
        write_toy(tmp_path / "toy" / split, events, seed=number)
    return tmp_path / "toy"


@pytest.fixture
def sweep_file(tmp_path: Path, toy_shards: Path) -> Callable[..., Path]:
    """Writes the file of a sweep over the toy training; keys given replace those of the sweep."""

    def write(**changed) -> Path:
        path = tmp_path / "sweep.yaml"
        base = {
            "output": str(tmp_path / "runs"),
            "generate": {"kind": "shards", "path": str(toy_shards)},
            "task": {"model": {"filters": [4, 4], "hidden": 8}},
            "training": {"epochs": 1, "global_batch_size": 32, "schedule": {"warmup_steps": 2}},
        }
        content = {
            "name": "toys",
            "base": base,
            "search": {"kind": "random", "trials": 4},
            "parameters": PARAMETERS,
        }
        path.write_text(json.dumps({**content, **changed}))
        return path

    return write


@pytest.fixture
def open_sweep(sweep_file: Callable[..., Path]) -> Callable[..., Sweep]:
    """A sweep that was checked."""

    def make(**changed) -> Sweep:
        sweep = Sweep.open(sweep_file(**changed))
        sweep.check()
        return sweep

    return make


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Steps take no time: an AUC that is best at a learning rate of 0.01.

    ``instant["fail"]`` is asked, with the number of the trial, for the error that it fails with.
    """
    settings: dict[str, object] = {"fail": lambda number: "", "order": []}

    def perform(run, names, launcher, display, *, warned):
        run.record()
        if run.path.name.isdigit():
            settings["order"].append(int(run.path.name))
            error = settings["fail"](int(run.path.name))
            if isinstance(error, Exception):
                raise error
            if error:
                raise UserError(error, hint="Mend it")
        for name in names:
            (run.path / {"generate": "data", "train": "checkpoints"}[name]).mkdir(exist_ok=True)
            rate = run.experiment.training.optimizer.learning_rate
            auc = 1 - 0.1 * abs(math.log10(rate) + 2)
            summary = {
                "validation_auc": auc,
                "epochs": 1,
                "headline": "words",
                "gain": {"value": -auc, "error": 0.1},
            }
            inputs = fingerprint(name, run.experiment, run)
            run.finish_step(name, {"fingerprint": inputs, "wall_s": 2.0, "summary": summary})

    monkeypatch.setattr(driver, "perform", perform)
    return settings
