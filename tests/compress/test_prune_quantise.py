"""The whole step on a tiny run: what it writes, what it says, and the same result on one rank and on two."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hpctrain.compress.quantise import exact
from hpctrain.compress.saved import load_compressed
from hpctrain.parallel.communicator import SingleCommunicator
from hpctrain.run import RunDirectory
from hpctrain.track import read_metrics

WORKER = """
import sys, torch
from pathlib import Path
from hpctrain.config import Experiment
from hpctrain.parallel.communicator import connect
from hpctrain.run import RunDirectory
torch.set_num_threads(1)
run = RunDirectory.open(Path(sys.argv[1]))
communicator = connect(run.experiment.launch.build().engine)
assert communicator.size == 2
with run.tracker("compress", active=communicator.rank == 0) as tracker:
    run.experiment.compress.build().run(run, tracker, communicator)
communicator.close()
"""


def logged(run: RunDirectory) -> list[dict]:
    return [line for line in read_metrics(run.metrics_path) if line["step"] == "compress"]


def copy_of(run: RunDirectory, folder: Path) -> RunDirectory:
    shutil.copytree(run.path, folder / "tiny")
    return RunDirectory.open(folder / "tiny")


@pytest.fixture(scope="module")
def done(trained: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, dict]:
    run = copy_of(trained, tmp_path_factory.mktemp("done"))
    with run.tracker("compress") as tracker:
        summary = run.experiment.compress.build().run(run, tracker, SingleCommunicator())
    return run, summary


def test_figures_are_paired_and_plain(done: tuple[RunDirectory, dict]) -> None:
    run, summary = done
    json.dumps(summary, allow_nan=False)
    results = json.loads((run.compressed / "results.json").read_text())
    change = results["after"]["auc"]["value"] - results["before"]["auc"]["value"]
    assert summary["auc_difference"]["value"] == pytest.approx(change)
    assert summary["auc_difference"]["error"] < 0.15
    assert summary["auc_quantised"]["value"] > 0.8
    assert [round(entry["sparsity"], 2) for entry in results["iterations"]] == [0.3, 0.5]
    assert all(entry["auc"]["error"] > 0 for entry in results["iterations"])
    assert results["events"] == 200


def test_the_headline_says_that_training_went_on(done: tuple[RunDirectory, dict]) -> None:
    run, summary = done
    trained_on = sum(line["event"] == "epoch" for line in logged(run))
    assert summary["epochs"] == trained_on == 4
    assert re.fullmatch(
        r"AUC 0\.\d{4} → 0\.\d{4} \([+-]0\.\d{4} ± 0\.\d{4}\) after 4 more epochs", summary["headline"]
    )


def test_weights_before_pruned_and_after_are_kept(done: tuple[RunDirectory, dict]) -> None:
    run, summary = done
    results = json.loads((run.compressed / "results.json").read_text())
    with np.load(run.compressed / "weights.npz") as weights:
        names = [layer["name"] for layer in results["layers"]]
        assert names == ["conv1", "conv2", "dense", "output"]
        assert set(weights.files) == {
            f"{stage}/{name}" for stage in ("before", "pruned", "after") for name in names
        }
        for layer in results["layers"]:
            after, pruned = weights[f"after/{layer['name']}"], weights[f"pruned/{layer['name']}"]
            assert not (after[pruned == 0] != 0).any()
            assert np.count_nonzero(after) == layer["nonzero"]
        zeros = sum(int((weights[f"after/{name}"] == 0).sum()) for name in names)
        assert summary["sparsity"] == pytest.approx(
            zeros / sum(weights[f"after/{name}"].size for name in names)
        )


def test_saved_network_has_the_auc_that_was_reported(done: tuple[RunDirectory, dict]) -> None:
    from sklearn.metrics import roc_auc_score

    from hpctrain.data.loader import Loader
    from hpctrain.data.shards import ShardDataset
    from hpctrain.training.restore import load_task

    run, summary = done
    task = load_task(run)
    task.model = exact(load_compressed(run))
    (batch,) = Loader(ShardDataset.open(run.data / "test")).sequential(1000)
    with torch.no_grad():
        found = task.validate(batch)
    assert roc_auc_score(found["label"], found["score"]) == pytest.approx(summary["auc_quantised"]["value"])


def test_progress_reaches_the_end_and_every_epoch_is_logged(done: tuple[RunDirectory, dict]) -> None:
    run, _ = done
    assert [line["event"] for line in logged(run)] == [
        "epoch",
        "pruned",
        "epoch",
        "pruned",
        "quantised",
        "epoch",
        "epoch",
    ]
    progress = json.loads(run.progress_path("compress").read_text())
    assert progress["done"] == progress["total"] == 4 * 400


def test_two_ranks_find_the_same_network(
    done: tuple[RunDirectory, dict], trained: RunDirectory, tmp_path: Path
) -> None:
    alone, _ = done
    run = copy_of(trained, tmp_path)
    mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or "mpiexec"
    command = [mpiexec, "-n", "2", sys.executable, "-c", WORKER, str(run.path)]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    # float32 sums differ in their order, and a weight near a tie may then be pruned or round the other way
    with np.load(alone.compressed / "weights.npz") as one, np.load(run.compressed / "weights.npz") as two:
        for name in one.files:
            close = np.isclose(one[name], two[name], atol=0.03)
            assert close.mean() > 0.97, name
    records = [json.loads((r.compressed / "results.json").read_text()) for r in (alone, run)]
    assert records[0]["after"]["auc"]["value"] == pytest.approx(records[1]["after"]["auc"]["value"], abs=0.02)
    types = [[(layer["weight_type"], layer["activation_type"]) for layer in r["layers"]] for r in records]
    assert types[0] == types[1]
