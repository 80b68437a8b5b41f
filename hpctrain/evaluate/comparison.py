"""Significances and ROC bands of several models beside one benchmark selection, on the same events.

Every function resamples with the seed it is given, so figures made with one seed are paired.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpctrain.evaluate.bootstrap import Figures, band, bootstrap, resample
from hpctrain.evaluate.metrics import Figure, Sample, figure
from hpctrain.evaluate.roc import Floats, Ranking, area, tpr_at_fpr, vertex_at_fpr
from hpctrain.evaluate.significance import REGULARISATION, ams, ams_of_selection, effective_events

Bools = NDArray[np.bool_]

FPR_GRID = np.logspace(-6, 0, 241)
"""False-positive rates at which curves are kept, 40 a decade."""


def selection_significance(sample: Sample, selected: Bools, *, replicas: int, seed: int) -> Figure:
    """AMS of a yes/no selection (n,)."""

    def statistic(multiplicity: Floats) -> Figures:
        return {"ams": ams_of_selection(selected, sample.label, sample.rows(multiplicity, True))}

    found = bootstrap(statistic, sample.label.size, replicas=replicas, seed=seed)
    return _ams_figure(found["ams"], sample, selected)


def significance_at_selection(
    sample: Sample, score: Floats, selected: Bools, *, weighted: bool = False, replicas: int, seed: int
) -> tuple[Figure, Figure]:
    """AMS of a score (n,) cut at the FPR of the selection, and its ratio to the selection's AMS.

    The cut is the loosest that lets no larger fraction of the background pass than the selection
    does: of raw events, or of expected events when ``weighted``. Every replica finds the selection's
    FPR and the cut anew, so their fluctuation is in the error. A raw FPR is better known, but which
    fraction of the expected background it is depends on how many events of each slice were
    generated; a weighted one compares equal backgrounds, but may be set by single events.
    """
    ranking = Ranking.of(sample.label, score)

    def statistic(multiplicity: Floats) -> Figures:
        rows = sample.rows(multiplicity, True)
        counted = sample.rows(multiplicity, weighted)
        fpr, _ = ranking.rates(counted)
        vertex = vertex_at_fpr(fpr, _selection_fpr(sample, selected, counted)[:, None])
        signal, below = (np.take_along_axis(part, vertex, -1)[:, 0] for part in ranking.yields(rows))
        own, reference = ams(signal, below), ams_of_selection(selected, sample.label, rows)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {"ams": own, "ratio": own / reference}

    found = bootstrap(statistic, sample.label.size, replicas=replicas, seed=seed)
    target, cut = _cut_at_selection(sample, ranking, selected, weighted)
    kept = score >= cut
    entry = _ams_figure(
        found["ams"], sample, kept, fpr=target, threshold=float(cut) if np.isfinite(cut) else None
    )
    both = min(_background_n_eff(sample, kept), _background_n_eff(sample, selected))
    ratio = figure(found["ratio"], n_eff=both, of="background events passing the cut or the selection")
    return entry, ratio


def efficiency_at_selection(
    sample: Sample, score: Floats, selected: Bools, *, weighted: bool, replicas: int, seed: int
) -> dict[str, Figure]:
    """TPR of a score (n,) at the FPR of the selection, and how far it lies above the selection's own TPR.

    Both rates count raw events, or expected ones when ``weighted``. Every replica finds the
    selection's rates anew. n_eff is that of the background passing the cut or the selection,
    whichever is smaller.
    """
    ranking = Ranking.of(sample.label, score)

    def statistic(multiplicity: Floats) -> Figures:
        rows = sample.rows(multiplicity, weighted)
        target = _selection_fpr(sample, selected, rows)
        own = tpr_at_fpr(*ranking.rates(rows), target[:, None])[:, 0]
        with np.errstate(invalid="ignore", divide="ignore"):
            signal = rows * sample.label
            return {"tpr": own, "gain": own - (signal * selected).sum(axis=1) / signal.sum(axis=1)}

    found = bootstrap(statistic, sample.label.size, replicas=replicas, seed=seed)
    target, cut = _cut_at_selection(sample, ranking, selected, weighted)
    weight = sample.weight if weighted else np.ones(sample.weight.size)
    n_eff = min(float(effective_events(weight[k & ~sample.label])) for k in (score >= cut, selected))
    of = "background events passing the cut or the selection"
    return {
        "tpr": figure(found["tpr"], n_eff=n_eff, of=of, fpr=target),
        "minus_selection": figure(found["gain"], n_eff=n_eff, of=of),
    }


def _selection_fpr(sample: Sample, selected: Bools, rows: Floats) -> Floats:
    """FPR of the selection under weights (..., n), shape (...); NaN where there is no background."""
    background = rows * ~sample.label
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((background * selected).sum(axis=-1) / background.sum(axis=-1))


def _cut_at_selection(
    sample: Sample, ranking: Ranking, selected: Bools, weighted: bool
) -> tuple[float, float]:
    """FPR of the selection, and the loosest threshold with no higher one."""
    weight = sample.weight if weighted else np.ones(sample.weight.size)
    target = float(_selection_fpr(sample, selected, weight))
    return target, ranking.curve(weight).threshold_at_fpr(target)


def significance_above(
    sample: Sample, score: Floats, threshold: float, *, chosen_on: str, replicas: int, seed: int
) -> Figure:
    """AMS of ``score ≥ threshold``, the threshold having been chosen on another split (``chosen_on``)."""
    kept = score >= threshold

    def statistic(multiplicity: Floats) -> Figures:
        return {"ams": ams_of_selection(kept, sample.label, sample.rows(multiplicity, True))}

    found = bootstrap(statistic, sample.label.size, replicas=replicas, seed=seed)
    cut = float(threshold) if np.isfinite(threshold) else None
    return _ams_figure(found["ams"], sample, kept, threshold=cut, threshold_chosen_on=chosen_on)


def roc_band(
    sample: Sample, score: Floats, *, weighted: bool, replicas: int, seed: int
) -> dict[str, NDArray[np.float64]]:
    """``tpr``, ``low``, ``high`` and ``n_eff`` (of the background that passes) on ``FPR_GRID``, each (241,)."""
    ranking = Ranking.of(sample.label, score)
    curve = ranking.curve(sample.weight if weighted else None)

    def statistic(multiplicity: Floats) -> Figures:
        return {"tpr": tpr_at_fpr(*ranking.rates(sample.rows(multiplicity, weighted)), FPR_GRID)}

    low, high = band(resample(statistic, sample.label.size, replicas=replicas, seed=seed)["tpr"])
    weight = sample.weight if weighted else np.ones(sample.weight.size)
    total, squares = (ranking.passing(power, ~sample.label) for power in (weight, weight**2))
    n_eff = np.divide(total**2, squares, out=np.zeros_like(total), where=squares > 0)
    return {
        "tpr": tpr_at_fpr(curve.fpr, curve.tpr, FPR_GRID),
        "low": low,
        "high": high,
        "n_eff": n_eff[vertex_at_fpr(curve.fpr, FPR_GRID)],
    }


def auc_differences(
    sample: Sample, scores: dict[str, Floats], *, weighted: bool, replicas: int, seed: int
) -> dict[str, Figure]:
    """AUC of the first model minus that of each other, paired: names ``cnn-gbdt``, …"""
    first, *others = scores
    rankings = {name: Ranking.of(sample.label, score) for name, score in scores.items()}

    def statistic(multiplicity: Floats) -> Figures:
        rows = sample.rows(multiplicity, weighted)
        areas = {name: area(*ranking.rates(rows)) for name, ranking in rankings.items()}
        return {f"{first}-{other}": areas[first] - areas[other] for other in others}

    weight = sample.weight if weighted else np.ones(sample.weight.size)
    smaller = min(float(effective_events(weight[m])) for m in (sample.label, ~sample.label))
    found = bootstrap(statistic, sample.label.size, replicas=replicas, seed=seed) if others else {}
    return {
        name: figure(f, n_eff=smaller, of="events of the class with fewer effective events")
        for name, f in found.items()
    }


def _background_n_eff(sample: Sample, kept: Bools) -> float:
    return float(effective_events(sample.weight[kept & ~sample.label]))


def _ams_figure(found: Any, sample: Sample, kept: Bools, **more: Any) -> Figure:
    return figure(
        found,
        n_eff=_background_n_eff(sample, kept),
        of="background events that pass",
        signal=float(sample.weight[kept & sample.label].sum()),
        background=float(sample.weight[kept & ~sample.label].sum()),
        background_raw=int((kept & ~sample.label).sum()),
        regularisation=REGULARISATION,
        **more,
    )
