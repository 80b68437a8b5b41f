"""A small run directory of clearly synthetic events, made through the package's own writers and its real training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpctrain.config import Experiment
from hpctrain.data.columns import Columns, SparseRows
from hpctrain.data.schema import DenseField, SparseField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.parallel.communicator import SingleCommunicator
from hpctrain.run import RunDirectory

BINS = 16
FIELDS = {
    "image": SparseField(shape=(3, BINS, BINS)),
    "label": DenseField(dtype="int64"),
    "weight": DenseField(dtype="float64"),
    "process": DenseField(dtype="int64"),
    "jets": DenseField(shape=(5, 4)),
    "n_jets": DenseField(dtype="int64"),
    "sum_mass": DenseField(),
    "delta_eta": DenseField(),
    "selected": DenseField(dtype="uint8"),
    "event_id": DenseField(dtype="int64"),
}
PROCESSES = (
    {"name": "synthetic_signal", "signal": True, "share": 0.4, "weight": 0.5, "mb": 1.4e-11},
    {"name": "synthetic_common", "signal": False, "share": 0.35, "weight": 40.0, "mb": 2.0e-6},
    {"name": "synthetic_rare", "signal": False, "share": 0.25, "weight": 0.02, "mb": 4.0e-8},
)
SPLITS = {"train": 0.6, "validation": 0.15, "test": 0.25}


def synthetic_events(process: int, events: int, generator: np.random.Generator) -> Columns:
    """Events with more and heavier jets for signal; images show each jet as one blob."""
    signal = PROCESSES[process]["signal"]
    n_jets = generator.integers(4, 6, events) if signal else generator.integers(3, 5, events)
    pt = -np.sort(-generator.uniform(220, 900, (events, 5)), axis=1)
    mass = generator.gamma(6 if signal else 4, 30.0, (events, 5))
    eta, phi = generator.uniform(-1.9, 1.9, (events, 5)), generator.uniform(-np.pi, np.pi, (events, 5))
    jets = np.stack([pt, eta, phi, mass], axis=2) * (np.arange(5) < n_jets[:, None])[..., None]
    image = np.zeros((events, 3, BINS, BINS), dtype=np.float32)
    row = np.arange(events)
    for jet in range(5):
        i = ((jets[:, jet, 1] + 2.5) / 5 * BINS).astype(int)
        j = ((jets[:, jet, 2] + np.pi) / (2 * np.pi) * BINS).astype(int) % BINS
        for channel, share in enumerate((0.4, 0.6, 0.05)):
            np.add.at(image, (row, channel, i, j), (share * jets[:, jet, 0]).astype(np.float32))
    sum_mass = jets[:, :4, 3].sum(axis=1)
    return {
        "image": SparseRows.from_dense(image),
        "label": np.full(events, int(signal), dtype=np.int64),
        "weight": np.full(events, PROCESSES[process]["weight"]),
        "process": np.full(events, process, dtype=np.int64),
        "jets": jets.astype(np.float32),
        "n_jets": n_jets.astype(np.int64),
        "sum_mass": sum_mass.astype(np.float32),
        "delta_eta": np.abs(jets[:, 0, 1] - jets[:, 1, 1]).astype(np.float32),
        "selected": ((sum_mass > 700) & (n_jets >= 4)).astype(np.uint8),
        "event_id": np.arange(events, dtype=np.int64) + (process << 32),
    }


def write_data(folder: Path, events: int, seed: int) -> None:
    """``folder/{train,validation,test}`` with the provenance that ingest writes."""
    generator = np.random.default_rng(seed)
    for split, fraction in SPLITS.items():
        counts = [round(events * process["share"] * fraction) for process in PROCESSES]
        provenance = {
            "label": "synthetic test data, no physics",
            "luminosity_fb": 36.0,
            "seed": seed,
            "processes": [
                {
                    "name": process["name"],
                    "label": process["name"].replace("_", " "),
                    "signal": process["signal"],
                    "pthat": None,
                    "cross_section_mb": process["mb"],
                    "cross_section_error_mb": 0.01 * process["mb"],
                    "reference_cross_section_mb": None if process["signal"] else 1.02 * process["mb"],
                    "generated": 3 * round(events * process["share"]),
                    "preselected": round(events * process["share"]),
                    "weight": process["weight"],
                    "in_split": count,
                    "split_fraction": count / round(events * process["share"]),
                }
                for process, count in zip(PROCESSES, counts, strict=True)
            ],
        }
        scale = {"image_max": [700.0, 900.0, 60.0], "image_mean_nonzero": [200.0, 300.0, 25.0]}
        with ShardWriter(folder / split, FIELDS, provenance=provenance, scale=scale) as writer:
            for process, count in enumerate(counts):
                writer.append(synthetic_events(process, count, generator))


def make_trained_run(folder: Path, *, events: int = 800, seed: int = 7) -> RunDirectory:
    """A run directory with synthetic data and a network trained on it for two epochs."""
    experiment = Experiment.from_mapping(
        {
            "name": "synthetic",
            "seed": seed,
            "output": str(folder),
            "task": {"model": {"kind": "whole_detector_cnn", "filters": [4, 4], "hidden": 8}},
            "training": {"kind": "data_parallel", "epochs": 2, "schedule": {"warmup_steps": 0}},
            "evaluate": {"kind": "classifier", "bootstrap": 60},
        }
    )
    run = RunDirectory.create(experiment)
    write_data(run.data, events, seed)
    with run.tracker("train") as tracker:
        summary = experiment.training.build().run(run, tracker, SingleCommunicator())
    steps = {"generate": {"headline": "synthetic"}, "train": summary}
    for number, (step, found) in enumerate(steps.items(), 1):
        run.finish_step(
            step,
            {
                "fingerprint": "synthetic",
                "started": 0.0,
                "wall_s": 12.5 * number,
                "peak_memory_bytes": 10**8 * number,
                "summary": found,
            },
        )
    return run


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return make_trained_run(tmp_path_factory.mktemp("runs"))
