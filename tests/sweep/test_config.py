import json
from pathlib import Path

import pytest

from hpctrain.errors import UserError
from hpctrain.sweep.config import read_sweep
from hpctrain.sweep.directory import Sweep

SHIPPED = sorted((Path(__file__).parents[2] / "configs" / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"parameters": {}}, "parameters: Dictionary should have at least 1 item"),
        ({"parameters": {"training.epoch": [1]}}, r"parameters.training.epoch = 1: .*did you mean 'epochs'"),
        ({"parameters": {"training.epochs": [1, 0]}}, r"parameters.training.epochs = 0: .*greater than 0"),
        ({"parameters": {"task.model.hidden": {"low": 4, "high": 9}}}, "valid integer"),
        ({"parameters": {"seed.x": [1]}}, "seed is a value, not a section"),
        ({"parameters": {"name": ["a"]}}, "'name' is set by the sweep itself"),
        ({"parameters": {"training.epochs": []}}, "no value is given to choose from"),
        ({"search": "gird"}, "unknown searches kind 'gird'.* did you mean 'grid'"),
        ({"search": {"kind": "grid"}}, "a grid needs values"),
        ({"objective": {"metric": "trian.validation_auc"}}, "'trian' is no step; did you mean 'train'"),
        ({"objective": {"direction": "up"}}, "objective.direction"),
        ({"changes": {"training.epochs": 0}}, "changes of .*greater than 0"),
        ({"base": "nosuch.yaml"}, "no configuration file .*nosuch.yaml"),
        ({"trials": 3}, "unknown key 'trials'"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_written(sweep_file, tmp_path, changed, words):
    path = sweep_file(**changed)
    with pytest.raises(UserError, match=words):
        Sweep.open(path).check()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_the_sweeps_that_come_with_hpctrain_can_be_done(path, kind):
    sweep = Sweep.open(path, [f"search.kind={kind}"])
    sweep.check()
    assert sweep.count > 1


def test_the_experiment_is_relative_to_the_file_and_changes_may_be_nested(sweep_file, tmp_path, monkeypatch):
    (tmp_path / "experiment.yaml").write_text(json.dumps({"name": "e", "training": {"epochs": 5}}))
    path = sweep_file(base="experiment.yaml", changes={"training.epochs": 3})
    monkeypatch.chdir("/")
    config = read_sweep(path, ["changes.training.global_batch_size=7"])
    assert config.base["training"]["epochs"] == 3
    assert config.base["training"]["global_batch_size"] == 7
    assert config.base["name"] == "toys"


def test_another_kind_begins_with_its_own_defaults(sweep_file):
    sweep = Sweep.open(sweep_file(parameters={"training.optimizer.kind": ["adam", "sgd"], "training.optimizer.learning_rate": [0.5]}))  # fmt: skip
    sweep.check()
    experiment = sweep.experiment(
        0, {"training.optimizer.learning_rate": 0.5, "training.optimizer.kind": "sgd"}
    )
    assert experiment.training.optimizer.kind == "sgd"
    assert experiment.training.optimizer.learning_rate == 0.5


def test_a_metric_without_a_step_is_of_the_training(sweep_file):
    sweep = Sweep.open(sweep_file(objective={"metric": "validation_loss", "direction": "minimise"}))
    assert sweep.config.objective.metric == "train.validation_loss"
    assert sweep.steps == ("generate", "train")
    assert Sweep.open(sweep_file(objective={"metric": "evaluate.cnn.auc"})).steps == (
        "generate",
        "train",
        "evaluate",
    )
