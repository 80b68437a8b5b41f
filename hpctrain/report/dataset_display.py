"""What a dataset looks like: a few of its events drawn, or its distributions where events have nothing to draw."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpctrain.data.columns import RaggedRows, SparseRows
from hpctrain.data.curation.inspection import is_integer, sample_rows
from hpctrain.data.curation.provenance import entry_name
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError
from hpctrain.report.displays import row_width
from hpctrain.report.panels import Event, Panel, plan, with_unit
from hpctrain.report.style import (
    AMBER,
    BLUE,
    GREEN,
    MUTED,
    PURPLE,
    SKY,
    VERMILION,
    house_style,
    new_figure,
    plain,
    write_png,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS = 4
MOST_EVENTS = 3
MOST_HISTOGRAMS = 9
MOST_NUMBERS = 4
MOST_LINES = 6
SAMPLE = 2_000
"""Events that typical ones are chosen from, and whose distributions are drawn."""
CLASS_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, SKY, AMBER)


def draw_dataset(dataset: ShardDataset, path: Path, rows: Sequence[int] | None = None) -> str:
    """Write a PNG of the events ``rows`` (default: a typical one of each class, three at most); says what is in it.

    Images, clouds of particles, jets and volumes of cells are drawn as event displays; of a dataset that has
    none of these, distributions by class. The provenance label stands in the picture. Raises ``UserError`` for
    a dataset without events or a row that it has not.
    """
    if not dataset.events:
        raise UserError(f"{dataset.directory} has no events to draw")
    if rows is not None and not all(0 <= row < dataset.events for row in rows):
        raise UserError(
            f"{dataset.directory} has the events 0 to {dataset.events - 1}, not all of {list(rows)}"
        )
    chosen = typical_rows(dataset) if rows is None else np.asarray(rows, dtype=np.int64)
    panels = plan(dataset.fields, dataset.provenance)[:MOST_PANELS]
    with house_style():
        if panels:
            figure = _displays(dataset, chosen, panels)
            what = f"events {', '.join(map(str, chosen.tolist()))}"
        else:
            sample = sample_rows(dataset, SAMPLE)
            figure = _distributions(dataset, sample)
            what = f"distributions of {len(sample)} events"
        write_png(figure, path, trim=True)
    return what


def typical_rows(dataset: ShardDataset) -> NDArray[np.int64]:
    """Of each class (three at most) the event with the median number of items: typical, and nobody chose it.

    Items are those of ragged and sparse fields. Of a single class there is the event at three quarters, too.
    """
    sample = sample_rows(dataset, SAMPLE)
    items = np.zeros(len(sample), dtype=np.int64)
    for name, field in dataset.fields.items():
        if field.kind != "dense":
            columns: Any = dataset.read(sample, [name])
            items += columns[name].counts
    columns = (
        dataset.read(sample, ["label"]) if is_integer(dataset, "label") else {"label": np.zeros(len(sample))}
    )
    classes = np.unique(columns["label"])
    parts = [0.5] if len(classes) > 1 else [0.5, 0.75]
    chosen = []
    for value in classes[:MOST_EVENTS]:
        mine = np.flatnonzero(columns["label"] == value)
        ordered = mine[np.argsort(items[mine], kind="stable")]
        chosen += [ordered[int(part * len(ordered))] for part in parts]
    return np.asarray(sample[np.unique(chosen)])


def _displays(dataset: ShardDataset, rows: NDArray[np.int64], panels: Sequence[Panel]) -> Figure:
    events = _events(dataset, rows)
    # Events that are one panel each stand side by side.
    across, down = (len(rows), 1) if len(panels) == 1 else (1, len(rows))
    width = max(5.4, row_width(len(panels) * across) + (2.2 if len(panels) > 3 else 0))
    height = max(panel.height for panel in panels) + 0.4
    figure, body = _page(dataset, width, height * down)
    parts = np.ravel(np.asarray(body.subfigures(down, across)))
    for part, row, event in zip(parts, rows.tolist(), events, strict=True):
        title = textwrap.fill(_title(dataset, row, event), int(14 * width / across))
        part.suptitle(plain(title), x=0.02, ha="left", fontsize=9, color=MUTED)
        axes = part.subplots(1, len(panels), squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            panel.draw(axis, event)
            axis.set_title(plain(panel.title))
            axis.set_anchor("N")
    return figure


def _page(dataset: ShardDataset, width: float, height: float) -> tuple[Figure, Any]:
    """A figure headed by what these events are, in the words of whoever made them; and its body of that height."""
    label = dataset.provenance.get("label") or "no provenance: it is not said what these events are"
    letters = int(width * 15)
    notes = [f"{name}: {dataset.provenance[name]}" for name in dataset.fields if _is_note(name, dataset)]
    lines = [
        plain(textwrap.fill(str(label), letters)),
        *(plain(textwrap.fill(note, letters, max_lines=2, placeholder=" …")) for note in notes),
    ]
    count = sum(text.count("\n") + 1 for text in lines)
    top_height = 0.45 + 0.17 * count
    figure = new_figure(width, top_height + height)
    top, body = np.ravel(np.asarray(figure.subfigures(2, 1, height_ratios=[top_height, height])))
    name = "/".join(dataset.directory.resolve().parts[-3:]).lstrip("/")
    top.text(0.01, 1 - 0.05 / top_height, plain(name), ha="left", va="top", fontsize=11, weight="bold")
    top.text(
        0.01, 1 - 0.32 / top_height, "\n".join(lines), ha="left", va="top", fontsize=8.5, color=MUTED,
        linespacing=1.25,
    )  # fmt: skip
    return figure, body


def _is_note(name: str, dataset: ShardDataset) -> bool:
    """Whether the provenance says in words what the images or jets of that field are."""
    return isinstance(dataset.provenance.get(name), str) and ("image" in name or "jet" in name)


def _title(dataset: ShardDataset, row: int, event: Event) -> str:
    parts = [f"event {row}"]
    known = dataset.provenance.get("processes", [])
    units = dataset.provenance.get("units")
    units = units if isinstance(units, dict) else {}
    numbers = [n for n, v in event.items() if v.shape == () and v.dtype.kind == "f" and n != "weight"]
    for name in ("label", "process", "weight", *numbers[:MOST_NUMBERS]):
        if name not in event or event[name].shape != ():
            continue
        value = event[name].item()
        if name == "process" and isinstance(value, int) and 0 <= value < len(known):
            if len(known) > 1:  # of a single one the label above says more
                parts.append(f"process {entry_name(known[value])}")
        else:
            unit = f" {units[name]}" if name in units else ""
            parts.append(f"{name} {value:.4g}{unit}" if isinstance(value, float) else f"{name} {value}{unit}")
    return ", ".join(parts)


def _events(dataset: ShardDataset, rows: NDArray[np.int64]) -> list[Event]:
    columns = dataset.read(rows)
    events: list[Event] = [{} for _ in rows]
    for name, values in columns.items():
        dense = values.dense(dataset.fields[name].shape) if isinstance(values, SparseRows) else None
        for number, event in enumerate(events):
            if dense is not None:
                event[name] = dense[number]
            elif isinstance(values, RaggedRows):
                event[name] = values.values[values.offsets[number] : values.offsets[number + 1]]
            else:
                event[name] = np.asarray(values)[number]
    return events


def _distributions(dataset: ShardDataset, rows: NDArray[np.int64]) -> Figure:
    """Histograms of the dataset's numbers, each class normalised to one."""
    names = ["label"] if is_integer(dataset, "label") else []
    wanted = [
        n for n, f in dataset.fields.items() if f.kind == "dense" and len(f.shape) < 2 and n not in _INTERNAL
    ]
    wanted += [n for n, f in dataset.fields.items() if f.kind == "ragged"]
    columns: Any = dataset.read(rows, [*names, *wanted])
    label = np.asarray(columns["label"]) if names else np.zeros(len(rows), dtype=np.int64)
    series = [s for name in wanted for s in _series(name, columns[name], label, dataset)]
    told = [
        f"{len(rows):,} of {dataset.events:,} events without weights, each class normalised to one, over 99% of the values"
    ]
    constant = [(title, v[0]) for title, v, _ in series if v.size and (v == v[0]).all()]
    if constant and len(constant) < len(series):
        series = [s for s in series if s[0] not in {title for title, _ in constant}]
        told.append(f"the same in all: {', '.join(f'{title} {value:.5g}' for title, value in constant)}")
    if len(series) > MOST_HISTOGRAMS:
        told.append(f"not drawn: {', '.join(title for title, _, _ in series[MOST_HISTOGRAMS:])}")
    series = series[:MOST_HISTOGRAMS]
    across = min(3, max(1, len(series)))
    down = -(-max(1, len(series)) // across)
    figure, body = _page(dataset, max(5.4, 3.1 * across), 0.3 + 2.4 * down)
    axes = body.subplots(down, across, squeeze=False).ravel()
    classes = np.unique(label)[: len(CLASS_COLOURS)]
    for axis, (title, values, owner) in zip(axes, series, strict=False):
        bins = _bins(values)
        for number, value in enumerate(classes):
            axis.hist(
                values[owner == value], bins=bins, density=True, histtype="step", lw=1.6,
                color=CLASS_COLOURS[number],
                label=f"label {value} ({int((label == value).sum()):,})" if names else None,
            )  # fmt: skip
        axis.set_title(plain(with_unit(title, dataset.provenance)))
        axis.set_yticks([])
    for axis in axes[len(series) :]:
        axis.set_visible(False)
    if names and len(series):
        handles, labels = axes[0].get_legend_handles_labels()
        body.legend(handles, labels, loc="outside upper right", ncols=len(labels))
    letters = int(figure.get_figwidth() * 15)
    lines = [line for text in told for line in textwrap.wrap(text, letters)]
    body.supxlabel(plain("\n".join(lines[:MOST_LINES])), fontsize=8.5, color=MUTED)
    return figure


_INTERNAL = {"label", "process", "source", "event_id", "run", "luminosity_block", "event"}


def _series(
    name: str, values: Any, label: NDArray[Any], dataset: ShardDataset
) -> list[tuple[str, NDArray[Any], NDArray[Any]]]:
    """(title, values, class of each) of a field, one for each feature or entry."""
    if isinstance(values, RaggedRows):
        label, values = label[values.row_of_value()], values.values
    if values.ndim == 1:
        return [(name, values, label)]
    features = dataset.fields[name].features or [f"{name} {n}" for n in range(values.shape[-1])]
    return (
        [(feature, values[..., n], label) for n, feature in enumerate(features)] if values.ndim == 2 else []
    )


def _bins(values: NDArray[Any]) -> NDArray[np.float64]:
    """Forty over what 99% of the values span, so that a tail does not press the rest into one bin.

    Of whole numbers that are few one around each.
    """
    if not values.size:
        return np.linspace(0, 1, 2)
    low, high = (float(v) for v in np.quantile(values.astype(np.float64), [0.005, 0.995]))
    if values.dtype.kind in "iub" and high - low <= 40:
        return np.arange(np.floor(low), np.ceil(high) + 2) - 0.5
    return np.linspace(low, high, 41) if high > low else np.linspace(low - 0.5, low + 0.5, 41)
