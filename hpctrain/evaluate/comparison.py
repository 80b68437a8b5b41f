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
    sample: Sample, score: Floats, selected: Bools, *, replicas: int, seed: int
) -> dict[str, Figure]:
    """AMS of a score (n,) cut at the *unweighted* FPR of the selection, and its ratio to the selection's AMS.

    The cut is the loosest that lets no larger fraction of raw background events pass than the
    selection does. Every replica finds the selection's FPR and the cut anew, so their fluctuation
    is in the error. Unweighted, because a weighted FPR of this size is set by single events.
    """
    ranking = Ranking.of(sample.label, score)

    def statistic(multiplicity: Floats) -> Figures:
        rows = sample.rows(multiplicity, True)
        background = multiplicity * ~sample.label
        with np.errstate(invalid="ignore", divide="ignore"):
            target = (background * selected).sum(axis=1) / background.sum(axis=1)
            fpr, _ = ranking.rates(multiplicity)
            vertex = vertex_at_fpr(fpr, target[:, None])
            signal, below = (np.take_along_axis(part, vertex, -1)[:, 0] for part in ranking.yields(rows))
            own, reference = ams(signal, below), ams_of_selection(selected, sample.label, rows)
            return {"ams": own, "ratio": own / reference}

    found = bootstrap(statistic, sample.label.size, replicas=replicas, seed=seed)
    target = float(selected[~sample.label].mean())
    cut = ranking.curve().threshold_at_fpr(target)
    kept = score >= cut
    entry = _ams_figure(
        found["ams"], sample, kept, fpr=target, threshold=float(cut) if np.isfinite(cut) else None
    )
    both = min(_background_n_eff(sample, kept), _background_n_eff(sample, selected))
    ratio = figure(found["ratio"], n_eff=both, of="background events passing the cut or the selection")
    return {"at_selection_fpr": entry, "ratio_to_selection": ratio}


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
    return {name: figure(f, n_eff=smaller, of="events of the smaller class") for name, f in found.items()}


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
