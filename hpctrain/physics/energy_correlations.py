"""Energy correlation functions of jets (1305.0007, 1609.07483), for whole jets of any size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpctrain.physics.particle_jets import Constituents
from hpctrain.physics.particles import Floats


@dataclass(frozen=True)
class EnergyCorrelations:
    """Normalised correlation functions of a number of jets, each (jets,).

    With z = pT / Σ pT and θ the distance in rapidity and azimuth: sums over pairs of z z θ^β, over triples
    of z z z times the angles named. 0 where a jet has fewer constituents than the sum takes.
    """

    pairs: dict[int, Floats]
    """e₂ for β = 0, 1, 2."""
    triples: dict[int, Floats]
    """e₃ = ₃e₃ for β = 1, 2: all three angles."""
    smallest: dict[int, Floats]
    """₁e₃ for β = 1, 2: the smallest angle."""
    two_smallest: dict[int, Floats]
    """₂e₃ for β = 1, 2: the product of the two smallest angles."""


def energy_correlations(constituents: Constituents) -> EnergyCorrelations:
    """The correlation functions of every jet; the time grows with the cube of a jet's constituents."""
    pt, rapidity, phi = constituents.pt, constituents.rapidity, constituents.phi
    offsets = constituents.offsets
    rows = np.zeros((len(constituents), 9))
    for jet in range(len(constituents)):
        part = slice(offsets[jet], offsets[jet + 1])
        rows[jet] = _one_jet(pt[part] / max(pt[part].sum(), 1e-300), rapidity[part], phi[part])
    e20, e21, e22, e31, e32, s1, s2, t1, t2 = rows.T
    return EnergyCorrelations({0: e20, 1: e21, 2: e22}, {1: e31, 2: e32}, {1: s1, 2: s2}, {1: t1, 2: t2})


def _one_jet(z: Floats, rapidity: Floats, phi: Floats) -> Floats:
    """e₂ (β 0, 1, 2), ₃e₃, ₁e₃ and ₂e₃ (β 1, 2 each) of one jet."""
    turn = phi[:, None] - phi[None, :]
    turn -= 2.0 * np.pi * np.round(turn / (2.0 * np.pi))
    square = (rapidity[:, None] - rapidity[None, :]) ** 2 + turn**2
    angle = np.sqrt(square)
    out = np.zeros(9)
    out[0] = 0.5 * (z.sum() ** 2 - z @ z)
    out[1] = 0.5 * z @ angle @ z
    out[2] = 0.5 * z @ square @ z
    if len(z) < 3:
        return out
    # Σ over closed triangles is the trace of a cube: one matrix product instead of a loop over triples.
    root = np.sqrt(z)
    for place, distance in ((3, angle), (4, square)):
        matrix = root[:, None] * distance * root[None, :]
        out[place] = np.sum((matrix @ matrix) * matrix) / 6.0
    # Of the sums with the smallest angles each triple is taken once, at its first member: for member i all
    # pairs (j, k) of later ones stand in one matrix, and each pair twice.
    for i in range(len(z) - 2):
        later = z[i + 1 :]
        near, far = angle[i, i + 1 :], angle[i + 1 :, i + 1 :]
        low = np.minimum(near[:, None], near[None, :])
        two = np.minimum(near[:, None] * near[None, :], low * far)
        np.minimum(low, far, out=low)
        half = 0.5 * z[i]
        np.fill_diagonal(low, 0.0)
        np.fill_diagonal(two, 0.0)
        out[5] += half * (later @ (low @ later))
        out[7] += half * (later @ (two @ later))
        low *= low
        two *= two
        out[6] += half * (later @ (low @ later))
        out[8] += half * (later @ (two @ later))
    return out
