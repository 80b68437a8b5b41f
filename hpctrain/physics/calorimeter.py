"""Calorimeter towers after the numbers of the Delphes ATLAS card of before September 2016."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpctrain.physics.particles import Floats, Ints, Particles, sum_by
from hpctrain.physics.propagation import Impact

ELECTROMAGNETIC = (11, 22, 111)
"""e, γ, π⁰: all of their energy goes to the ECAL."""
STRANGE_NEUTRAL = (310, 3122)
"""K⁰s and Λ: 0.3 to the ECAL, 0.7 to the HCAL."""
INVISIBLE = (12, 13, 14, 16, 1000022, 1000023, 1000025, 1000035, 1000045)
"""Neutrinos, muons and neutralinos leave nothing. Every other particle leaves all in the HCAL."""

ECAL_MIN_GEV = 0.5
HCAL_MIN_GEV = 1.0
MIN_SIGNIFICANCE = 1.0
"""A tower below its minimum, or below this many resolutions, is put to zero."""


def _tower_edges() -> tuple[Floats, Ints]:
    """Edges in η (n+1) and the number of cells in φ (n) of every ring of towers.

    The card lists edges with the φ binning of the ring *below* each of them, which gives rings of
    0.1 × 10° to |η| = 2.6 (and one from 3.2 to 3.3), and of about 0.2 × 20° beyond, to 4.9.
    """
    fine = np.round(np.arange(0, 27) * 0.1, 1)
    half = np.concatenate([fine, [2.8, 3.0, 3.2, 3.3, 3.5, 3.7, 3.9, 4.1, 4.3, 4.5, 4.7, 4.9]])
    edges = np.concatenate([-half[:0:-1], half])
    centre = np.abs(0.5 * (edges[1:] + edges[:-1]))
    cells = np.where((centre < 2.6) | ((centre > 3.2) & (centre < 3.3)), 36, 18)
    return edges, cells.astype(np.int64)


ETA_EDGES, PHI_CELLS = _tower_edges()
_FIRST_TOWER = np.concatenate([[0], np.cumsum(PHI_CELLS)])
N_TOWERS = int(_FIRST_TOWER[-1])


@dataclass(frozen=True)
class Towers:
    """Towers with energy above threshold, one row each, ordered by event."""

    n_events: int
    event: Ints
    eta: Floats
    phi: Floats
    """Direction; spread evenly over the tower's face as Delphes does, so that no lattice shows."""
    ecal: Floats
    hcal: Floats
    """Energies in GeV."""

    def __len__(self) -> int:
        return len(self.event)


def energy_fractions(pdg: Ints) -> tuple[Floats, Floats]:
    """Parts of the energy that ECAL and HCAL see, by PDG code; both of the shape of ``pdg``."""
    code = np.abs(pdg)
    ecal = np.select([np.isin(code, ELECTROMAGNETIC), np.isin(code, STRANGE_NEUTRAL)], [1.0, 0.3], 0.0)
    hcal = np.where(np.isin(code, INVISIBLE), 0.0, 1.0 - ecal)
    return ecal, hcal


def ecal_resolution(eta: Floats, energy: Floats) -> Floats:
    """σ(E) of the ECAL in GeV at pseudorapidity ``eta`` and energy ``energy`` [GeV]."""
    constant = np.where(np.abs(eta) <= 3.2, 0.0017, 0.0350)
    stochastic = np.where(np.abs(eta) <= 3.2, 0.101, 0.285)
    return np.asarray(np.sqrt((constant * energy) ** 2 + stochastic**2 * energy))


def hcal_resolution(eta: Floats, energy: Floats) -> Floats:
    """σ(E) of the HCAL in GeV at pseudorapidity ``eta`` and energy ``energy`` [GeV]."""
    regions = [np.abs(eta) <= 1.7, np.abs(eta) <= 3.2]
    constant = np.select(regions, [0.0302, 0.0500], 0.0942)
    stochastic = np.select(regions, [0.5205, 0.706], 1.00)
    noise = np.select(regions, [1.59, 0.0], 0.0)
    return np.asarray(np.sqrt((constant * energy) ** 2 + stochastic**2 * energy + noise**2))


def log_normal(rng: np.random.Generator, mean: Floats, sigma: Floats) -> Floats:
    """Log-normal numbers of the given means and standard deviations; 0 where the mean is 0.

    Log-normal as in Delphes: energies stay positive where a Gaussian would cross zero.
    """
    out = np.zeros_like(mean)
    positive = mean > 0.0
    mu, ratio = mean[positive], sigma[positive] / mean[positive]
    width = np.sqrt(np.log1p(ratio**2))
    out[positive] = mu * np.exp(width * rng.standard_normal(len(mu)) - 0.5 * width**2)
    return out


def tower_index(eta: Floats, phi: Floats) -> Ints:
    """Number of the tower in each direction, 0 to N_TOWERS - 1; −1 outside |η| < 4.9."""
    ring = np.searchsorted(ETA_EDGES, eta, side="right") - 1
    covered = (ring >= 0) & (ring < len(PHI_CELLS))
    ring = np.where(covered, ring, 0)
    cells = PHI_CELLS[ring]
    cell = np.floor((phi + np.pi) / (2.0 * np.pi) * cells).astype(np.int64) % cells
    return np.where(covered, _FIRST_TOWER[ring] + cell, -1)


def measure_towers(particles: Particles, impact: Impact, rng: np.random.Generator) -> Towers:
    """Sum the particles' energies by tower, smear, cut on thresholds and spread over the tower's face."""
    ecal_part, hcal_part = energy_fractions(particles.pdg)
    tower = tower_index(impact.eta, impact.phi)
    hit = impact.reached & (tower >= 0) & (ecal_part + hcal_part > 0.0)
    key, inverse = np.unique(particles.event[hit] * N_TOWERS + tower[hit], return_inverse=True)
    ecal = sum_by(inverse, (particles.e * ecal_part)[hit], len(key))
    hcal = sum_by(inverse, (particles.e * hcal_part)[hit], len(key))
    event, number = key // N_TOWERS, key % N_TOWERS
    ring = np.searchsorted(_FIRST_TOWER, number, side="right") - 1
    low, width = ETA_EDGES[ring], ETA_EDGES[ring + 1] - ETA_EDGES[ring]
    cell_width = 2.0 * np.pi / PHI_CELLS[ring]
    cell = number - _FIRST_TOWER[ring]

    centre = low + 0.5 * width
    ecal = log_normal(rng, ecal, ecal_resolution(centre, ecal))
    hcal = log_normal(rng, hcal, hcal_resolution(centre, hcal))
    # As in Delphes the significance is judged with the resolution at the measured energy.
    ecal[(ecal < ECAL_MIN_GEV) | (ecal < MIN_SIGNIFICANCE * ecal_resolution(centre, ecal))] = 0.0
    hcal[(hcal < HCAL_MIN_GEV) | (hcal < MIN_SIGNIFICANCE * hcal_resolution(centre, hcal))] = 0.0
    eta = low + width * rng.random(len(key))
    phi = -np.pi + cell_width * (cell + rng.random(len(key)))
    seen = ecal + hcal > 0.0
    return Towers(particles.n_events, event[seen], eta[seen], phi[seen], ecal[seen], hcal[seen])
