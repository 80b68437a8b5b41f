"""Which events each choice of the step is made by, and that the choice is made: spies on reading, and outcomes."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpctrain.compress import prune_quantise
from hpctrain.compress.prune_quantise import PruneQuantise
from hpctrain.compress.retrain import Retraining
from hpctrain.compress.saved import load_compressed
from hpctrain.data.loader import Batch, Loader
from hpctrain.parallel.communicator import SingleCommunicator
from hpctrain.run import RunDirectory
from hpctrain.track import Tracker, read_metrics
from hpctrain.training.restore import load_task

ADAM = {"kind": "adam", "learning_rate": 0.01}


def compress(trained: RunDirectory, folder: Path, **settings: Any) -> RunDirectory:
    """A copy of the run, compressed with the tiny run's settings but for ``settings``."""
    shutil.copytree(trained.path, folder / "tiny")
    run = RunDirectory.open(folder / "tiny")
    config = {**run.experiment.compress.model_dump(), **settings}
    with run.tracker("compress") as tracker:
        PruneQuantise(PruneQuantise.Config(**config)).run(run, tracker, SingleCommunicator())
    return run


def test_every_choice_reads_the_events_that_it_may(
    trained: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranges follow from the training events asked for, epochs are judged by validation, test is only scored."""
    told: list[tuple[str, int]] = []
    types, save = prune_quantise.Calibration.types, prune_quantise.save_network

    def hear(loader: Any, batch: Batch) -> Batch:
        told.append((loader.dataset.directory.name, len(batch["row"])))
        return batch

    def batches(method: Callable[..., Iterator[Batch]]) -> Callable[..., Iterator[Batch]]:
        def spy(loader: Loader, *rest: Any, **options: Any) -> Iterator[Batch]:
            for batch in method(loader, *rest, **options):
                yield hear(loader, batch)

        return spy

    load = Loader.load
    monkeypatch.setattr(Loader, "load", lambda loader, rows: hear(loader, load(loader, rows)))
    monkeypatch.setattr(Loader, "epoch", batches(Loader.epoch))
    monkeypatch.setattr(Loader, "sequential", batches(Loader.sequential))

    def choosing(calibration: Any, *rest: Any) -> Any:
        told.append(("ranges chosen", 0))
        return types(calibration, *rest)

    def saving(*rest: Any) -> None:
        told.append(("saved", 0))
        save(*rest)

    monkeypatch.setattr(prune_quantise.Calibration, "types", choosing)
    monkeypatch.setattr(prune_quantise, "save_network", saving)
    compress(trained, tmp_path, calibration_events=70)

    stages = [
        (what, sum(rows for _, rows in group)) for what, group in itertools.groupby(told, lambda one: one[0])
    ]
    round_of_pruning = [("train", 400), ("validation", 150), ("test", 200)]
    epoch_in_fixed_point = [("train", 400), ("validation", 150)]
    assert stages == [
        ("test", 200), *round_of_pruning, *round_of_pruning,
        ("train", 70), ("ranges chosen", 0), ("validation", 150), *epoch_in_fixed_point, *epoch_in_fixed_point,
        ("test", 200), ("train", 70 + 1), ("saved", 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("learning_rate", "kept"), [(3.0, "epoch 0"), (0.01, "a trained epoch")], ids=["ruinous", "useful"]
)
def test_the_epoch_with_the_lowest_validation_loss_is_kept(
    trained: RunDirectory, tmp_path: Path, learning_rate: float, kept: str
) -> None:
    optimizer = {**ADAM, "learning_rate": learning_rate}
    run = compress(
        trained, tmp_path, weight_bits=4, activation_bits=3, quantised_epochs=3, quantised_optimizer=optimizer
    )
    lines = [line for line in read_metrics(run.metrics_path) if line["step"] == "compress"]
    first = next(i for i, line in enumerate(lines) if line["event"] == "quantised")
    losses = [line["loss"] for line in lines[first:]]
    assert len(losses) == 4
    assert (np.argmin(losses) == 0) == (kept == "epoch 0")
    session = Retraining(
        load_task(run), run, Tracker("check", tmp_path / "metrics", tmp_path / "progress"), SingleCommunicator(),
        global_batch_size=20, first_epoch=0, epochs=1,
    )  # fmt: skip
    assert session.validate(load_compressed(run))["loss"] == pytest.approx(min(losses), rel=1e-6)


def test_the_l1_term_makes_weights_smaller(trained: RunDirectory, tmp_path: Path) -> None:
    sizes = {}
    for l1 in (0.0, 0.01):
        run = compress(
            trained, tmp_path / str(l1), pruning={"sparsities": (0.2,), "l1": l1}, pruning_optimizer=ADAM,
            quantised_epochs=0,
        )  # fmt: skip
        with np.load(run.compressed / "weights.npz") as weights:
            sizes[l1] = sum(float(np.abs(weights[name]).sum()) for name in weights if "pruned/" in name)
    assert sizes[0.01] < 0.9 * sizes[0.0]
