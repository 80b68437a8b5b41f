"""Figures of compression: the weights of every layer before and after, and performance round by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpctrain.report.style import AMBER, BLUE, MUTED, VERMILION, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Arrays = Mapping[str, NDArray[Any]]
MOST_LAYERS = 8


def layers_of(weights: Arrays) -> list[str]:
    """Names of the layers that have weights ``before/NAME``, in order."""
    return [name.removeprefix("before/") for name in weights if name.startswith("before/")]


def weight_figure(weights: Arrays) -> Figure:
    """Histograms of the weights of every layer, before and after, zeros of the compressed ones left out."""
    layers = layers_of(weights)[:MOST_LAYERS]
    columns = min(len(layers), 4 if len(layers) in {4, 7, 8} else 3)
    rows = -(-len(layers) // columns)
    figure = new_figure(9.2, 2.6 * rows + 0.4)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, layer in zip(axes.ravel(), layers, strict=False):
        before = weights[f"before/{layer}"].ravel()
        after = weights.get(f"after/{layer}", before[:0]).ravel()
        reach = float(max(np.abs(before).max(), np.abs(after).max() if after.size else 0, 1e-12))
        edges = np.linspace(-reach, reach, 60)
        axis.stairs(np.histogram(before, edges)[0], edges, color=MUTED, fill=True, alpha=0.45, label="before")
        axis.stairs(
            np.histogram(after[after != 0], edges)[0],
            edges,
            color=VERMILION,
            lw=1.2,
            label="after, not zero",
        )
        kept = np.count_nonzero(after) / after.size if after.size else 0.0
        axis.set(yscale="symlog", ylim=(0, None), title=plain(layer), xlabel=f"weight ({kept:.0%} kept)")
    for axis in axes.ravel()[len(layers) :]:
        axis.set_axis_off()
    axes[0, 0].set_ylabel("weights per bin")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def pruning_figure(
    rounds: Sequence[Mapping[str, Any]], results: Mapping[str, Any], sparsity_after: float | None = None
) -> Figure:
    """AUC after each pruning round with its error, beside the network before and after all of it.

    ``sparsity_after`` is the fraction of weights that are zero in the end, with those that rounding
    brought there; None (an old record) puts the end above the last round.
    """
    figure = new_figure(6.4, 3.9)
    axis = figure.subplots()
    sparsity = [100 * entry["sparsity"] for entry in rounds]
    auc = [entry["auc"]["value"] for entry in rounds]
    error = [entry["auc"].get("error") or 0.0 for entry in rounds]
    axis.errorbar(
        sparsity, auc, yerr=error, fmt="o-", ms=5, color=BLUE, elinewidth=1.1, label="pruned, float"
    )
    last = sparsity[-1] if sparsity else 0.0
    end = last if sparsity_after is None else 100 * sparsity_after
    for key, name, colour, place, marker in (
        ("before", "before", MUTED, 0.0, "s"),
        ("after", "pruned and quantised", AMBER, end, "D"),
    ):
        entry = (results.get(key) or {}).get("auc")
        if entry and entry.get("value") is not None:
            axis.errorbar(
                place,
                entry["value"],
                yerr=entry.get("error") or 0.0,
                fmt=marker,
                ms=6,
                color=colour,
                label=name,
            )
    axis.set(xlabel="weights that are zero [%]", ylabel="unweighted AUC", title="Performance while pruning")
    figure.legend(loc="outside lower center", ncols=3)
    return figure
