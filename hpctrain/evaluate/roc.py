"""ROC curves of weighted events: true-positive rate against false-positive rate, exactly, ties included.

Everything is computed from one ordering of the events (:class:`Ranking`), which accepts a whole
block of weight vectors at once. A bootstrap replica is only another weight vector, so it costs two
cumulative sums and no sorting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpctrain.errors import UserError

Floats = NDArray[np.float64]


def check_weights(weight: ArrayLike | None, events: int) -> Floats:
    """Weights as float64 of shape (events,); ones for None.

    Negative weights are refused: a cumulative sum of them can fall, so that a rate is no longer a
    monotone function of the threshold and neither ROC nor AUC keeps its meaning.
    """
    if weight is None:
        return np.ones(events)
    array = np.asarray(weight, dtype=np.float64)
    if array.shape != (events,):
        raise UserError(f"weights have shape {array.shape}, scores have {events} events")
    if not np.isfinite(array).all():
        raise UserError("a weight is not finite", hint="look for NaN or infinity in the data's weight column")
    if (array < 0).any():
        raise UserError(
            f"{int((array < 0).sum())} of {events} weights are negative: a ROC curve is not defined",
            hint="evaluate a sample without negative generator weights",
        )
    return array


@dataclass(frozen=True)
class RocCurve:
    """Vertices of a ROC curve, from the tightest threshold (nothing passes) to the loosest (all pass).

    All arrays have shape (k + 1,), k the number of different scores. ``threshold[0]`` is infinity;
    an event passes when its score is at least the threshold.
    """

    fpr: Floats
    tpr: Floats
    threshold: Floats

    @property
    def auc(self) -> float:
        return float(area(self.fpr, self.tpr))

    def tpr_at_fpr(self, fpr: float) -> float:
        """See :func:`tpr_at_fpr`."""
        return float(tpr_at_fpr(self.fpr, self.tpr, [fpr])[0])

    def threshold_at_fpr(self, fpr: float) -> float:
        """Loosest threshold whose FPR does not exceed ``fpr``; infinity when a single event is too much."""
        return float(self.threshold[vertex_at_fpr(self.fpr, [fpr])[0]])


@dataclass(frozen=True)
class Ranking:
    """Events in order of falling score, equal scores grouped.

    ``order`` (n,) sorts the events, ``ends`` (k,) is the last position of each group of equal
    scores, ``thresholds`` (k + 1,) the scores of the groups after an infinity, ``signal`` (n,) the
    label in the original order.
    """

    order: NDArray[np.int64]
    ends: NDArray[np.int64]
    thresholds: Floats
    signal: NDArray[np.bool_]

    @classmethod
    def of(cls, label: ArrayLike, score: ArrayLike) -> Ranking:
        """Order events by score. ``label`` is 0 or 1, both (n,); raises UserError for anything else."""
        scores = np.asarray(score, dtype=np.float64)
        labels = np.asarray(label)
        if scores.ndim != 1 or labels.shape != scores.shape:
            raise UserError(
                f"labels {labels.shape} and scores {scores.shape} must be two columns of one length"
            )
        if scores.size == 0:
            raise UserError("there are no events to evaluate")
        if not np.isfinite(scores).all():
            raise UserError(
                "a score is not finite", hint="the network diverged: train with a lower learning rate"
            )
        if not np.isin(labels, (0, 1)).all():
            raise UserError("labels must be 0 (background) or 1 (signal)")
        order = np.argsort(-scores, kind="stable")
        falling = scores[order]
        ends = np.append(np.flatnonzero(np.diff(falling)), falling.size - 1)
        thresholds = np.concatenate([[np.inf], falling[ends]])
        return cls(order, ends, thresholds, labels.astype(bool))

    def passing(self, weight: NDArray[Any], of: NDArray[np.bool_]) -> Floats:
        """Sum of the weights of the events marked in ``of`` that pass each threshold.

        ``weight`` has shape (..., n), in the original order of the events; the result (..., k + 1).
        """
        summed = np.cumsum((weight * of)[..., self.order], axis=-1, dtype=np.float64)[..., self.ends]
        return np.concatenate([np.zeros((*summed.shape[:-1], 1)), summed], axis=-1)

    def yields(self, weight: NDArray[Any]) -> tuple[Floats, Floats]:
        """Signal and background sums that pass each threshold, each (..., k + 1)."""
        return self.passing(weight, self.signal), self.passing(weight, ~self.signal)

    def rates(self, weight: NDArray[Any]) -> tuple[Floats, Floats]:
        """FPR and TPR at each threshold, each (..., k + 1); NaN in a replica that lost a whole class."""
        signal, background = self.yields(weight)
        with np.errstate(invalid="ignore", divide="ignore"):
            return background / background[..., -1:], signal / signal[..., -1:]

    def curve(self, weight: ArrayLike | None = None) -> RocCurve:
        """The ROC curve of the sample under ``weight`` (n,), or counting events when None."""
        checked = check_weights(weight, self.signal.size)
        for name, members in (("signal", self.signal), ("background", ~self.signal)):
            if not checked[members].sum() > 0:
                raise UserError(f"no {name} event with a positive weight: a ROC curve needs both classes")
        fpr, tpr = self.rates(checked)
        return RocCurve(fpr, tpr, self.thresholds)


def roc_curve(label: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None) -> RocCurve:
    """ROC curve of scores (n,) with labels 0/1 (n,) and optional non-negative weights (n,).

    >>> curve = roc_curve([1, 0, 1, 0], [0.9, 0.6, 0.6, 0.1])
    >>> curve.auc
    0.875
    """
    return Ranking.of(label, score).curve(weight)


def area(fpr: Floats, tpr: Floats) -> Floats:
    """Area under ROC curves (..., k + 1) by the trapezoid rule, shape (...).

    The trapezoid counts a tied pair of a signal and a background event one half, so the area is the
    Mann-Whitney probability that a signal event scores above a background event.
    """
    heights = tpr[..., 1:] + tpr[..., :-1]
    return np.asarray((np.diff(fpr, axis=-1) * heights).sum(axis=-1) / 2)


def vertex_at_fpr(fpr: Floats, target: ArrayLike) -> NDArray[np.int64]:
    """Index of the loosest vertex with FPR ≤ target, in each of the curves (..., k + 1).

    ``target`` is (m,), or (..., m) to ask each curve its own; the result is (..., m). A vertex
    within rounding of the target counts as at it.
    """
    wanted = np.asarray(target, dtype=np.float64) * (1 + 1e-12)
    rows = fpr.reshape(-1, fpr.shape[-1])
    limits = np.broadcast_to(wanted, (*fpr.shape[:-1], wanted.shape[-1])).reshape(len(rows), -1)
    found = [np.searchsorted(row, limit, side="right") for row, limit in zip(rows, limits, strict=True)]
    return (np.asarray(found) - 1).clip(min=0).reshape(*fpr.shape[:-1], -1)


def tpr_at_fpr(fpr: Floats, tpr: Floats, target: ArrayLike) -> Floats:
    """TPR at the FPRs ``target``, (m,) or (..., m), in each of the curves (..., k + 1): (..., m).

    Between two vertices the curve is a straight line (a random choice between the two thresholds
    realises it). Below the first background event there is nothing to interpolate to: the TPR is
    then that of the tightest region, where no background event passes, which is conservative.
    """
    wanted = np.asarray(target, dtype=np.float64)
    below = vertex_at_fpr(fpr, wanted)
    above = np.minimum(below + 1, fpr.shape[-1] - 1)
    start, floor = np.take_along_axis(fpr, below, -1), np.take_along_axis(tpr, below, -1)
    width = np.take_along_axis(fpr, above, -1) - start
    inside = (width > 0) & (start > 0)
    share = np.divide(wanted - start, width, out=np.zeros_like(start), where=inside).clip(0.0, 1.0)
    return np.asarray(floor + share * (np.take_along_axis(tpr, above, -1) - floor))
