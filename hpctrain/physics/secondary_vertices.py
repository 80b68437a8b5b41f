"""Secondary vertices of jets: true decay points that tracks share, smeared, and their 14 features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpctrain.physics.impact_parameters import SmearedTracks
from hpctrain.physics.jets import Jets
from hpctrain.physics.particles import Floats, Ints, Particles, sum_by
from hpctrain.physics.propagation import pseudorapidity

VERTEX_FEATURES = (
    "ptrel",
    "erel",
    "phirel",
    "etarel",
    "deltaR",
    "pt",
    "mass",
    "ntracks",
    "charge",
    "dxy",
    "dxysig",
    "d3d",
    "d3dsig",
    "costhetasvpv",
)
"""Columns of a secondary vertex."""

FLIGHT_MIN_MM, FLIGHT_MAX_MM = 0.1, 50.0
"""Transverse flight of a secondary vertex: nearer ones are not told from the collision."""
VERTEX_ALONG_MM, VERTEX_ACROSS_MM = 0.2, 0.02
"""Errors of a vertex along its flight and across."""


@dataclass(frozen=True)
class Vertices:
    """Secondary vertices with at least two tracks."""

    jet: Ints
    position: Floats
    """(vertices, 3) mm, smeared."""
    momentum: Floats
    """(vertices, 4): px, py, pz, E of its tracks."""
    tracks: Ints
    charge: Floats
    error_3d: Floats
    error_xy: Floats


def secondary_vertices(
    particles: Particles, tracks: SmearedTracks, jet: Ints, rng: np.random.Generator
) -> Vertices:
    """Production points that two or more tracks of a jet share, away from the beam; their position smeared."""
    point = np.stack([particles.x, particles.y, particles.z], axis=1)[tracks.row]
    flight = np.hypot(point[:, 0], point[:, 1])
    away = np.flatnonzero((flight > FLIGHT_MIN_MM) & (flight < FLIGHT_MAX_MM))
    key, inverse, size = np.unique(
        np.column_stack([jet[away], point[away]]), axis=0, return_inverse=True, return_counts=True
    )
    inverse = inverse.reshape(-1)

    def total(values: Floats) -> Floats:
        return sum_by(inverse, values[away], len(key))[size > 1]

    momentum = np.stack([total(v) for v in (tracks.px, tracks.py, tracks.pz, tracks.e)], axis=1)
    true = key[size > 1, 1:]
    length = np.linalg.norm(true, axis=1, keepdims=True)
    direction = true / np.maximum(length, 1e-300)
    noise = rng.standard_normal((len(true), 3))
    along = np.sum(noise * direction, axis=1, keepdims=True) * direction
    position = true + VERTEX_ALONG_MM * along + VERTEX_ACROSS_MM * (noise - along)
    sin = np.hypot(direction[:, 0], direction[:, 1])
    return Vertices(
        jet=key[size > 1, 0].astype(np.int64),
        position=position,
        momentum=momentum,
        tracks=size[size > 1].astype(np.int64),
        charge=total(tracks.charge),
        error_3d=np.full(len(true), VERTEX_ALONG_MM),
        error_xy=np.hypot(VERTEX_ALONG_MM * sin, VERTEX_ACROSS_MM * np.sqrt(np.maximum(1.0 - sin**2, 0.0))),
    )


def vertex_features(vertices: Vertices, jets: Jets) -> dict[str, Floats]:
    """Columns ``VERTEX_FEATURES`` by name; ``vertices.jet`` are rows of ``jets``."""
    jet, position = vertices.jet, vertices.position
    px, py, pz, e = vertices.momentum.T
    pt = np.hypot(px, py)
    side = np.where(jets.eta[jet] < 0.0, -1.0, 1.0)
    delta_eta, delta_phi = pseudorapidity(pt, pz) - jets.eta[jet], _wrap(np.arctan2(py, px) - jets.phi[jet])
    flight_xy, flight = np.hypot(position[:, 0], position[:, 1]), np.linalg.norm(position, axis=1)
    along = position[:, 0] * px + position[:, 1] * py + position[:, 2] * pz
    return {
        "ptrel": pt / jets.pt[jet],
        "erel": e / jets.e[jet],
        "phirel": delta_phi,
        "etarel": side * delta_eta,
        "deltaR": np.hypot(delta_eta, delta_phi),
        "pt": pt,
        "mass": np.sqrt(np.maximum(e**2 - px**2 - py**2 - pz**2, 0.0)),
        "ntracks": vertices.tracks.astype(np.float64),
        "charge": vertices.charge,
        "dxy": flight_xy,
        "dxysig": flight_xy / vertices.error_xy,
        "d3d": flight,
        "d3dsig": flight / vertices.error_3d,
        "costhetasvpv": along / np.maximum(flight * np.sqrt(px**2 + py**2 + pz**2), 1e-12),
    }


def _wrap(phi: Floats) -> Floats:
    return phi - 2.0 * np.pi * np.round(phi / (2.0 * np.pi))
