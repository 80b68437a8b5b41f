"""Where the time of training went, epoch by epoch, and how near that comes to what the machine can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpctrain.report.style import AMBER, BLUE, GREEN, INK, MUTED, SKY, VERMILION, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = {
    "forward": ("forward", BLUE),
    "backward": ("backward", SKY),
    "optimiser": ("optimiser", GREEN),
    "communication": ("communication exposed", VERMILION),
    "data": ("waiting for data", AMBER),
    "other": ("other", MUTED),
}
"""Part, as metrics call it → name and colour, from the bottom of a bar: the work first, then what keeps from it."""


def with_parts(epochs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The epochs whose lines say where their time went."""
    return [epoch for epoch in epochs if all(epoch.get(f"seconds_{part}") is not None for part in PARTS)]


def shares(epochs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Fraction of the time of all these epochs that each part took, by the part's name in figures."""
    seconds = {name: sum(epoch[f"seconds_{part}"] for epoch in epochs) for part, (name, _) in PARTS.items()}
    total = sum(seconds.values())
    return {name: value / total if total else 0.0 for name, value in seconds.items()}


def time_figure(epochs: Sequence[Mapping[str, Any]]) -> Figure:
    """A bar an epoch, of its parts; beside it the MFU of each, where it was measured."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure = new_figure(9.2, 3.5)
    with_mfu = [epoch for epoch in epochs if epoch.get("mfu") is not None]
    left, *right = figure.subplots(1, 2 if with_mfu else 1, squeeze=False)[0]
    place = np.array([epoch["epoch"] + 1 for epoch in epochs])
    bottom = np.zeros(len(epochs))
    for part, (name, colour) in PARTS.items():
        height = np.array([epoch[f"seconds_{part}"] for epoch in epochs])
        left.bar(place, height, 0.8, bottom, color=colour, label=name, lw=0)
        bottom += height
    left.set(xlabel="epoch", ylabel="seconds, mean over ranks", title="Time")
    left.grid(visible=False, axis="x")
    for axis in right:
        axis.plot(
            [epoch["epoch"] + 1 for epoch in with_mfu], [epoch["mfu"] for epoch in with_mfu],
            color=INK, marker="o", ms=4,
        )  # fmt: skip
        axis.set(xlabel="epoch", title="MFU", ylim=(0, 1.15 * max(epoch["mfu"] for epoch in with_mfu)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    for axis in (left, *right):
        axis.set_xlim(place[0] - 0.6, place[-1] + 0.6)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure
