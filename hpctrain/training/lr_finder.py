"""The learning rate from a short trial: it rises step by step until the loss explodes (Smith 2017, arXiv:1506.01186)."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hpctrain import machine
from hpctrain.data.batches import Batch
from hpctrain.errors import UserError
from hpctrain.files import write_json
from hpctrain.parallel.communicator import SingleCommunicator
from hpctrain.report.style import BLUE, MUTED, VERMILION, house_style, new_figure, plain, write_png
from hpctrain.run import RunDirectory
from hpctrain.training.position import seed_generators
from hpctrain.training.session import Session
from hpctrain.training.trainer import NotFinite

SMOOTHING = 0.9
EXPLODED = 4.0
"""Times the least loss so far: the trial ends."""


@dataclass(frozen=True)
class Trial:
    """Learning rates tried, and the smoothed loss at each."""

    rates: list[float]
    losses: list[float]

    @property
    def steepest(self) -> float:
        """Where the loss falls fastest in the logarithm of the rate."""
        # The first losses are of few batches: what they do says little.
        skipped = min(5, len(self.losses) // 10)
        lowest = int(np.argmin(self.losses))
        slopes = np.gradient(self.losses, np.log(self.rates))
        return self.rates[skipped + int(np.argmin(slopes[skipped : max(lowest, skipped) + 1]))]

    @property
    def at_lowest(self) -> float:
        """Where the loss was least: from here on it is too high."""
        return self.rates[int(np.argmin(self.losses))]

    @property
    def suggested(self) -> float:
        """Where the loss falls fastest, but at most a tenth of where it is least: a trial is too short to show the harm
        of a rate that is a little too high."""
        return min(self.steepest, self.at_lowest / 10)


def find(run: RunDirectory, *, low: float = 1e-6, high: float = 10.0, steps: int = 200) -> Trial:
    """Train the run's network anew on one rank, for at most ``steps`` steps, from ``low`` to ``high``; nothing of the
    run changes but ``lr_finder.json`` and ``lr_finder.png``, which are written.

    Raises ``UserError`` when the loss never falls.
    """
    if not 0 < low < high or steps < 20:
        raise UserError("the learning rates must be 0 < low < high, with at least 20 steps between them")
    torch.set_num_threads(machine.cores())
    tracker = run.tracker("lr-find", active=False)
    config: Any = run.experiment.training
    session = Session(config, run, tracker, SingleCommunicator())
    rates = np.geomspace(low, high, steps).tolist()
    own: float = config.optimizer.learning_rate
    session.trainer.factor = lambda step: rates[step] / own
    trial = Trial([], [])
    average = 0.0
    session.task.model.train()
    for step, batch in enumerate(itertools.islice(_batches(session), steps)):
        seed_generators(session.seed, step, 0)
        try:
            results = session.trainer.step(batch)
        except NotFinite:
            break
        loss = sum(results[phase.name] for phase in session.trainer.phases)
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smooth = average / (1 - SMOOTHING ** (step + 1))
        if not math.isfinite(smooth) or (trial.losses and smooth > EXPLODED * min(trial.losses)):
            break
        trial.rates.append(rates[step])
        trial.losses.append(smooth)
    if len(trial.losses) < 10 or trial.losses.index(min(trial.losses)) < 2:
        raise UserError(
            f"the loss rises from the first step on, at a learning rate of {low:g}",
            hint="Give a smaller --low",
        )
    _write(run, trial)
    return trial


def _batches(session: Session) -> Iterator[Batch]:
    for epoch in itertools.count():
        session.task.start_epoch(epoch)
        yield from session.train.epoch(session.order, epoch)


def _write(run: RunDirectory, trial: Trial) -> None:
    figures = {"suggested": trial.suggested, "steepest": trial.steepest, "lowest": trial.at_lowest}
    write_json(
        run.path / "lr_finder.json", {**figures, "learning_rates": trial.rates, "losses": trial.losses}
    )
    with house_style():
        figure = new_figure(6.4, 3.8)
        axes = figure.subplots()
        axes.plot(trial.rates, trial.losses, color=BLUE)
        axes.set(xscale="log", xlabel="learning rate", ylabel="training loss (smoothed)")
        axes.set_title(f"{plain(run.experiment.name)}: learning-rate trial, {len(trial.rates)} steps")
        for rate, name, colour in (
            (trial.suggested, "suggested", VERMILION),
            (trial.at_lowest, "loss is least at", MUTED),
        ):
            axes.axvline(rate, color=colour, linestyle="--", linewidth=1.2, label=f"{name} {rate:.2g}")
        axes.legend()
        write_png(figure, run.path / "lr_finder.png")
