"""A sweep in one picture: a line a trial through all its parameters, and the objective against each of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpctrain.report.style import (
    BLUE,
    INK,
    MUTED,
    PAPER,
    VERMILION,
    house_style,
    new_figure,
    plain,
    write_png,
)
from hpctrain.sweep.directory import Sweep, Trial
from hpctrain.sweep.space import Choices, Range, label
from hpctrain.sweep.table import ranked, short_names, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 4
"""Slices beside one another."""
LONGEST_LABEL = 16
"""Characters of a choice in the picture."""
PALE = "#d5e3ee"


class Scale:
    """Where a value stands on the axis of its key, from 0 to 1."""

    def __init__(self, axis: Choices | Range) -> None:
        self.axis = axis
        self._places = {label(v): i for i, v in enumerate(axis.choices)} if isinstance(axis, Choices) else {}

    def place(self, value: Any) -> float:
        """0 to 1; the middle of its share for a choice."""
        if isinstance(self.axis, Choices):
            return (self._places[label(value)] + 0.5) / len(self._places)
        low, high, at = self.axis.low, self.axis.high, float(value)
        if self.axis.log:
            low, high, at = np.log(low), np.log(high), np.log(at)
        return float((at - low) / (high - low))

    def ticks(self, most: int = 12) -> list[tuple[float, str]]:
        """Places with their labels, at most so many of a range."""
        from matplotlib.ticker import LogLocator, MaxNLocator

        if isinstance(self.axis, Choices):
            return [(self.place(value), _short(shown(value))) for value in self.axis.choices]
        low, high = self.axis.low, self.axis.high
        if self.axis.log:
            found = _inside(LogLocator(subs=(1.0, 2.0, 5.0)).tick_values(low, high), low, high)
            if len(found) > most:
                found = _inside(LogLocator(numticks=most).tick_values(low, high), low, high)
        else:
            found = _inside(
                MaxNLocator(min(5, most), integer=self.axis.int).tick_values(low, high), low, high
            )
        return [(self.place(v), f"{v:g}") for v in found]


def draw(sweep: Sweep, trials: Sequence[Trial]) -> bytes | None:
    """Write ``sweep.png`` and return it; None when no trial is done."""
    best = ranked(trials, sweep.config.objective.direction)
    if not best:
        return None
    failed = [trial for trial in trials if trial.state == "failed"]
    keys = list(sweep.config.parameters)
    rows = -(-len(keys) // COLUMNS)
    width = max(7.5, min(2.0 * (len(keys) + 1), 16.0))
    ends = reach([_value(trial) for trial in best])
    with house_style():
        figure = new_figure(width, 3.9 + 2.3 * rows)
        upper: Any
        lower: Any
        upper, lower = figure.subfigures(2, 1, height_ratios=[3.9, 2.3 * rows])  # type: ignore[misc]
        _parallel(upper.subplots(), sweep, best, ends)
        axes = lower.subplots(rows, min(COLUMNS, len(keys)), sharey=True, squeeze=False)
        for number, axis in enumerate(axes.flat):
            if number < len(keys):
                _slice(axis, sweep, keys[number], best, failed, ends)
            else:
                axis.set_visible(False)
        if failed:
            axes.flat[0].legend(loc="lower left", fontsize=8, handletextpad=0.2, bbox_to_anchor=(0, 0.05))
        lower.supylabel(plain(sweep.config.objective.short), fontsize=9.5)
        return write_png(figure, sweep.path / "sweep.png")


def reach(values: Sequence[float]) -> tuple[float, float]:
    """Worst and best end of the axis of the objective, for values with the best first.

    The worst quarter does not press all others together: what lies far beyond is drawn at the worst end.
    """
    best, worst, quarter = values[0], values[-1], values[3 * (len(values) - 1) // 4]
    if abs(worst - best) > 4 * abs(quarter - best) > 0:
        worst = best + 1.3 * (quarter - best)
    margin = 0.06 * (best - worst) or 0.01 * abs(best) or 1.0
    return worst - margin, best + margin


def _parallel(axes: Axes, sweep: Sweep, best: Sequence[Trial], ends: tuple[float, float]) -> None:
    """One line a trial: the better its rank, the darker; the best one stands out."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import MaxNLocator

    keys = list(sweep.config.parameters)
    names = short_names(keys)
    scales = [Scale(sweep.config.parameters[key]) for key in keys]
    worst, top = ends  # the best is at the top, whether high or low
    heights = np.clip([(_value(trial) - worst) / (top - worst) for trial in best], 0, 1)
    shades = LinearSegmentedColormap.from_list("rank", [PALE, BLUE])
    for rank in reversed(range(len(best))):
        places = [s.place(best[rank].parameters[key]) for s, key in zip(scales, keys, strict=True)]
        colour = VERMILION if rank == 0 else shades(1 - rank / max(1, len(best) - 1))
        axes.plot(
            range(len(keys) + 1), [*places, heights[rank]], color=colour, lw=2.6 if rank == 0 else 1.3,
            marker="o", ms=4.5 if rank == 0 else 2.5,
        )  # fmt: skip
    halo = [withStroke(linewidth=3, foreground="white")]
    found = _inside(MaxNLocator(5).tick_values(*sorted(ends)), *sorted(ends))
    objective = [((v - worst) / (top - worst), f"{v:g}") for v in found]
    for x, ticks in enumerate([*(scale.ticks() for scale in scales), objective]):
        axes.axvline(x, color=MUTED, lw=0.9, zorder=0.5)
        last = x == len(keys)
        for place, text in ticks:
            axes.plot([x - 0.015, x + 0.015], [place, place], color=MUTED, lw=0.9)
            axes.text(
                x + (0.035 if last else -0.035), place, plain(text), ha="left" if last else "right",
                va="center", fontsize=8.5, color=INK, path_effects=halo, zorder=5,
            )  # fmt: skip
    axes.set_xticks(range(len(keys) + 1), [*map(plain, names.values()), plain(sweep.config.objective.short)])
    axes.xaxis.set_ticks_position("top")
    axes.tick_params(length=0, labelsize=9.5)
    axes.get_xticklabels()[-1].set_fontweight("bold")
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set(xlim=(-0.45, len(keys) + 0.45), ylim=(-0.04, 1.04))
    kind = "highest" if sweep.config.objective.direction == "maximise" else "lowest"
    beyond = int((heights == 0).sum())
    foot = f" ({beyond} beyond the foot of the axis)" if beyond else ""
    axes.set_title(
        plain(f"{sweep.config.name}: {len(best)} trials, the darker the better{foot}; {kind} (orange): {best[0].number:04d} with ")
        + shown(best[0].value, 5), pad=14, fontsize=9.5,
    )  # fmt: skip


def _slice(
    axes: Axes,
    sweep: Sweep,
    key: str,
    best: Sequence[Trial],
    failed: Sequence[Trial],
    ends: tuple[float, float],
) -> None:
    """The objective against one parameter; at the foot, triangles for what lies beyond and crosses for failures."""
    scale = Scale(sweep.config.parameters[key])
    worst, top = ends
    heights = [(_value(trial) - worst) / (top - worst) for trial in best]
    places = [scale.place(trial.parameters[key]) for trial in best]
    seen = [(x, _value(t)) for x, t, h in zip(places, best, heights, strict=True) if h >= 0]
    beyond = [x for x, h in zip(places, heights, strict=True) if h < 0]
    foot = axes.get_xaxis_transform()
    axes.scatter(
        [x for x, _ in seen[1:]], [y for _, y in seen[1:]], s=20, color=BLUE, edgecolor=PAPER, lw=0.5
    )
    axes.plot(beyond, [0.03] * len(beyond), "v", color=BLUE, ms=5, transform=foot)
    axes.scatter(*seen[0], s=42, color=VERMILION, zorder=3)
    axes.plot(
        [scale.place(trial.parameters[key]) for trial in failed], [0.03] * len(failed), "x",
        color=MUTED, ms=6, transform=foot, label=f"{len(failed)} failed",
    )  # fmt: skip
    ticks = scale.ticks(most=5)
    axes.set_xticks([place for place, _ in ticks], [plain(text) for _, text in ticks])
    if sum(len(text) for _, text in ticks) > 28:
        axes.tick_params(axis="x", rotation=20)
    axes.set(xlim=(-0.06, 1.06), ylim=ends, xlabel=plain(short_names(sweep.config.parameters)[key]))


def _inside(values: Iterable[float], low: float, high: float) -> list[float]:
    return [v for v in values if low - 1e-9 * abs(low) <= v <= high + 1e-9 * abs(high)]


def _value(trial: Trial) -> float:
    """Of a trial that is done."""
    return math.nan if trial.value is None else trial.value


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"
