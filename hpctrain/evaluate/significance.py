"""Expected discovery significance (AMS) and the effective number of weighted events."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpctrain.errors import UserError
from hpctrain.evaluate.roc import Floats, Ranking, check_weights

REGULARISATION = 10.0
"""b_r of the CERN HiggsML challenge: events added to the background so that b → 0 stays finite."""


def ams(signal: ArrayLike, background: ArrayLike, regularisation: float = REGULARISATION) -> Floats:
    """Approximate median significance of ``signal`` events over ``background`` events.

    AMS = √(2 ((s + b + b_r) ln(1 + s / (b + b_r)) − s)), the regularised significance of the CERN
    HiggsML challenge (Adam-Bourdarios et al. 2015, JMLR W&CP 42:19-55); its unregularised form
    is eq. 97 of Cowan et al. 2011 (Eur. Phys. J. C 71:1554). ``s`` and ``b`` are expected numbers of
    events at the luminosity studied, of any shapes that broadcast. Raises UserError below zero.

    >>> round(float(ams(10.0, 90.0)), 4)
    0.984
    """
    s = np.asarray(signal, dtype=np.float64)
    b = np.asarray(background, dtype=np.float64) + regularisation
    if (s < 0).any() or (b <= 0).any():
        raise UserError("the significance needs s ≥ 0 and b + b_r > 0")
    ratio = s / b
    # (1 + x) ln(1 + x) − x cancels to nothing at small x: its series is exact to rounding there.
    series = ratio**2 / 2 - ratio**3 / 6 + ratio**4 / 12
    exact = (1 + ratio) * np.log1p(ratio) - ratio
    return np.asarray(np.sqrt(2 * b * np.where(ratio < 1e-4, series, exact)))


def effective_events(weight: ArrayLike, axis: int = -1) -> Floats:
    """n_eff = (Σw)² / Σw², the number of unweighted events with the same relative error; 0 for none.

    >>> float(effective_events([2.0, 2.0, 2.0]))
    3.0
    """
    array = np.asarray(weight, dtype=np.float64)
    total, squares = array.sum(axis=axis), (array**2).sum(axis=axis)
    return np.asarray(np.divide(total**2, squares, out=np.zeros_like(squares), where=squares > 0))


def split_weights(weight: ArrayLike, process: ArrayLike, fractions: ArrayLike) -> Floats:
    """Weights that make the sum over one split the number of events expected in the whole sample.

    ``weight`` (n,) is σ·L/N of the full sample, ``process`` (n,) indexes ``fractions``, the share of
    each process's events that lies in this split (0 < fraction ≤ 1).
    """
    shares = np.asarray(fractions, dtype=np.float64)
    index = np.asarray(process, dtype=np.int64)
    if index.size and (index.min() < 0 or index.max() >= shares.size):
        raise UserError(f"a process index lies outside the {shares.size} processes of the data's provenance")
    own = shares[index]
    if not ((own > 0) & (own <= 1)).all():
        raise UserError("a split_fraction of the data's provenance is not within (0, 1]")
    return np.asarray(weight, dtype=np.float64) / own


@dataclass(frozen=True)
class SignificanceScan:
    """Expected events and AMS when every event with score ≥ threshold is kept; arrays (k + 1,)."""

    threshold: Floats
    signal: Floats
    background: Floats
    ams: Floats

    @property
    def best(self) -> int:
        """Index of the highest AMS, the tightest threshold when several share it."""
        return int(np.argmax(self.ams))


def scan(
    label: ArrayLike, score: ArrayLike, weight: ArrayLike, regularisation: float = REGULARISATION
) -> SignificanceScan:
    """AMS at every threshold; ``weight`` (n,) must already be corrected for the split."""
    ranking = Ranking.of(label, score)
    signal, background = ranking.yields(check_weights(weight, ranking.signal.size))
    return SignificanceScan(ranking.thresholds, signal, background, ams(signal, background, regularisation))


def ams_of_selection(
    selected: NDArray[np.bool_],
    label: NDArray[np.bool_],
    weight: Floats,
    regularisation: float = REGULARISATION,
) -> Floats:
    """AMS of a yes/no selection (n,) under weights (..., n), shape (...)."""
    signal = (weight * (selected & label)).sum(axis=-1)
    background = (weight * (selected & ~label)).sum(axis=-1)
    return ams(signal, background, regularisation)
