"""Measure how training goes faster with more ranks: the same run, really trained on each number of them."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from hpctrain.config import Experiment
from hpctrain.errors import UserError
from hpctrain.run import RunDirectory
from hpctrain.scaling.curve import Point
from hpctrain.track import read_metrics


def measure(
    run: RunDirectory,
    ranks: Sequence[int],
    scratch: Path,
    *,
    weak: bool = False,
    epochs: int = 3,
    repetitions: int = 3,
) -> list[Point]:
    """Train a copy of ``run`` on each number of ranks; its shards are read, nothing of it is changed.

    ``weak`` keeps the batch of a rank (the global batch grows with the ranks), otherwise the global batch stays.
    The first epoch warms up and is not counted; rounds go through all sizes in turn, so a drifting machine
    drifts for all. Raises ``UserError`` when a training fails.
    """
    rates: dict[int, list[float]] = {size: [] for size in ranks}
    for repetition in range(repetitions):
        for size in ranks:
            copy = _copy(run, scratch / f"{size}-ranks-{repetition}", size, weak=weak, epochs=epochs + 1)
            rates[size].extend(_train(copy))
    return [Point(size, tuple(values)) for size, values in rates.items()]


def _copy(run: RunDirectory, folder: Path, size: int, *, weak: bool, epochs: int) -> RunDirectory:
    settings = run.experiment.model_dump(mode="json")
    settings["launch"]["ranks"] = size
    settings["training"] |= {"epochs": epochs, "patience": None}
    if weak:
        settings["training"]["global_batch_size"] *= size
    settings |= {"name": folder.name, "output": str(folder.parent)}
    copy = RunDirectory.create(Experiment.from_mapping(settings, source=str(run.config_path)))
    copy.data.symlink_to(run.data.resolve(), target_is_directory=True)
    return copy


def _train(run: RunDirectory) -> Iterable[float]:
    log = run.logs / "train.log"
    job = run.experiment.launch.build().start(["worker", "train", str(run.path)], log, parallel=True)
    try:
        while (code := job.poll()) is None:
            time.sleep(0.1)
    except BaseException:
        job.stop()
        raise
    if code:
        raise UserError(f"training failed in {run.path}: {job.obituary()}", hint=f"See {log}")
    lines = [line for line in read_metrics(run.metrics_path) if line["event"] == "epoch"]
    return [line["samples_per_second"] for line in lines[1:]]
