"""Panels of an event display, one for each way of looking at what an event holds."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpctrain.data.schema import Fields
from hpctrain.report.displays import CHANNELS, NIGHT, draw_jet, image_panel, look_of, unroll
from hpctrain.report.style import AMBER, GREEN, MUTED, PURPLE, SKY, VERMILION, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Event = dict[str, NDArray[Any]]
"""Field → its values in one event: an array of the field's shape, or (items, *shape)."""

CLOUD_COLOURS = (AMBER, SKY, GREEN, PURPLE, VERMILION)
SIZES = ("pt", "et", "e", "energy", "pt_rel", "e_rel")
"""Features that a point's area can stand for, the first that there is."""
MOST_POINTS = 20_000
"""Points of a cloud that are drawn, the hardest."""
ETA_REACH = 6.0
"""Widest |η| of a panel of particles; how many lie beyond is told."""
TAIL = 5
"""Hits are drawn over what 98% of them span, when all of them span more than so many times that."""
UNCROWDED = 500
"""Points that have room beside one another; of more, each is drawn smaller."""
JET_LABELS = 6
"""Jets of an event that have their pT and mass written on them, the hardest."""


@dataclass(frozen=True)
class Panel:
    """One picture of one event."""

    title: str
    draw: Callable[[Axes, Event], None]
    height: float = 3.4
    """Inches, beside two or three others."""


@dataclass(frozen=True)
class Cloud:
    """A ragged field whose items have a place in the plane."""

    field: str
    x: int
    y: int
    size: int | None
    """Feature that the area of a point stands for."""
    size_name: str
    colour: str


def with_unit(name: str, provenance: Mapping[str, Any]) -> str:
    """A feature's or field's name with the unit that ``provenance["units"]`` gives it.

    >>> with_unit("pt", {"units": {"pt": "GeV"}}), with_unit("eta", {})
    ('pt [GeV]', 'eta')
    """
    units = provenance.get("units")
    return f"{name} [{units[name]}]" if isinstance(units, Mapping) and name in units else name


def plan(fields: Fields, provenance: dict[str, Any]) -> list[Panel]:
    """The panels that events of these fields have, most telling first."""
    jets = [name for name in fields if _is_jets(name, fields)]
    circles = [(name, radius_of(name, provenance)) for name in jets]
    images = list(_image_panels(fields, provenance, circles))
    return [
        *images,
        *_plane_panels(fields, circles, alone=not images),
        *_relative_panels(fields),
        *_volume_panels(fields),
        *_hit_panels(fields, provenance),
    ]


def radius_of(name: str, provenance: dict[str, Any]) -> float | None:
    """R of the jets in a field, where the provenance tells it in words (``anti-kT R=0.4``) or as a number."""
    for key in (name, "jets"):
        said = provenance.get(key)
        if isinstance(said, dict):
            said = said.get("radius", said.get("R"))
        if isinstance(said, int | float):
            return float(said)
        found = re.search(r"R ?= ?(\d+(?:\.\d+)?)", said) if isinstance(said, str) else None
        if found:
            return float(found[1])
    return None


def _is_jets(name: str, fields: Fields) -> bool:
    """Whether the field is a list of jets; (jets, 4) without names of features is pT, η, φ, m."""
    field = fields[name]
    if "jet" not in name.lower() or field.kind == "sparse":
        return False
    items = field.kind == "ragged" and len(field.shape) == 1
    table = field.kind == "dense" and len(field.shape) == 2
    plain_four = table and not field.features and field.shape[-1] == 4
    return (items or table) and (plain_four or {"pt", "eta", "phi"} <= set(field.features))


def _draw_jets(
    axis: Axes, event: Event, fields: Fields, circles: Sequence[tuple[str, float | None]], *, text: bool
) -> None:
    """Jets as circles of their radius; of one that nobody told, as rings that mark only where they are."""
    for name, radius in circles:
        features = fields[name].features or ("pt", "eta", "phi", "mass")
        mass = next((n for n, feature in enumerate(features) if feature in {"mass", "m"}), None)
        columns = [features.index(feature) for feature in ("pt", "eta", "phi")]
        jets = event[name][event[name][:, columns[0]] > 0]
        jets = jets[np.argsort(-jets[:, columns[0]], kind="stable")]
        four = np.column_stack([jets[:, columns], jets[:, mass] if mass is not None else np.zeros(len(jets))])
        if radius is not None:
            for number, jet in enumerate(four):
                draw_jet(axis, jet, text=text and number < JET_LABELS and mass is not None, radius=radius)
            continue
        axis.scatter(
            four[:, 1], four[:, 2], s=420 if "fat" in name else 170, facecolors="none", edgecolors="#e8eef5",
            linestyles="--" if "fat" in name else "-", linewidths=1.1, label=plain(f"{name} ({len(four)}), pT in GeV, R not known"),
        )  # fmt: skip
        for pt, eta, phi, _ in four[:JET_LABELS] if text else ():
            above = phi < -np.pi + 0.6  # below it there is no room
            axis.annotate(
                f"{pt:.0f}", (eta, phi), (0, 9 if above else -13), textcoords="offset points", color="white",
                fontsize=6.5, ha="center", annotation_clip=True,
            )  # fmt: skip


def _image_panels(
    fields: Fields, provenance: dict[str, Any], circles: Sequence[tuple[str, float | None]]
) -> Iterator[Panel]:
    """Each channel of (channels, across, up); one panel of (across, up)."""
    for name, field in fields.items():
        shape = field.shape
        if field.kind == "ragged" or not _is_image(shape):
            continue
        channels = shape[0] if len(shape) == 3 else 1
        look = look_of(provenance, channels)
        names = look.names if name == "image" and channels > 1 else None
        unrolled = name == "image" and look.unrolled
        for number in range(min(channels, 4)):
            title = names[number] if names else f"{name} {number + 1}" if channels > 1 else name

            def draw(
                axis: Axes, event: Event, name: str = name, number: int = number, unrolled: bool = unrolled,
                counts: bool = title == CHANNELS[-1],
            ) -> None:  # fmt: skip
                image = event[name] if event[name].ndim == 2 else event[name][number]
                image_panel(axis, image, "", log=not counts, label=number == 0, unrolled=unrolled)
                if unrolled:
                    _draw_jets(axis, event, fields, circles, text=number == 0)

            yield Panel(title, draw, 3.35 if unrolled else 2.8)


def _is_image(shape: tuple[int, ...]) -> bool:
    """(across, up), or (channels, across, up) with few channels; anything else with three axes is a volume."""
    if len(shape) == 2:
        return min(shape) >= 8
    return len(shape) == 3 and min(shape[1:]) >= 8 and 2 * shape[0] < min(shape[1:])


def _plane_panels(
    fields: Fields, circles: Sequence[tuple[str, float | None]], *, alone: bool
) -> Iterator[Panel]:
    """All clouds of the event in one (η, φ) plane, with the jets; as high as the images that it stands beside."""
    jets = {name for name, _ in circles}
    clouds = [cloud for cloud in _clouds(fields, ("eta",), ("phi",)) if cloud.field not in jets]
    clouds = [cloud for cloud in clouds if "eta_rel" not in fields[cloud.field].features]
    if not clouds and not (circles and "image" not in fields):
        return

    def draw(axis: Axes, event: Event) -> None:
        axis.set_facecolor(NIGHT)
        eta = [np.abs(event[cloud.field][:, cloud.x]) for cloud in clouds if len(event[cloud.field])]
        for name, _ in circles:
            features = fields[name].features or ("pt", "eta", "phi", "mass")
            jets_here = event[name][event[name][:, features.index("pt")] > 0]
            eta += [np.abs(jets_here[:, features.index("eta")]) + 0.3] if len(jets_here) else []
        farthest = max((float(values.max()) for values in eta), default=2.5)
        reach = min(ETA_REACH, max(2.5, math.ceil(2 * farthest) / 2))
        for cloud in clouds:
            _scatter(axis, event, cloud, ((-reach, reach), None))
        _draw_jets(axis, event, fields, circles, text=True)
        unroll(axis, reach)
        axis.set(xlabel="η", ylabel="φ", **({"aspect": "equal"} if alone else {"box_aspect": 2 * np.pi / 5}))
        axis.grid(visible=False)
        _legend(axis)

    names = sorted(jets) or [cloud.field for cloud in clouds]
    title = "particles and jets" if clouds and jets else ", ".join(names)
    yield Panel(title, draw, (3.3 if alone else 2.9) + 0.16 * (len(clouds) + len(jets)))


def _relative_panels(fields: Fields) -> Iterator[Panel]:
    """Constituents around the axis of their jet."""
    for cloud in _clouds(fields, ("eta_rel", "deta", "delta_eta"), ("phi_rel", "dphi", "delta_phi")):

        def draw(axis: Axes, event: Event, cloud: Cloud = cloud) -> None:
            axis.set_facecolor(NIGHT)
            _scatter(axis, event, cloud)
            points = np.abs(event[cloud.field][:, [cloud.x, cloud.y]])
            reach = max(0.1, 1.1 * float(points.max())) if points.size else 1.0
            axis.set(xlim=(-reach, reach), ylim=(-reach, reach), xlabel="Δη", ylabel="Δφ", aspect="equal")
            axis.grid(visible=False)
            _legend(axis)

        yield Panel(f"{cloud.field} around the axis", draw)


def _volume_panels(fields: Fields) -> Iterator[Panel]:
    """Energy in (x, y, z) summed along each axis in turn; z runs to the right."""
    for name, field in fields.items():
        if field.kind == "ragged" or len(field.shape) != 3 or _is_image(field.shape) or min(field.shape) < 2:
            continue
        for across, up, along in ((0, 1, 2), (2, 0, 1), (2, 1, 0)):

            def draw(
                axis: Axes, event: Event, name: str = name, across: int = across, up: int = up, along: int = along
            ) -> None:  # fmt: skip
                image = event[name].sum(axis=along)
                image_panel(
                    axis, image if across < up else image.T, "", log=True, label=False, unrolled=False
                )
                axis.set(xlabel=f"{'xyz'[across]} [cell]", ylabel=f"{'xyz'[up]} [cell]")

            yield Panel(f"{name}, sum along {'xyz'[along]}", draw, 2.8)


def _hit_panels(fields: Fields, provenance: dict[str, Any]) -> Iterator[Panel]:
    """Hits with x, y, z from two sides."""
    from matplotlib.ticker import MaxNLocator

    for x, y in (("x", "y"), ("z", "x")):
        for cloud in _clouds(fields, (x,), (y,)):

            def draw(axis: Axes, event: Event, cloud: Cloud = cloud, x: str = x, y: str = y) -> None:
                axis.set_facecolor(NIGHT)
                places = event[cloud.field][:, [cloud.x, cloud.y]]
                span = (_span(places[:, 0]), _span(places[:, 1]))
                _scatter(axis, event, cloud, span)
                axis.set(xlim=span[0], ylim=span[1])
                axis.set(xlabel=with_unit(x, provenance), ylabel=with_unit(y, provenance))
                for side in (axis.xaxis, axis.yaxis):
                    side.set_major_locator(MaxNLocator(4))
                axis.grid(visible=False)
                _legend(axis)

            yield Panel(f"{cloud.field}, {x} and {y}", draw)


def _span(values: NDArray[Any]) -> tuple[float, float] | None:
    """What to draw of an axis where a few values are so far out that they would press the rest into a point."""
    if len(values) < 2:
        return None
    low, high = (float(v) for v in np.quantile(values.astype(np.float64), [0.01, 0.99]))
    if float(np.ptp(values)) <= TAIL * (high - low) or low == high:
        return None
    return low - 0.1 * (high - low), high + 0.1 * (high - low)


def _clouds(fields: Fields, x: tuple[str, ...], y: tuple[str, ...]) -> list[Cloud]:
    """Ragged fields that have one of the features ``x`` and one of ``y``."""
    found: list[Cloud] = []
    for name, field in fields.items():
        if field.kind != "ragged" or len(field.shape) != 1:
            continue
        features = [feature.lower() for feature in field.features]
        places = [next((features.index(f) for f in names if f in features), None) for names in (x, y)]
        if places[0] is None or places[1] is None:
            continue
        size = next((features.index(feature) for feature in SIZES if feature in features), None)
        found.append(
            Cloud(
                name, places[0], places[1], size, features[size] if size is not None else "",
                CLOUD_COLOURS[len(found) % len(CLOUD_COLOURS)],
            )
        )  # fmt: skip
    return found


def _scatter(
    axis: Axes, event: Event, cloud: Cloud, spans: Sequence[tuple[float, float] | None] = (None, None)
) -> None:
    """Points whose area grows with their pT; the smallest stay visible. Those that are not drawn are counted."""
    items = event[cloud.field]
    beyond = np.zeros(len(items), dtype=bool)
    for column, span in zip((cloud.x, cloud.y), spans, strict=True):
        if span is not None:
            beyond |= (items[:, column] < span[0]) | (items[:, column] > span[1])
    label = f"{cloud.field} ({len(items):,}"
    label += f", {beyond.sum():,} beyond)" if beyond.any() else ")"
    items = items[~beyond]
    if len(items) > MOST_POINTS:
        label += f", {MOST_POINTS:,} drawn"
    if cloud.size is None:
        items, area = items[:MOST_POINTS], np.full(min(len(items), MOST_POINTS), 9.0)
    else:
        items = items[np.argsort(-items[:, cloud.size], kind="stable")][:MOST_POINTS]
        size = np.maximum(items[:, cloud.size], 0)
        area = 2.5 + 160 * size / max(float(size.max(initial=0)), np.finfo(np.float32).tiny)
        area *= min(1.0, UNCROWDED / max(1, len(items)))
        label += f", area ∝ {cloud.size_name}"
    axis.scatter(
        items[:, cloud.x], items[:, cloud.y], s=area, color=cloud.colour, alpha=0.75, linewidths=0,
        label=plain(label),
    )  # fmt: skip


def _legend(axis: Axes) -> None:
    """Below the name of the axis, whatever the size of the panel."""
    from matplotlib.transforms import ScaledTranslation

    handles, labels = axis.get_legend_handles_labels()
    if not handles:
        return
    figure: Any = axis.figure
    below = axis.transAxes + ScaledTranslation(0, -32 / 72, figure.dpi_scale_trans)
    legend = axis.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=below, fontsize=7.5,
        handletextpad=0.3, borderpad=0.1, borderaxespad=0,
    )  # fmt: skip
    drawn: list[Any] = [handle for handle in legend.legend_handles if hasattr(handle, "set_sizes")]
    for handle in drawn:
        handle.set_sizes([30.0])
        if not len(handle.get_facecolor()):  # a ring, light on the panel, stands on paper here
            handle.set_edgecolor(MUTED)
