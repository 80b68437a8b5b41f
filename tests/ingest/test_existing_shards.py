import json
import subprocess
import sys

import pytest

from hpctrain.cli import main
from hpctrain.config import Experiment
from hpctrain.data.schema import DenseField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.errors import UserError
from hpctrain.run import RunDirectory


@pytest.fixture
def mine(tmp_path, write_toy):
    for number, split in enumerate(("train", "validation", "test")):
        write_toy(tmp_path / "mine" / split, 150, seed=number)
    return tmp_path / "mine"


def test_own_shards_are_trained_on_where_they_lie(mine, tmp_path):
    (tmp_path / "x.yaml").write_text(
        json.dumps({
            "name": "x", "output": str(tmp_path / "runs"), "generate": {"kind": "shards", "path": str(mine)},
            "task": {"model": {"filters": [4], "hidden": 4}}, "training": {"epochs": 1},
        })
    )  # fmt: skip
    for step in ("generate", "train", "report"):
        command = [sys.executable, "-m", "hpctrain", step, tmp_path / "x.yaml"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "runs" / "x" / "summary.json").read_text())
    assert summary["generate"]["events"] == {"train": 150, "validation": 150, "test": 150}
    assert summary["train"]["training_events"] == 150
    again = subprocess.run(
        [*command[:-2], "generate", command[-1], "--force"], capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert not (tmp_path / "runs" / "x" / "report.html").exists(), "the page of what is no longer done stayed"
    assert (mine / "train" / "dataset.json").exists(), "linked data must survive what is done to the run"


def test_what_is_missing_or_damaged_is_named(mine, tmp_path):
    experiment = Experiment.from_mapping(
        {"name": "x", "output": str(tmp_path / "runs"), "generate": {"kind": "shards", "path": str(mine)}}
    )
    run = RunDirectory.create(experiment)
    step = experiment.generate.build()
    shard = mine / "test" / "shard-00001.h5"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"test/shard-00001.h5 is not what was written"):
        step.run(run, run.tracker("generate"))
    (mine / "validation" / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"mine has no validation/dataset.json"):
        step.check()
    with ShardWriter(mine / "validation", {"x": DenseField()}):
        pass
    with pytest.raises(UserError, match=r"mine/validation holds no events"):
        step.check()
    with pytest.raises(UserError, match=r"generate.path is not given"):
        Experiment.from_mapping({"name": "x", "generate": "shards"}).generate.build().check()


def test_the_runs_own_events_are_not_what_it_reads(toy_run, tmp_path, capsys):
    """They would be moved away before they are read."""
    run = toy_run("x")
    (tmp_path / "links").mkdir()
    for split in ("train", "validation", "test"):
        (tmp_path / "links" / split).symlink_to(run.data / split)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    for path in (run.data, tmp_path / "links"):
        settings = f"generate={{kind: shards, path: '{path}'}}"
        with pytest.raises(SystemExit) as caught:
            main(["generate", str(run.path), settings, "--force"])
        assert caught.value.code == 2
        assert "which 'generate' of this run writes itself. Give name=NEW" in capsys.readouterr().err
    after = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert {path: content for path, content in after.items() if path in before} == before


def test_one_dataset_is_to_be_split_first(mine):
    experiment = Experiment.from_mapping(
        {"name": "x", "generate": {"kind": "shards", "path": str(mine / "train")}}
    )
    with pytest.raises(
        UserError, match=r"is one dataset, not three. `hpctrain data split /.*mine/train --output"
    ):
        experiment.generate.build().check()
