"""The picture of a scaling curve: efficiency, because a speed-up on its own flatters."""

from collections.abc import Sequence
from pathlib import Path

from hpctrain.report.style import house_style, new_figure, write_png
from hpctrain.scaling.curve import Row


def draw(rows: Sequence[Row], path: Path, *, title: str) -> Path:
    """Throughput beside the ideal and efficiency with errors, as PNG; returns ``path``."""
    ranks = [row.ranks for row in rows]
    with house_style():
        figure = new_figure(8.0, 3.2)
        left, right = figure.subplots(1, 2)
        rate = [row.samples_per_second for row in rows]
        left.plot(ranks, rate, "o-", label="measured")
        left.plot(ranks, [rate[0] * r / ranks[0] for r in ranks], "--", color="0.5", label="ideal")
        left.set(xlabel="ranks", ylabel="samples per second", xscale="log", yscale="log")
        left.legend()
        right.errorbar(ranks, [r.efficiency for r in rows], [r.efficiency_error for r in rows], fmt="o-")
        right.axhline(1.0, ls="--", color="0.5")
        right.set(xlabel="ranks", ylabel=f"efficiency (reference: {ranks[0]})", xscale="log", ylim=(0, 1.2))
        for axes in (left, right):
            axes.set_xticks(ranks, [str(r) for r in ranks], minor=False)
            axes.minorticks_off()
        figure.suptitle(title)
        write_png(figure, path)
    return path
