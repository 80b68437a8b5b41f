"""A tiny run of clearly synthetic events, trained by the package's own training."""

from pathlib import Path

import numpy as np
import pytest

from hpctrain.config import Experiment
from hpctrain.data.columns import SparseRows
from hpctrain.data.schema import DenseField, SparseField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.parallel.communicator import SingleCommunicator
from hpctrain.run import RunDirectory

SIDE = 8
SIZES = {"train": 400, "validation": 150, "test": 200}


def make_run(folder: Path) -> RunDirectory:
    """Events of two kinds, one with its cells in a row, and a CNN trained on them for a few epochs."""
    experiment = Experiment.from_mapping(
        {
            "name": "tiny",
            "output": str(folder),
            "task": {"model": {"filters": [4, 4], "hidden": 6}, "phi_roll": False},
            "training": {"epochs": 4, "global_batch_size": 20, "optimizer": {"learning_rate": 0.01}},
            "compress": {
                "pruning": {"sparsities": [0.3, 0.5]},
                "epochs_per_round": 1,
                "quantised_epochs": 2,
                "global_batch_size": 20,
                "replicas": 20,
                "calibration_events": 100,
            },
            "firmware": {"events": 60, "golden_events": 5},
        }
    )
    run = RunDirectory.create(experiment)
    rng = np.random.default_rng(3)
    fields = {
        "image": SparseField(shape=(3, SIDE, SIDE)),
        "label": DenseField(dtype="int64"),
        "weight": DenseField(dtype="float64"),
    }
    for split, events in SIZES.items():
        labels = rng.integers(0, 2, events)
        images = rng.exponential(5, (events, 3, SIDE, SIDE)) * (rng.random((events, 3, SIDE, SIDE)) < 0.15)
        row = rng.integers(0, SIDE, events)
        for event in np.flatnonzero(labels):
            images[event, 0, row[event]] += rng.exponential(6, SIDE)
        with ShardWriter(run.data / split, fields, scale={"image_max": [60.0, 40.0, 40.0]}) as writer:
            writer.append(
                {
                    "image": SparseRows.from_dense(images.astype(np.float32)),
                    "label": labels.astype(np.int64),
                    "weight": rng.uniform(0.5, 2.0, events),
                }
            )
    with run.tracker("train") as tracker:
        experiment.training.build().run(run, tracker, SingleCommunicator())
    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A trained run; tests must not change it (copy it)."""
    return make_run(tmp_path_factory.mktemp("runs"))
