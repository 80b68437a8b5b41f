"""The sections of a page: what each shows of the run, or which step would fill it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hpctrain.physics.counting import expected_events
from hpctrain.report import displays, learning, performance, shrinking, speed
from hpctrain.report.contents import SPLITS, STEP_TITLES, Contents
from hpctrain.report.gallery import Gallery
from hpctrain.report.style import MODEL_NAMES


@dataclass(frozen=True)
class Section:
    """One section; ``template`` is ``KEY.html.j2`` and sees ``data``."""

    key: str
    title: str
    step: str
    """The step whose results it shows."""
    data: dict[str, Any] = field(default_factory=dict)
    missing: bool = False
    """The step has not finished: the page says so."""


def all_sections(contents: Contents, gallery: Gallery) -> list[Section]:
    """Every section of the page, in order."""
    plan: tuple[tuple[str, str, str, Callable[[Contents, Gallery], dict[str, Any] | None]], ...] = (
        ("data", "Data", "generate", data),
        ("events", "What the detector sees", "generate", events),
        ("training", "Training", "train", training),
        ("performance", "Performance", "evaluate", evaluation),
        ("compression", "Compression", "compress", compression),
        ("firmware", "Firmware", "firmware", firmware),
        ("cost", "Time and memory", "", cost),
        ("provenance", "Provenance", "", provenance),
    )
    sections = []
    for key, title, step, make in plan:
        found = make(contents, gallery)
        sections.append(Section(key, title, step, found or {}, missing=found is None))
    return sections


def data(contents: Contents, _: Gallery) -> dict[str, Any] | None:
    """Processes with their cross sections, counts and expected events."""
    if not contents.datasets:
        return None
    splits = {name: dataset.provenance.get("processes", []) for name, dataset in contents.datasets.items()}
    rows = []
    for number, process in enumerate(contents.processes):
        reference, sigma = process.get("reference_cross_section_mb"), process["cross_section_mb"]
        error = process["cross_section_error_mb"]
        relative = error / sigma if sigma else 0.0
        rows.append(
            {
                **process,
                "ratio": {"value": sigma / reference, "error": error / reference} if reference else None,
                "efficiency": process["preselected"] / process["generated"],
                "expected": expected_events(process["preselected"], process["weight"], relative),
                "splits": {name: splits[name][number]["in_split"] for name in SPLITS},
            }
        )
    return {
        "rows": rows,
        "provenance": contents.provenance,
        "totals": {key: sum(row[key] for row in rows) for key in ("generated", "preselected")},
        "events": {name: len(dataset) for name, dataset in contents.datasets.items()},
        "summary": contents.steps["generate"]["summary"],
    }


def events(contents: Contents, gallery: Gallery) -> dict[str, Any] | None:
    """Event displays and mean images, as far as the data have what they show."""
    if not contents.datasets:
        return None
    found: dict[str, Any] = {"displays": [], "mean": None, "label": contents.provenance.get("label", "")}
    test, train = contents.datasets["test"], contents.datasets["train"]
    for label, name in ((1, "signal"), (0, "background")):
        event = displays.typical_event(test, label) if displays.can_display(test) else None
        if event is None:
            continue
        alt = (
            f"{name} event in η and φ: {', '.join(displays.channel_names(len(event.image)))}, with {event.n_jets} fat jets as circles; "
            f"sum of the jet masses {event.sum_mass:.0f} GeV"
        )
        picture = gallery.add(f"event_{name}", partial(displays.event_display, event), alt)
        found["displays"].append({"name": name, "event": event, "picture": picture})
    if displays.can_average(train):
        (signal, n_signal), (background, n_background) = (
            displays.mean_image(train, label) for label in (1, 0)
        )
        look = displays.look_of(train.provenance, len(signal))
        found["mean"] = gallery.add(
            "mean_images",
            lambda: displays.mean_images(signal, background, look),
            f"mean image of {n_signal} signal and {n_background} background events: {', '.join(look.names)}",
        )
        found["mean_counts"] = {"signal": n_signal, "background": n_background}
    return found


def training(contents: Contents, gallery: Gallery) -> dict[str, Any] | None:
    """Loss curves; also of a training that is not over."""
    if not contents.history:
        return None
    per_epoch = len(contents.datasets["train"]) if contents.datasets else 1
    found = contents.history
    best = found.best
    alt = f"loss of {len(found.steps)} updates and {len(found.epochs)} epochs" + (
        f"; best validation AUC {best['validation_auc']:.4f} after epoch {best['epoch'] + 1}"
        if best and best.get("validation_auc") is not None
        else ""
    )
    timed = speed.with_parts(found.epochs)
    parts = ", ".join(f"{name} {share:.0%}" for name, share in speed.shares(timed).items())
    return {
        "picture": gallery.add("loss", lambda: learning.loss_curves(found, per_epoch), alt),
        "time": gallery.add(
            "time", lambda: speed.time_figure(timed), f"time of {len(timed)} epochs by its parts: {parts}"
        )
        if timed
        else None,
        "slowest": [epoch for epoch in timed if epoch.get("slowest_rank") is not None],
        "best": best,
        "epochs": len(found.epochs),
        "updates": len(found.steps),
        "summary": contents.steps.get("train", {}).get("summary"),
        "events": {name: len(dataset) for name, dataset in contents.datasets.items()},
    }


def evaluation(contents: Contents, gallery: Gallery) -> dict[str, Any] | None:
    """ROC curves, score distributions and the table of figures of every model."""
    results, curves, scores = contents.evaluation, contents.curves, contents.scores
    if results is None or curves is None or scores is None:
        return None
    models = [name for name in performance.models_of(curves) if name in results]
    names = [MODEL_NAMES.get(name, name) for name in models]
    aucs = ", ".join(
        f"{name} AUC {results[model]['auc']['value']:.4f}" for model, name in zip(models, names, strict=True)
    )
    return {
        "results": results,
        "models": models,
        "absent": _absent(results.get("absent_processes")),
        "unmeasured": _unmeasured(results, models),
        "names": dict(zip(models, names, strict=True)),
        "fprs": list(results[models[0]]["tpr_at_fpr"]) if models else [],
        "warnings": sorted(_warnings(results)),
        "roc": gallery.add(
            "roc",
            lambda: performance.roc_figure(curves, results.get("selection")),
            f"ROC curves with error bands, unweighted and weighted: {aucs}",
        ),
        "scores": gallery.add(
            "scores",
            lambda: performance.score_figure(scores, models),
            f"distribution of the scores of {', '.join(names)} for signal and background test events",
        ),
    }


def compression(contents: Contents, gallery: Gallery) -> dict[str, Any] | None:
    """Weights before and after, performance round by round, types of every layer."""
    results, weights = contents.compression, contents.weights
    if results is None or weights is None:
        return None
    found: dict[str, Any] = {
        "results": results,
        "weights": gallery.add(
            "weights",
            lambda: shrinking.weight_figure(weights),
            f"histograms of the weights of {len(shrinking.layers_of(weights))} layers before and after compression",
        ),
        "summary": contents.steps["compress"]["summary"],
    }
    rounds = results.get("iterations") or []
    if rounds:
        found["pruning"] = gallery.add(
            "pruning",
            lambda: shrinking.pruning_figure(rounds, results, found["summary"].get("sparsity")),
            f"AUC after each of {len(rounds)} pruning rounds, up to {rounds[-1]['sparsity']:.1%} of weights zero",
        )
    return found


def firmware(contents: Contents, _: Gallery) -> dict[str, Any] | None:
    """The verification and the table of layers."""
    if contents.verification is None:
        return None
    return {"verification": contents.verification, "finished": "firmware" in contents.steps}


def cost(contents: Contents, _: Gallery) -> dict[str, Any] | None:
    """Wall time and peak memory of every finished step."""
    longest = max((record["wall_s"] for record in contents.steps.values()), default=0.0)
    rows = [
        {"name": STEP_TITLES[name], "share": record["wall_s"] / longest if longest else 0.0, **record}
        for name, record in contents.steps.items()
    ]
    return {
        "rows": rows,
        "total": sum(record["wall_s"] for record in contents.steps.values()),
        "missing": [STEP_TITLES[name] for name in STEP_TITLES if name not in contents.steps],
    }


def provenance(contents: Contents, _: Gallery) -> dict[str, Any] | None:
    """Seeds, versions, machine, configuration."""
    return {
        "environment": contents.environment,
        "config": contents.config,
        "config_text": contents.config_text,
        "provenance": contents.provenance,
    }


def _absent(listed: Any) -> dict[str, list[dict[str, Any]]]:
    """Processes without an event, by split; older records list those of the test split by name alone."""
    if isinstance(listed, list):
        return {"test": [{"name": name} for name in listed]} if listed else {}
    return {split: entries for split, entries in (listed or {}).items() if entries}


def _unmeasured(results: dict[str, Any], models: list[str]) -> dict[str, float]:
    """Models whose AMS beside the selection's rests on too few effective events, and on how many."""
    found = {}
    for model in models:
        ams = results[model]["ams"]
        entries = [ams[key] for key in ("ratio_to_selection", "weighted_ratio_to_selection") if key in ams]
        fewest = min((float(entry["n_eff"]) for entry in entries), default=performance.FEW)
        if fewest < performance.FEW:
            found[model] = fewest
    return found


def _warnings(value: Any) -> set[str]:
    """Every ``warning`` anywhere in nested results."""
    if not isinstance(value, dict):
        return set()
    found = {value["warning"]} if isinstance(value.get("warning"), str) else set()
    return found.union(*(_warnings(part) for part in value.values()))
