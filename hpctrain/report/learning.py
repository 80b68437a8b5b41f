"""Loss curves: what the metrics of the training step say, with restarts taken out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hpctrain.report.style import BLUE, MUTED, VERMILION, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class History:
    """Training as it counts: where a run was resumed or done again, the later lines replace the earlier."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    """``global_step``, ``samples_seen``, ``loss`` of each update."""
    epochs: list[dict[str, Any]] = field(default_factory=list)
    """``epoch``, ``train_loss``, ``validation_loss``, ``validation_auc``, ``seconds``, ``samples_per_second``."""

    monitor: str = "auc"
    """What the best checkpoint is chosen by: the highest ``auc`` or the lowest ``loss`` of the validation split."""
    best_epoch: int | None = None
    """The epoch of the best checkpoint as the finished training recorded it."""

    def __bool__(self) -> bool:
        return bool(self.steps or self.epochs)

    @property
    def best(self) -> dict[str, Any] | None:
        """The epoch of the best checkpoint: the recorded one, else the best so far by ``monitor``."""
        for epoch in self.epochs:
            if epoch["epoch"] == self.best_epoch:
                return epoch
        with_auc = [epoch for epoch in self.epochs if epoch.get("validation_auc") is not None]
        if with_auc and self.monitor != "loss":
            return max(with_auc, key=lambda epoch: float(epoch["validation_auc"]))
        with_loss = [epoch for epoch in self.epochs if epoch.get("validation_loss") is not None]
        return min(with_loss, key=lambda epoch: float(epoch["validation_loss"])) if with_loss else None


def history(
    lines: Iterable[Mapping[str, Any]], *, monitor: str = "auc", best_epoch: int | None = None
) -> History:
    """The training step's lines of ``metrics.jsonl``, each update and each epoch once."""
    found = History(monitor=monitor, best_epoch=best_epoch)
    for line in lines:
        if line.get("step") != "train":
            continue
        if line.get("event") == "step":
            _rewind(found.steps, "global_step", line["global_step"])
            _rewind(found.epochs, "epoch", line["epoch"])
            found.steps.append(dict(line))
        elif line.get("event") == "epoch":
            _rewind(found.epochs, "epoch", line["epoch"])
            found.epochs.append(dict(line))
    return found


def loss_curves(found: History, samples_per_epoch: int) -> Figure:
    """Loss by update and by epoch, and the validation AUC by epoch."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure = new_figure(9.2, 3.6)
    with_auc = [e for e in found.epochs if e.get("validation_auc") is not None]
    left, *right = figure.subplots(1, 2 if with_auc else 1, squeeze=False)[0]
    position = [step["samples_seen"] for step in found.steps]
    if position:
        left.plot(
            np.array(position) / samples_per_epoch,
            [step["loss"] for step in found.steps],
            color=MUTED,
            lw=0.6,
            alpha=0.55,
            label="training, each update",
        )
    ends = [epoch["epoch"] + 1 for epoch in found.epochs]
    for key, name, colour, marker in (
        ("train_loss", "training, epoch mean", BLUE, "o"),
        ("validation_loss", "validation", VERMILION, "s"),
    ):
        values = [epoch.get(key) for epoch in found.epochs]
        if any(value is not None for value in values):
            left.plot(ends, values, color=colour, marker=marker, ms=4, label=name)
    left.set(xlabel="epoch", ylabel="weighted cross-entropy", title="Loss")
    losses = [step["loss"] for step in found.steps if step["loss"]]
    if losses and min(losses) > 0 and max(losses) > 10 * min(losses):
        left.set_yscale("log")
        left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    left.legend()
    for axis in right:
        values = [e["validation_auc"] for e in with_auc]
        axis.plot([e["epoch"] + 1 for e in with_auc], values, color=VERMILION, marker="s", ms=4)
        best = found.best
        if best is not None and best.get("validation_auc") is not None:
            axis.plot(best["epoch"] + 1, best["validation_auc"], "o", ms=11, mfc="none", mec=BLUE, mew=1.6)
            axis.annotate(
                "best checkpoint",
                (best["epoch"] + 1, best["validation_auc"]),
                (0, -22),
                textcoords="offset points",
                color=BLUE,
                ha="right" if best["epoch"] + 1 > len(with_auc) / 2 else "left",
                fontsize=9,
            )
        axis.set(xlabel="epoch", ylabel="unweighted AUC", title="Validation AUC")
        axis.margins(y=0.15)
    for axis in (left, *right):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _rewind(lines: list[dict[str, Any]], key: str, value: int) -> None:
    while lines and lines[-1][key] >= value:
        lines.pop()
