"""Fat-jet variables, preselection and benchmark selection of the RPV search (Bhimji et al., appendix A)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hpctrain.physics.jets import Jets
from hpctrain.physics.particles import Floats, Ints, sum_by

Bools = npt.NDArray[np.bool_]

JET_PT_MIN_GEV = 200.0
JET_ETA_MAX = 2.0
LEADING_PT_MIN_GEV = 440.0
MIN_JETS = 3
LEADING_JETS = 5
"""Jets whose four-momenta are kept."""
MASS_JETS = 4
"""Jets whose masses are summed, as in NERSC's code."""


@dataclass(frozen=True)
class JetVariables:
    """Variables of each event, from its fat jets with pT > 200 GeV and |η| < 2.0."""

    jets: Floats
    """(events, 5, 4): pT, η, φ, m [GeV] of the leading jets, zero where there are fewer."""
    n_jets: Ints
    """(events,)"""
    sum_mass: Floats
    """(events,) GeV, over the four leading jets."""
    delta_eta: Floats
    """(events,) |Δη| of the two leading jets, 0 where there are fewer than two."""

    @property
    def preselected(self) -> Bools:
        """Leading jet above 440 GeV and more than two jets."""
        return np.asarray((self.jets[:, 0, 0] > LEADING_PT_MIN_GEV) & (self.n_jets >= MIN_JETS))

    @property
    def selected(self) -> Bools:
        """The benchmark selection, preselection included.

        |Δη₁₂| < 1.4 and (N ≥ 4 with ΣM > 800 GeV, or N ≥ 5 with ΣM > 600 GeV). With trimmed jets it
        keeps 0.25–0.30 of the preselected signal; with untrimmed ones (the masses that NERSC's
        notebook read) about 0.47, and several times more background.
        """
        four = (self.n_jets >= 4) & (self.sum_mass > 800.0)
        five = (self.n_jets >= 5) & (self.sum_mass > 600.0)
        return np.asarray(self.preselected & (self.delta_eta < 1.4) & (four | five))


def jet_variables(jets: Jets) -> JetVariables:
    """The variables of every event of ``jets``, whether trimmed or not."""
    pt, eta = jets.pt, jets.eta
    good = (pt > JET_PT_MIN_GEV) & (np.abs(eta) < JET_ETA_MAX)
    event, pt, eta, phi, mass = jets.event[good], pt[good], eta[good], jets.phi[good], jets.mass[good]
    order = np.lexsort((-pt, event))
    event, pt, eta, phi, mass = event[order], pt[order], eta[order], phi[order], mass[order]

    n_jets = np.bincount(event, minlength=jets.n_events)
    first = np.cumsum(n_jets) - n_jets
    rank = np.arange(len(event)) - first[event]
    kept = rank < LEADING_JETS
    leading = np.zeros((jets.n_events, LEADING_JETS, 4))
    leading[event[kept], rank[kept]] = np.stack([pt, eta, phi, mass], axis=1)[kept]
    heavy = rank < MASS_JETS
    return JetVariables(
        jets=leading,
        n_jets=n_jets.astype(np.int64),
        sum_mass=sum_by(event[heavy], mass[heavy], jets.n_events),
        delta_eta=np.where(n_jets >= 2, np.abs(leading[:, 0, 1] - leading[:, 1, 1]), 0.0),
    )
