"""ROC curves with their error bands and score distributions, from the arrays that evaluation wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpctrain.report.style import (
    BACKGROUND,
    INK,
    MODEL_NAMES,
    MUTED,
    SIGNAL,
    model_colour,
    new_figure,
    plain,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Arrays = Mapping[str, NDArray[Any]]
FEW = 10.0
"""Effective background events below which a curve is drawn dashed and its band pale."""
KINDS = {"unweighted": "Every event counts once", "weighted": "Weighted to expected events"}


def models_of(curves: Arrays) -> list[str]:
    """Models whose curves are there, in the order written."""
    return list(dict.fromkeys(name.split("/")[0] for name in curves if "/" in name))


def roc_figure(curves: Arrays, selection: Mapping[str, Any] | None) -> Figure:
    """Unweighted and weighted ROC curves side by side, with 68 % bands and the benchmark selection.

    ``curves`` holds ``fpr`` and ``MODEL/KIND/{tpr,low,high,n_eff}``, ``selection`` the rates of the
    selection as in results.json.
    """
    figure = new_figure(9.2, 4.6)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (kind, title) in zip(axes, KINDS.items(), strict=True):
        lowest = _lowest_fpr(curves, kind)
        for number, model in enumerate(models_of(curves)):
            _draw_curve(axis, curves, model, kind, number)
        if selection is not None:
            lowest = min(lowest, _draw_selection(axis, selection[kind]))
        axis.set(xscale="log", xlim=(lowest, 1), ylim=(0, 1.02), title=title)
        axis.set_xlabel("false-positive rate (background that passes)")
        axis.grid(visible=True, which="minor", alpha=0.35)
    axes[0].set_ylabel("true-positive rate (signal that passes)")
    axes[0].plot([], [], color=MUTED, ls=(0, (3, 2)), label="fewer than 10 effective background events")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def score_figure(scores: Arrays, models: list[str], split: str = "test") -> Figure:
    """Distribution of each model's score for both classes, normalised, with statistical errors.

    ``scores`` is ``SPLIT/{label,score_MODEL}``; events are counted once each.
    """
    figure = new_figure(9.2, 3.7)
    axes = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    label = scores[f"{split}/label"].astype(bool)
    for axis, model in zip(axes, models, strict=True):
        score = scores[f"{split}/score_{model}"]
        for members, name, colour in ((label, "signal", SIGNAL), (~label, "background", BACKGROUND)):
            _draw_histogram(axis, score[members], colour, f"{name} ({int(members.sum())} events)")
        axis.set(yscale="log", xlim=(0, 1), xlabel="score", title=plain(MODEL_NAMES.get(model, model)))
    axes[0].set_ylabel("fraction of class per bin")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _lowest_fpr(curves: Arrays, kind: str) -> float:
    """Where the plot begins: below the first background event of any model, yet not decades below what n_eff bears."""
    lowest = 1.0
    for model in models_of(curves):
        n_eff = curves[f"{model}/{kind}/n_eff"]
        if (n_eff > 0).any():
            first = float(curves["fpr"][n_eff > 0][0]) / 2
            lowest = min(lowest, max(first, 0.02 / float(n_eff[-1])))
    return lowest if lowest < 1 else 1e-3


def _draw_curve(axis: Axes, curves: Arrays, model: str, kind: str, number: int) -> None:
    fpr, colour = curves["fpr"], model_colour(model, number)
    part = {name: curves[f"{model}/{kind}/{name}"] for name in ("tpr", "low", "high", "n_eff")}
    # The curve is solid from the last point on that rests on too few events.
    few = np.flatnonzero(part["n_eff"] < FEW)
    begin = int(few[-1]) + 1 if few.size else 0
    name = plain(MODEL_NAMES.get(model, model))
    axis.plot(fpr[begin:], part["tpr"][begin:], color=colour, label=name)
    axis.plot(fpr[: begin + 1], part["tpr"][: begin + 1], color=colour, ls=(0, (3, 2)), lw=1.1)
    for piece, alpha in ((slice(begin, None), 0.24), (slice(begin + 1), 0.09)):
        axis.fill_between(
            fpr[piece], part["low"][piece], part["high"][piece], color=colour, alpha=alpha, lw=0
        )


def _draw_selection(axis: Axes, rates: Mapping[str, Any]) -> float:
    """Mark the selection with its errors; returns an FPR below it for the axis to begin at."""
    tpr, fpr = rates["tpr"], rates["fpr"]
    if not fpr["value"]:
        return 1.0
    axis.errorbar(
        fpr["value"],
        tpr["value"],
        xerr=_arms(fpr),
        yerr=_arms(tpr),
        fmt="D",
        ms=5,
        color=INK,
        elinewidth=1.1,
        label=MODEL_NAMES["selection"],
        zorder=5,
    )
    return max(float(fpr["value"]) / 3, 1e-6)


def _arms(figure: Mapping[str, Any]) -> list[list[float]]:
    """Asymmetric errors of a figure, as matplotlib wants them."""
    value = figure["value"]
    return [[max(0.0, value - figure["low"])], [max(0.0, figure["high"] - value)]]


def _draw_histogram(axis: Axes, score: NDArray[Any], colour: str, name: str) -> None:
    edges = np.linspace(0, 1, 26)
    counts, _ = np.histogram(score, edges)
    total = max(counts.sum(), 1)
    axis.stairs(counts / total, edges, color=colour, fill=True, alpha=0.2)
    axis.stairs(counts / total, edges, color=colour, lw=1.5, label=name)
    seen = counts > 0
    middle = (edges[:-1] + edges[1:]) / 2
    axis.errorbar(
        middle[seen],
        counts[seen] / total,
        yerr=np.sqrt(counts[seen]) / total,
        fmt="none",
        ecolor=colour,
        lw=1,
    )
