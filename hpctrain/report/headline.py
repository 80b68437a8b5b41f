"""The few figures on top of a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hpctrain.report.contents import Contents
from hpctrain.report.numbers import count, figure, number, percent
from hpctrain.report.performance import FEW


@dataclass(frozen=True)
class Card:
    """One headline figure: what it is, its value, what it came from, and a warning if it has one."""

    label: str
    value: str
    note: str
    warning: str = ""
    tone: str = ""
    """``good`` or ``bad`` for a verdict, empty for a figure."""


def cards(contents: Contents) -> list[Card]:
    """Headline figures of whatever has been done."""
    found: list[Card] = []
    for make in (
        _events,
        _auc,
        _difference,
        _efficiency,
        _at_selection,
        _significance,
        _compression,
        _firmware,
    ):
        card = make(contents)
        if card is not None:
            found.append(card)
    return found


def _events(contents: Contents) -> Card | None:
    if not contents.datasets:
        return None
    processes = contents.processes
    if not processes:
        return Card("events", count(sum(map(len, contents.datasets.values()))), "in all three splits")
    signal, background = (
        sum(p["preselected"] for p in processes if bool(p["signal"]) is wanted) for wanted in (True, False)
    )
    generated = sum(p["generated"] for p in processes)
    return Card(
        "preselected events",
        count(signal + background),
        f"{count(signal)} signal, {count(background)} background, of {count(generated)} generated",
    )


def _auc(contents: Contents) -> Card | None:
    results = contents.evaluation
    if results is None or "cnn" not in results:
        best = contents.history.best
        if best is None or best.get("validation_auc") is None:
            return None
        return Card(
            "validation AUC",
            number(best["validation_auc"]),
            f"epoch {best['epoch'] + 1}, the best checkpoint, chosen on these events: no measurement. Evaluate",
        )
    events = results["events"]
    return Card(
        "AUC of the CNN",
        figure(results["cnn"]["auc"]),
        f"unweighted, {count(events['signal']['raw'])} signal and {count(events['background']['raw'])} "
        f"background test events; weighted {figure(results['cnn']['weighted']['auc'])}",
        _warning(results["cnn"]["auc"]),
    )


def _difference(contents: Contents) -> Card | None:
    difference = _at(contents.evaluation, "differences", "unweighted", "cnn-gbdt")
    if difference is None or contents.evaluation is None:
        return None
    return Card(
        "AUC, CNN − GBDT",
        ("+" if difference["value"] > 0 else "") + figure(difference),
        f"paired on the same test events; GBDT alone {figure(contents.evaluation['gbdt']['auc'])}",
        _warning(difference),
    )


def _efficiency(contents: Contents) -> Card | None:
    points = _at(contents.evaluation, "cnn", "tpr_at_fpr")
    if not points:
        return None
    # The tightest working point that its statistics bear, else the loosest one with its warning.
    rates = sorted(points, key=float)
    rate = next((r for r in rates if "warning" not in points[r]), rates[-1])
    others = {name: _at(contents.evaluation, name, "tpr_at_fpr", rate) for name in ("gbdt", "mlp")}
    beside = "; ".join(f"{name.upper()} {figure(entry)}" for name, entry in others.items() if entry)
    return Card(
        f"CNN signal efficiency at {percent(float(rate))} background",
        figure(points[rate]),
        f"unweighted, {number(points[rate]['n_eff'])} background events above the threshold"
        + (f"; {beside}" if beside else ""),
        _warning(points[rate]),
    )


def _at_selection(contents: Contents) -> Card | None:
    """Both at the same raw background: the comparison that is measured best."""
    rates = _at(contents.evaluation, "selection", "unweighted")
    found = _at(contents.evaluation, "cnn", "tpr_at_selection", "unweighted")
    if rates is None:
        return None
    if found is None:
        return Card(
            "benchmark selection, signal efficiency",
            figure(rates["tpr"]),
            f"unweighted, after the preselection; background {figure(rates['fpr'])}",
            _warning(rates["tpr"]),
        )
    return Card(
        "CNN signal efficiency at the selection's background",
        figure(found["tpr"]),
        f"the benchmark selection has {figure(rates['tpr'])} at that background, {figure(rates['fpr'])} (both "
        f"unweighted, after the preselection); difference {figure(found['minus_selection'])}",
        _warning(found["tpr"]),
    )


def _significance(contents: Contents) -> Card | None:
    """AMS beside that of the selection, only where the events bear it."""
    ams = _at(contents.evaluation, "cnn", "ams")
    ratio = _at(ams, "weighted_ratio_to_selection")
    if ratio is None or contents.evaluation is None or ratio["n_eff"] < FEW:
        return None
    return Card(
        "significance (AMS), CNN over benchmark selection",
        figure(ratio),
        f"at no more expected background: {figure(ams['at_selection_weighted_fpr'])} against "
        f"{figure(contents.evaluation['selection']['ams'])}; background of the generated processes alone",
        _warning(ratio),
    )


def _compression(contents: Contents) -> Card | None:
    results, summary = contents.compression, contents.steps.get("compress", {}).get("summary", {})
    if results is None:
        return None
    bits = results.get("bits", {})
    pruned = summary.get("sparsity_pruned")
    return Card(
        "weights that are zero",
        percent(summary.get("sparsity")),
        ("" if pruned is None else f"{percent(pruned)} pruned, the rest rounded to zero; ")
        + f"{bits.get('weights', '?')}-bit weights, {bits.get('activations', '?')}-bit activations; AUC "
        f"{figure(_at(results, 'after', 'auc'))}, was {figure(_at(results, 'before', 'auc'))} (unweighted)",
    )


def _firmware(contents: Contents) -> Card | None:
    check = contents.verification
    if check is None:
        return None
    exact = check["passed"] and check["max_abs_difference"] == 0
    verdict = "bit-exact" if exact else "passed" if check["passed"] else "refused"
    return Card(
        "firmware against network",
        verdict,
        f"{count(check['mismatches'])} mismatches in {count(check['events'])} held-out events, "
        f"largest difference {number(check['max_abs_difference'])}, tolerance {number(check['tolerance'])}",
        tone="good" if check["passed"] else "bad",
    )


def _warning(entry: Any) -> str:
    """A short word of the warning that a figure carries; the section has the whole text."""
    if "warning" not in entry:
        return ""
    if entry["n_eff"] < FEW:
        return f"Rests on {entry['n_eff']:.1f} effective events: do not trust it."
    text = str(entry["warning"])
    return f"{text[:1].upper()}{text[1:]}."


def _at(value: Any, *keys: str) -> Any:
    """Nested value, None when any key is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
