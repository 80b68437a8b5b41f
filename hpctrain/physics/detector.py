"""A parametrised detector with the numbers of the Delphes ATLAS card of before September 2016.

Not Delphes and not ATLAS: samples are labelled ``DETECTOR_LABEL``. Left out: material, energy loss,
photon conversions, fakes, pileup, particle flow, identification; see docs/physics.md.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hpctrain.physics import calorimeter
from hpctrain.physics.calorimeter import Towers, log_normal, measure_towers
from hpctrain.physics.particles import Floats, Ints, Particles
from hpctrain.physics.propagation import Solenoid, propagate, pseudorapidity

DETECTOR_LABEL = "Delphes-ATLAS-like parametrised simulation"


@dataclass(frozen=True)
class Tracks:
    """Reconstructed tracks of charged particles, one row each, ordered by event."""

    n_events: int
    event: Ints
    pt: Floats
    """GeV, smeared."""
    eta: Floats
    phi: Floats
    """Direction at the production point, not smeared."""

    def __len__(self) -> int:
        return len(self.event)


@dataclass(frozen=True)
class DetectorEvents:
    """What the detector sees of ``n_events`` events."""

    n_events: int
    towers: Towers
    tracks: Tracks


def tracking_efficiency(pdg: Ints, pt: Floats, eta: Floats) -> Floats:
    """Probability that a charged particle gives a track, by kind, pT [GeV] and η."""
    barrel, covered = np.abs(eta) <= 1.5, np.abs(eta) <= 2.5
    soft, medium = pt <= 1.0, pt <= 100.0
    code = np.abs(pdg)
    hadron = np.where(barrel, np.where(soft, 0.70, 0.95), np.where(soft, 0.60, 0.85))
    electron = np.where(
        barrel,
        np.where(soft, 0.73, np.where(medium, 0.95, 0.99)),
        np.where(soft, 0.50, np.where(medium, 0.83, 0.90)),
    )
    muon = np.where(barrel, np.where(soft, 0.75, 0.99), np.where(soft, 0.70, 0.98))
    efficiency = np.where(code == 11, electron, np.where(code == 13, muon, hadron))
    return np.where(covered & (pt > 0.1), efficiency, 0.0)


def track_resolution(pdg: Ints, pt: Floats, eta: Floats) -> Floats:
    """Relative resolution σ(pT)/pT of a track, by kind, pT [GeV] and η."""
    regions = [np.abs(eta) <= 0.5, np.abs(eta) <= 1.5]
    code = np.abs(pdg)

    def curve(constant: tuple[float, float, float], slope: tuple[float, float, float]) -> Floats:
        a = np.select(regions, constant[:2], constant[2])
        b = np.select(regions, slope[:2], slope[2])
        return np.sqrt(a**2 + (b * pt) ** 2)

    hadron = curve((0.06, 0.10, 0.25), (1.3e-3, 1.7e-3, 3.1e-3))
    electron = curve((0.03, 0.05, 0.15), (1.3e-3, 1.7e-3, 3.1e-3))
    muon = curve((0.01, 0.015, 0.025), (1.0e-4, 1.5e-4, 3.5e-4))
    return np.where(code == 11, electron, np.where(code == 13, muon, hadron))


def measure_tracks(particles: Particles, rng: np.random.Generator) -> Tracks:
    """Tracks of the charged particles of Particles: thinned by efficiency, pT smeared log-normally."""
    charged = particles.where(np.abs(particles.charge) > 1e-9)
    pt = np.hypot(charged.px, charged.py)
    eta = pseudorapidity(pt, charged.pz)
    found = rng.random(len(pt)) < tracking_efficiency(charged.pdg, pt, eta)
    seen, pt, eta = charged.where(found), pt[found], eta[found]
    measured = log_normal(rng, pt, pt * track_resolution(seen.pdg, pt, eta))
    return Tracks(particles.n_events, seen.event, measured, eta, np.arctan2(seen.py, seen.px))


def simulate(
    particles: Particles, rng: np.random.Generator, solenoid: Solenoid | None = None
) -> DetectorEvents:
    """Towers and tracks of the given final-state particles; the same ``rng`` state gives the same ones."""
    impact = propagate(particles, solenoid)
    # A particle born behind the calorimeter's face is not seen by the tracker either.
    inner = particles.where(impact.reached)
    towers = measure_towers(particles, impact, rng)
    return DetectorEvents(particles.n_events, towers, measure_tracks(inner, rng))


def describe_detector(solenoid: Solenoid | None = None) -> dict[str, Any]:
    """The detector's numbers as plain JSON types, for the provenance of a dataset."""
    return {
        "label": DETECTOR_LABEL,
        "source": "numbers of delphes/delphes cards/delphes_card_ATLAS.tcl as before September 2016",
        "solenoid": asdict(solenoid or Solenoid()),
        "towers": calorimeter.N_TOWERS,
        "eta_max": float(calorimeter.ETA_EDGES[-1]),
        "ecal_min_gev": calorimeter.ECAL_MIN_GEV,
        "hcal_min_gev": calorimeter.HCAL_MIN_GEV,
        "min_significance": calorimeter.MIN_SIGNIFICANCE,
        "pileup": 0,
    }
