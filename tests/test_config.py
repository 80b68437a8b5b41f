from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.config import Experiment, apply_override
from hpctrain.errors import UserError

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_experiments_are_valid_and_survive_being_written(path):
    experiment = Experiment.load(path)
    assert Experiment.from_mapping(yaml.safe_load(experiment.to_yaml())) == experiment


def test_a_name_is_enough():
    experiment = Experiment.from_mapping({"name": "x"})
    assert experiment.task.model.kind == "whole_detector_cnn"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["training.epoch=3"], "training: unknown key 'epoch'; did you mean 'epochs'?"),
        (["trainin.epochs=3"], "unknown key 'trainin'; did you mean 'training'?"),
        (["task.model.filter=[8]"], "task.model: unknown key 'filter'; did you mean 'filters'?"),
        (["task.model.kind=whole_detector"], "task.model: unknown models kind 'whole_detector'"),
        (["training.epochs=many"], "training.epochs: Input should be a valid integer"),
        (["training.epochs=0"], "training.epochs: Input should be greater than 0"),
        (["training.optimizer.learning_rate=-1"], "training.optimizer.learning_rate"),
        (["training=3"], "training: expected a mapping with 'kind', got 3"),
        (["name=a/b"], "name: String should match pattern"),
        (["training"], "override 'training' is not of the form key.sub=value"),
        (["training.epochs.more=1"], "training.epochs is a value, not a section"),
        (["training.epochs=[1"], "the value is not valid YAML"),
        (["task.model.filters.0.x=1"], "is a value, not a section"),
        (["task.model.filters.²=1"], "'²' is not one of the positions"),
        (["task.model.filters.7=1"], "'7' is not one of the positions 0 to 1"),
    ],
)
def test_a_mistake_is_named_with_its_cure(overrides, words):
    data = {"name": "x", "training": {"epochs": 2}, "task": {"model": {"filters": [4, 4]}}}
    with pytest.raises(UserError) as caught:
        Experiment.from_mapping(data, overrides, source="x.yaml")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overrides_reach_into_lists_and_kinds():
    data = {"name": "x", "task": {"model": "whole_detector_cnn"}}
    experiment = Experiment.from_mapping(
        data, ["task.model.filters=[4, 4]", "training.optimizer=sgd", "training.optimizer.learning_rate=1e-3"]
    )
    assert experiment.task.model.filters == (4, 4)
    assert (experiment.training.optimizer.kind, experiment.training.optimizer.learning_rate) == ("sgd", 1e-3)
    assert data == {"name": "x", "task": {"model": "whole_detector_cnn"}}


def test_another_kind_starts_from_its_own_defaults():
    data = {"name": "x", "training": {"optimizer": {"kind": "adam", "learning_rate": 1e-3}}}
    for overrides in (
        ["training.optimizer.kind=sgd"],
        ["training.optimizer.momentum=0.5", "training.optimizer.kind=sgd"],
    ):
        optimizer = Experiment.from_mapping(data, overrides).training.optimizer
        assert (optimizer.kind, optimizer.learning_rate) == ("sgd", 1e-2)
    assert optimizer.momentum == 0.5
    assert (
        Experiment.from_mapping(data, ["training.optimizer.kind=adam"]).training.optimizer.learning_rate
        == 1e-3
    )


def test_yaml_anchors_may_be_merged(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("name: x\ntraining: &t {epochs: 3}\ntracking: {}\n")
    assert Experiment.load(path).training.epochs == 3
    path.write_text(
        "name: x\ngenerate: {split: &s {train: 0.6, validation: 0.2, test: 0.2}}\ntraining: {<<: {epochs: 4}}\n"
    )
    assert Experiment.load(path).training.epochs == 4


def test_models_are_frozen():
    experiment = Experiment.from_mapping({"name": "x"})
    with pytest.raises(ValueError, match="frozen"):
        experiment.training.epochs = 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [1", "line 1"),
        ("name: x\nname: y\n", "line 2: not valid YAML: key 'name' stands twice"),
        ("- 1\n", "expected 'key: value' lines, found list"),
        ("", "expected 'key: value' lines, found NoneType"),
        ("name: !!python/object/apply:os.system [ls]\n", "not valid YAML"),
    ],
)
def test_bad_yaml_says_file_and_line(tmp_path, text, words):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        Experiment.load(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


words = st.text("abcdefgh", min_size=1, max_size=5)


@given(st.lists(words, min_size=1, max_size=4), st.integers() | st.booleans() | words)
def test_override_sets_exactly_the_key_named(keys, value):
    data: dict = {}
    apply_override(data, f"{'.'.join(keys)}={yaml.safe_dump(value).splitlines()[0]}")
    for key in keys:
        data = data[key]
    assert data == value
