import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import yaml

from hpctrain import registry
from hpctrain.config import ComponentConfig
from hpctrain.errors import UserError


@pytest.mark.parametrize("group", sorted(registry.GROUPS))
def test_every_group_has_a_built_in_component_whose_config_stands_alone(group):
    assert registry.kinds(group)
    for kind in registry.kinds(group):
        component = registry.find(group, kind)
        assert component.Config().kind == kind
        assert component.Config.owner is component


def test_unknown_kind_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'whole_detector_cnn'"):
        registry.find("models", "whole_detector_cn")


def test_two_components_of_one_name_are_refused():
    class Other:
        class Config(ComponentConfig):
            kind: Literal["adam"] = "adam"

    with pytest.raises(ValueError, match="both"):
        registry.register("optimizers")(Other)


def test_unknown_group_is_refused():
    with pytest.raises(ValueError, match="no component group"):
        registry.register("nonsense")


EXAMPLE = Path(__file__).parent.parent / "examples" / "own_model"


@pytest.fixture(scope="module")
def installed_example(tmp_path_factory) -> Path:
    """The documented example, built and installed by pip as a user would, into a folder of its own."""
    source, target = tmp_path_factory.mktemp("source") / "own_model", tmp_path_factory.mktemp("site")
    shutil.copytree(EXAMPLE, source)  # building leaves files beside the source
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        target,
    ]
    subprocess.run([*command, source], check=True, timeout=120)
    return target


def test_own_model_arrives_through_an_entry_point(installed_example, tmp_path):
    program = """
import sys
from pathlib import Path
from hpctrain.config import Experiment
experiment = Experiment.load(Path(sys.argv[1]))
import torch
model = experiment.task.model.build(shape=(3, 64, 64), classes=2)
print(type(model).__name__, tuple(model(torch.zeros(2, 3, 64, 64)).shape), experiment.task.model.width)
"""
    result = subprocess.run(
        [sys.executable, "-c", program, EXAMPLE / "experiment.yaml"],
        env={"PYTHONPATH": str(installed_example), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.split(" ", 1)[0] == "RingNetwork"
    assert "(2, 2)" in result.stdout


def test_own_model_is_trained_like_any_other(installed_example, toy_run):
    run = toy_run("own")
    settings = yaml.safe_load(run.config_path.read_text())
    settings["task"]["model"] = {"kind": "ring", "width": 8}
    run.config_path.write_text(yaml.safe_dump(settings))
    result = subprocess.run(
        [sys.executable, "-m", "hpctrain", "worker", "train", run.path],
        env={"PYTHONPATH": str(installed_example), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    summary = json.loads((run.logs / "train.result.json").read_text())["summary"]
    assert summary["parameters"] == 3 * 16 * 8 + 8 + 8 * 2 + 2


def test_broken_entry_point_says_which(installed_example, tmp_path):
    copy = tmp_path / "site"
    subprocess.run(["cp", "-r", installed_example, copy], check=True)
    (copy / "ring_network.py").write_text("import no_such_module\n")
    result = subprocess.run(
        [sys.executable, "-c", "from hpctrain import registry; registry.find('models', 'ring')"],
        env={"PYTHONPATH": str(copy), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "models kind 'ring' (ring_network:RingNetwork) cannot be imported" in result.stderr
