"""A dataset in words and tables for a terminal."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hpctrain.data.curation.inspection import FieldSummary, Share, compositions, sample_rows, summarise
from hpctrain.data.curation.provenance import entry_name
from hpctrain.data.curation.splitting import Contents
from hpctrain.data.curation.verify import Problem
from hpctrain.data.shards import ShardDataset
from hpctrain.report.panels import with_unit

if TYPE_CHECKING:
    from rich.table import Table

MOST_ROWS = 24
"""Classes, processes or features of one table."""


def describe(dataset: ShardDataset, events: int) -> Iterator[Any]:
    """What ``hpctrain data inspect`` prints: text (without markup) and tables, in order.

    Ranges are of about ``events`` events; labels and weights of all, unless there are very many.
    """
    from rich.markup import escape

    info = dataset.info
    total = sum(shard.bytes for shard in info.shards)
    each = f" ({size(total / dataset.events)} an event)" if dataset.events else ""
    yield escape(
        f"{dataset.directory}: {counted(dataset.events, 'event')} in {counted(len(info.shards), 'shard')}, {size(total)}{each}"
    )
    label = dataset.provenance.get("label")
    yield escape(str(label)) if label else "no provenance label: it is not said what these events are"
    rows = sample_rows(dataset, events)
    yield field_table(summarise(dataset, rows), len(rows), dataset.events, dataset.provenance)
    shares, seen = compositions(dataset)
    for key, found in shares.items():
        yield share_table(key, found, seen, dataset.events)
    for line in facts(dataset):
        yield escape(line)


def field_table(
    fields: Sequence[FieldSummary], rows: int, events: int, provenance: Mapping[str, Any] | None = None
) -> Table:
    """One row a field, and one for each of its features, with the units that the provenance gives."""
    from rich.markup import escape

    said = provenance or {}
    whole = "all" if rows == events else f"{rows:,} of {events:,}"
    cells = (
        ", of sparse fields: of the cells that are stored" if any(f.kind == "sparse" for f in fields) else ""
    )
    table = _table(f"Fields; ranges of {whole} events{cells}")
    for title in ("field", "kind", "shape", "type"):
        table.add_column(title, no_wrap=title != "field")
    for title in ("items", "most", "low", "mean", "high"):
        table.add_column(title, justify="right", no_wrap=True)
    for field in fields:
        items = (f"{field.items[0]:,.1f}", f"{field.items[1]:,}") if field.items else ("", "")
        shape = "×".join(map(str, field.shape)) or "1"
        head = (escape(with_unit(field.name, said)), field.kind, shape, field.dtype, *items)
        one = [r for r in field.ranges if not r.name]
        table.add_row(*head, *([_number(v) for v in (one[0].low, one[0].mean, one[0].high)] if one else []))
        features = [r for r in field.ranges if r.name]
        for feature in features[:MOST_ROWS]:
            numbers = [_number(v) for v in (feature.low, feature.mean, feature.high)]
            table.add_row(
                f"  {escape(with_unit(feature.name, said))}", "", "", "", "", "", *numbers, style="dim"
            )
        if len(features) > MOST_ROWS:
            table.add_row(f"  and {len(features) - MOST_ROWS} more features", style="dim")
    return table


def share_table(key: str, shares: Sequence[Share], seen: int, events: int) -> Table:
    """Events and weights of each class or process."""
    from rich.markup import escape

    weighted = any(share.squares for share in shares)
    table = _table(f"By {key}" + ("" if seen == events else f", of {seen:,} of {events:,} events"))
    table.add_column(key)
    for title in ("events", "share", *(("Σw", "share of Σw", "n_eff") if weighted else ())):
        table.add_column(title, justify="right", no_wrap=True)
    total = sum(share.weight for share in shares)
    for share in shares[:MOST_ROWS]:
        row = [escape(share.name), f"{share.events:,}", f"{share.events / max(1, seen):.1%}"]
        if weighted:
            part = f"{share.weight / total:.3g}" if total else "–"
            row += [_number(share.weight), part, f"{share.effective:,.1f}"]
        table.add_row(*row)
    if len(shares) > MOST_ROWS:
        table.add_row(f"and {len(shares) - MOST_ROWS} more")
    return table


def facts(dataset: ShardDataset) -> Iterator[str]:
    """Scale constants, sources and what else the provenance says in one line each."""
    for key, value in dataset.scale.items():
        yield f"scale {key}: {_constants(value)}"
    sources = [entry_name(source) for source in dataset.provenance.get("sources", [])]
    if sources:
        yield f"{counted(len(sources), 'source')}: {_listed(sources)}"
    left_out = [name for source in dataset.provenance.get("sources", []) for name in _left_out(source)]
    if left_out:
        yield f"in the files, not in the dataset: {_listed(list(dict.fromkeys(left_out)))}"
    merged = dataset.provenance.get("merged", [])
    if merged:
        yield f"merged from {counted(len(merged), 'part')}: {_listed([str(m['directory']) for m in merged])}"
    origin = dataset.provenance.get("split_of")
    if origin:
        by = f", by {origin['by']}" if origin.get("by") else ""
        yield f"{dataset.provenance.get('split')} split of {origin['directory']} (seed {origin['seed']}{by})"
    for key in ("luminosity_fb", "seed", "commit"):
        if dataset.provenance.get(key) is not None:
            yield f"{key}: {_short(dataset.provenance[key])}"


def problem_table(problems: Sequence[Problem]) -> Table:
    """All that is wrong, with its cures."""
    from rich.markup import escape

    table = _table(None)
    for title in ("file", "problem", "cure"):
        table.add_column(title, overflow="fold")
    for problem in problems:
        table.add_row(escape(str(problem.path)), escape(problem.what), escape(problem.cure))
    return table


def split_table(contents: Mapping[str, Contents]) -> Table:
    """Events of each split, in all and by class."""
    labels = sorted({label for found in contents.values() for label in found.labels})[:MOST_ROWS]
    total = sum(found.events for found in contents.values())
    table = _table(None)
    table.add_column("split")
    for title in ("events", "share", *(f"label {label}" for label in labels)):
        table.add_column(title, justify="right", no_wrap=True)
    for name, found in contents.items():
        counts = [f"{found.labels[label]:,}" for label in labels]
        table.add_row(name, f"{found.events:,}", f"{found.events / total:.2%}", *counts)
    return table


def missing_classes(contents: Mapping[str, Contents]) -> Iterator[str]:
    """Classes that some splits have and others have not."""
    every = sorted({label for found in contents.values() for label in found.labels})
    for name, found in contents.items():
        absent = [str(label) for label in every if not found.labels[label]]
        if absent and len(absent) < MOST_ROWS:
            yield (
                f"the {name} split has no event of label {', '.join(absent)}; --stratify label shares out every "
                "class that has events enough for it"
            )


def explain_component(component: Any, kind: str) -> list[str]:
    """Help for a component from the documentation of its ``Config``: lines of at most 100 characters."""
    lines = [
        f"{kind}: {' '.join((component.__doc__ or '').split())}",
        "",
        "keys (key=value, values in YAML):",
    ]
    for name, field in component.Config.model_fields.items():
        if name == "kind":
            continue
        default = (
            "required" if field.is_required() else _default(field.get_default(call_default_factory=True))
        )
        lines.append(f"  {name}  ({default})")
        text = " ".join((field.description or "").split())
        lines += textwrap.wrap(text, 100, initial_indent="      ", subsequent_indent="      ")
    return lines


def _default(value: Any) -> str:
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    return json.dumps(value, default=str, ensure_ascii=False)


def counted(number: int, noun: str) -> str:
    """
    >>> counted(1, "shard"), counted(2000, "event")
    ('1 shard', '2,000 events')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def size(number: float) -> str:
    """
    >>> size(999), size(61_900), size(2.1e9)
    ('999 bytes', '61.9 kB', '2.1 GB')
    """
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number:.0f} bytes"


def _table(title: str | None) -> Table:
    from rich.table import Table

    return Table(
        box=None,
        padding=(0, 2, 0, 0),
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="dim",
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e7 else f"{value:.4g}"


def _left_out(source: Any) -> Iterable[str]:
    about = source.get("about") if isinstance(source, dict) else None
    found = about.get("left_out", ()) if isinstance(about, dict) else ()
    return map(str, found) if isinstance(found, list | dict) else ()


def _constants(value: Any) -> str:
    """Numbers in few digits; of a mapping (mean, std) each entry."""
    if isinstance(value, dict):
        return "; ".join(f"{name} {_constants(numbers)}" for name, numbers in value.items())
    return _short(value)


def _short(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(item, float) for item in value):
        return ", ".join(f"{item:.5g}" for item in value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) < 120 else f"{text[:117]}…"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
