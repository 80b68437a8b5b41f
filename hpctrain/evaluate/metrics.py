"""The figures of a classifier on a weighted sample, each with its error and the events it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpctrain.evaluate.bootstrap import Estimate, Figures, Statistic, bootstrap
from hpctrain.evaluate.roc import Floats, Ranking, area, check_weights, tpr_at_fpr, vertex_at_fpr
from hpctrain.evaluate.significance import effective_events

FEW_EFFECTIVE_EVENTS = 10.0
"""Below this many effective events a figure carries a warning."""

Figure = dict[str, Any]
"""One figure of results.json: value, error, low, high, what it rests on and perhaps a warning."""


def figure(found: Estimate, *, n_eff: float, of: str, **more: Any) -> Figure:
    """A figure as plain JSON, with a warning when it rests on fewer than ten effective events or has no spread.

    ``n_eff`` is the effective number of the events named by ``of`` ("background events above the
    threshold"); ``more`` is written beside it.
    """
    entry: Figure = {**found.as_dict(), "n_eff": float(n_eff), "n_eff_of": of, **more}
    warnings = []
    if n_eff < FEW_EFFECTIVE_EVENTS:
        warnings.append(
            f"rests on {n_eff:.1f} effective {of} (fewer than {FEW_EFFECTIVE_EVENTS:g}): "
            "neither the value nor its error can be trusted"
        )
    if found.error == 0 and found.value != 0:  # a difference of equal models is 0 ± 0 rightly
        warnings.append(
            "has no spread at all, as where classes stand apart without overlap: its error is unknown, not 0"
        )
    if found.undefined:
        warnings.append(f"{found.undefined} bootstrap replicas were undefined and left out")
    if warnings:
        entry["warning"] = "; ".join(warnings)
    return entry


@dataclass(frozen=True)
class Sample:
    """Labelled events with the weights that make them a luminosity's worth.

    ``label`` (n,) boolean, True for signal; ``weight`` (n,) expected events, already corrected for
    the split (:func:`hpctrain.evaluate.significance.split_weights`).
    """

    label: NDArray[np.bool_]
    weight: Floats

    @classmethod
    def of(cls, label: ArrayLike, weight: ArrayLike | None = None) -> Sample:
        labels = np.asarray(label)
        return cls(labels.astype(bool), check_weights(weight, labels.size))

    def rows(self, multiplicity: Floats, weighted: bool) -> Floats:
        """Weight vectors (block, n) of bootstrap replicas."""
        return multiplicity * self.weight if weighted else multiplicity

    def counts(self) -> dict[str, dict[str, float]]:
        """Raw, effective and expected number of events of both classes."""
        return {
            name: {
                "raw": int(members.sum()),
                "n_eff": float(effective_events(self.weight[members])),
                "expected": float(self.weight[members].sum()),
            }
            for name, members in (("signal", self.label), ("background", ~self.label))
        }


def background_n_eff(sample: Sample, ranking: Ranking, vertex: int, *, weighted: bool) -> float:
    """Effective number of background events that pass the threshold of ``vertex``."""
    passed = ranking.order[: ranking.ends[vertex - 1] + 1] if vertex > 0 else ranking.order[:0]
    background = passed[~sample.label[passed]]
    return float(effective_events(sample.weight[background])) if weighted else float(background.size)


def roc_statistic(sample: Sample, ranking: Ranking, fprs: Sequence[float], *, weighted: bool) -> Statistic:
    """AUC and TPR at every FPR of bootstrap replicas: names ``auc``, ``tpr 0.01``, …"""

    def statistic(multiplicity: Floats) -> Figures:
        fpr, tpr = ranking.rates(sample.rows(multiplicity, weighted))
        at = tpr_at_fpr(fpr, tpr, fprs)
        return {"auc": area(fpr, tpr), **{f"tpr {target:g}": at[:, i] for i, target in enumerate(fprs)}}

    return statistic


def roc_figures(
    sample: Sample, ranking: Ranking, found: Mapping[str, Estimate], fprs: Sequence[float], *, weighted: bool
) -> dict[str, Any]:
    """The estimates of :func:`roc_statistic` as figures: ``auc`` and ``tpr_at_fpr`` by FPR."""
    curve = ranking.curve(sample.weight if weighted else None)
    weight = sample.weight if weighted else np.ones(sample.weight.size)
    smaller = min(effective_events(weight[members]) for members in (sample.label, ~sample.label))
    tpr = {}
    for target, vertex in zip(fprs, vertex_at_fpr(curve.fpr, fprs), strict=True):
        tpr[f"{target:g}"] = figure(
            found[f"tpr {target:g}"],
            n_eff=background_n_eff(sample, ranking, int(vertex), weighted=weighted),
            of="background events above the threshold",
            threshold=_finite(curve.threshold[vertex]),
        )
    return {
        "auc": figure(
            found["auc"], n_eff=float(smaller), of="events of the class with fewer effective events"
        ),
        "tpr_at_fpr": tpr,
    }


def classification_metrics(
    label: ArrayLike,
    score: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    fprs: Sequence[float] = (1e-2,),
    replicas: int = 300,
    seed: int = 0,
) -> dict[str, Any]:
    """Performance of one set of scores: ``{"auc", "tpr_at_fpr", "events"}`` and, with weights, ``"weighted"``.

    ``label`` (n,) is 0 or 1, ``score`` (n,) higher for signal, ``weight`` (n,) non-negative. The
    first two count every event once; ``"weighted"`` holds the same two under the weights. Every
    figure is ``{"value", "error", "low", "high", "n_eff", …}`` with bootstrap errors of ``replicas``
    replicas drawn from ``seed``. Calls with the same events and seed resample the same events, so
    "before" and "after" are paired.

    >>> classification_metrics([0, 1] * 50, list(range(100)), replicas=20)["auc"]["value"]
    0.51
    """
    ranking = Ranking.of(label, score)
    sample = Sample.of(label, weight)
    result: dict[str, Any] = {"events": sample.counts(), "replicas": replicas, "seed": seed}
    for weighted in (False, True) if weight is not None else (False,):
        ranking.curve(sample.weight if weighted else None)  # refuses a sample without both classes
        statistic = roc_statistic(sample, ranking, fprs, weighted=weighted)
        found = bootstrap(statistic, sample.label.size, replicas=replicas, seed=seed)
        figures = roc_figures(sample, ranking, found, fprs, weighted=weighted)
        result |= {"weighted": figures} if weighted else figures
    return result


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None
