"""Event displays and mean images: the detector unrolled, η across and φ up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpctrain.data.columns import SparseRows
from hpctrain.data.schema import SparseField
from hpctrain.data.shards import ShardDataset
from hpctrain.report.style import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHANNELS = ("ECAL [GeV]", "HCAL [GeV]", "tracks")
"""Names of the channels of whole-detector images; data with another number of channels count theirs."""
MOST_CHANNELS = 4
"""Panels of a row; further channels are not drawn."""
ETA_MAX = 2.5
JET_RADIUS = 1.0
MOST_EVENTS = 20_000
"""Events of a mean image; more change nothing that an eye could see."""

NIGHT = "#0d1420"
"""Background of the panels, in a light page and a dark one: an empty cell is dark."""


@dataclass(frozen=True)
class Event:
    """One event to draw: ``image`` (channels, η, φ), ``jets`` (5, 4) with pT, η, φ, m, zero padded."""

    image: NDArray[Any]
    jets: NDArray[Any]
    n_jets: int
    sum_mass: float
    event_id: int
    selected: bool


def can_average(dataset: ShardDataset) -> bool:
    """Whether the dataset holds labelled sparse images, (channels, η, φ)."""
    image = dataset.fields.get("image")
    sparse = isinstance(image, SparseField) and len(image.shape) == 3
    return sparse and "label" in dataset.fields


def can_display(dataset: ShardDataset) -> bool:
    """Whether its events have what a display shows."""
    needed = {"jets", "n_jets", "sum_mass", "event_id", "selected"}
    return can_average(dataset) and needed <= set(dataset.fields)


@dataclass(frozen=True)
class Look:
    """How the field ``image`` of a dataset is drawn."""

    names: tuple[str, ...]
    """Of the channels that are drawn."""
    unrolled: bool
    """η and φ of the whole detector; else cells are counted."""


def look_of(provenance: Mapping[str, Any], channels: int) -> Look:
    """What the provenance says of its images (``image_channels``, ``image_axes``); ours where it says nothing."""
    said = provenance.get("image_channels")
    usual = "detector" if channels == len(CHANNELS) and not said else "cells"
    detector = provenance.get("image_axes", usual) == "detector"
    names = channel_names(channels) if detector else [f"channel {n + 1}" for n in range(channels)]
    if isinstance(said, list) and len(said) >= channels:
        names = [str(name) for name in said[:channels]]
    return Look(tuple(names[:MOST_CHANNELS]), detector)


def channel_names(channels: int) -> list[str]:
    """Names of the channels that are drawn of an image with so many."""
    names = CHANNELS if channels == len(CHANNELS) else [f"channel {n + 1}" for n in range(channels)]
    return list(names[:MOST_CHANNELS])


def typical_event(dataset: ShardDataset, label: int) -> Event | None:
    """The event whose ΣM is the median of its class: no cherry-picking. None when the class is empty."""
    masses, labels = dataset.column("sum_mass"), dataset.column("label")
    rows = np.flatnonzero(labels == label)
    if not rows.size:
        return None
    row = rows[np.argsort(masses[rows], kind="stable")[rows.size // 2]]
    columns: dict[str, Any] = dataset.read(np.array([row]))
    return Event(
        image=columns["image"].dense(dataset.fields["image"].shape)[0],
        jets=columns["jets"][0],
        n_jets=int(columns["n_jets"][0]),
        sum_mass=float(columns["sum_mass"][0]),
        event_id=int(columns["event_id"][0]),
        selected=bool(columns["selected"][0]),
    )


def mean_image(dataset: ShardDataset, label: int) -> tuple[NDArray[np.float64], int]:
    """Mean image (channels, η, φ) of a class, every event counted once, and the number of events in it."""
    rows = np.flatnonzero(dataset.column("label") == label)[:MOST_EVENTS]
    shape = dataset.fields["image"].shape
    total = np.zeros(int(np.prod(shape)))
    for start in range(0, rows.size, 2048):
        images: Any = dataset.read(rows[start : start + 2048], ["image"])["image"]
        total += _cell_sums(images, total.size)
    return total.reshape(shape) / max(rows.size, 1), int(rows.size)


def event_display(event: Event) -> Figure:
    """One panel a channel, with the fat jets as circles of R = 1."""
    names = channel_names(len(event.image))
    figure = new_figure(row_width(len(names)), 3.7)
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for number, axis in enumerate(axes):
        tracks = names[number] == CHANNELS[-1]
        image_panel(axis, event.image[number], names[number], log=not tracks, label=number == 0)
        for jet in event.jets[event.jets[:, 0] > 0]:
            draw_jet(axis, jet, text=number == 0)
    return figure


def mean_images(signal: NDArray[np.float64], background: NDArray[np.float64], look: Look) -> Figure:
    """Mean images (channels, η, φ) of both classes, signal above, with one colour scale for each channel."""
    names = look.names
    figure = new_figure(row_width(len(names)), 7.0)
    axes = figure.subplots(2, len(names), sharex=True, sharey=True, squeeze=False)
    for row, (name, image) in enumerate((("Signal", signal), ("Background", background))):
        for column, channel in enumerate(names):
            both = np.stack([signal[column], background[column]])
            image_panel(
                axes[row, column],
                image[column],
                f"{name}: {channel}",
                log=True,
                label=column == 0,
                limits=_limits(both),
                last=row == 1,
                unrolled=look.unrolled,
            )
    return figure


def row_width(panels: int) -> float:
    """Inches of a row of panels."""
    return 9.2 if panels >= 3 else 1.0 + 3.0 * panels


def image_panel(
    axis: Axes,
    values: NDArray[Any],
    title: str,
    *,
    log: bool,
    label: bool,
    limits: tuple[float, float] | None = None,
    last: bool = True,
    unrolled: bool = True,
) -> None:
    """One image (across, up) in logarithmic colours; ``unrolled`` is the detector, else cells are counted.

    ``label`` names the vertical axis, ``last`` the horizontal one. ``limits``: smallest and largest colour.
    """
    import matplotlib as mpl
    from matplotlib.colors import ListedColormap, LogNorm, Normalize

    low, high = limits or _limits(values)
    norm = LogNorm(low, high) if log else Normalize(0, max(high, 1))
    # The darkest fifth of the map would drown in the background of the panel.
    shades = mpl.colormaps["inferno"](np.linspace(0.22, 1.0, 256))
    colours = ListedColormap(shades).with_extremes(bad=NIGHT, under=NIGHT)
    axis.set_facecolor(NIGHT)
    picture = axis.imshow(
        np.ma.masked_less_equal(values.T, 0),
        origin="lower",
        extent=(-ETA_MAX, ETA_MAX, -np.pi, np.pi) if unrolled else (0, values.shape[0], 0, values.shape[1]),
        aspect="equal" if unrolled or max(values.shape) < 3 * min(values.shape) else "auto",
        norm=norm,
        cmap=colours,
        interpolation="nearest",
    )
    _colour_bar(axis, picture, decades=log and high / low > 10, counts=not log)
    axis.set_title(title)
    if unrolled:
        unroll(axis, ETA_MAX)
    axis.grid(visible=False)
    if last:
        axis.set_xlabel("η" if unrolled else "cell")
    if label:
        axis.set_ylabel("φ" if unrolled else "cell")


def unroll(axis: Axes, eta_max: float) -> None:
    """Limits and ticks of the detector unrolled."""
    whole, step = int(eta_max), 1 if eta_max < 4 else 2
    axis.set(xlim=(-eta_max, eta_max), ylim=(-np.pi, np.pi))
    axis.set_xticks(range(-(whole // step * step), whole + 1, step))
    axis.set_yticks([-np.pi, -np.pi / 2, 0, np.pi / 2, np.pi], ["−π", "−π/2", "0", "π/2", "π"])


def _colour_bar(axis: Axes, picture: Any, *, decades: bool, counts: bool) -> None:
    """A bar exactly as high as the panel, with plain numbers; whole ones for counts."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    bar = axis.figure.colorbar(picture, cax=axis.inset_axes((1.03, 0, 0.045, 1)))
    bar.outline.set_visible(False)
    if counts:
        bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    plain_numbers = FuncFormatter(lambda value, _: f"{value:g}")
    bar.ax.yaxis.set_major_formatter(plain_numbers)
    bar.ax.yaxis.set_minor_formatter(NullFormatter() if decades else plain_numbers)
    bar.ax.tick_params(labelsize=8, length=2)


def draw_jet(axis: Axes, jet: NDArray[Any], *, text: bool, radius: float = JET_RADIUS) -> None:
    """A jet (pT, η, φ, m) as a circle, with pT and mass in it."""
    from matplotlib.patches import Circle
    from matplotlib.patheffects import withStroke

    pt, eta, phi, mass = (float(value) for value in jet)
    for turn in (-2 * np.pi, 0.0, 2 * np.pi):  # φ is periodic: a jet at the seam shows on both sides
        if abs(phi + turn) < np.pi + radius:
            axis.add_patch(Circle((eta, phi + turn), radius, fill=False, ec="#e8eef5", lw=1.0, alpha=0.9))
    if text:
        axis.text(
            eta,
            phi,
            f"{pt:.0f}\nm {mass:.0f}",
            color="white",
            fontsize=6.5,
            ha="center",
            va="center",
            clip_on=True,
            path_effects=[withStroke(linewidth=1.8, foreground=NIGHT)],
        )


def _limits(values: NDArray[Any]) -> tuple[float, float]:
    """Smallest and largest colour: three decades below the largest value at most."""
    positive = values[values > 0]
    if not positive.size:
        return 0.1, 1.0
    high = float(positive.max())
    return max(float(positive.min()), high * 1e-3) * 0.999, high


def _cell_sums(images: SparseRows, cells: int) -> NDArray[np.float64]:
    return np.asarray(np.bincount(images.indices, weights=images.values, minlength=cells), dtype=np.float64)
