"""Flight of particles through the tracker's solenoid field to the face of the calorimeters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hpctrain.physics.particles import Floats, Particles

LIGHT = 0.299792458
"""p [GeV] = LIGHT · q · B [T] · ρ [m]: the speed of light in m/ns."""


@dataclass(frozen=True)
class Solenoid:
    """A cylinder around the beam with a field along it; numbers of the Delphes ATLAS card."""

    radius: float = 1.15
    """Metres."""
    half_length: float = 3.51
    """Metres."""
    field: float = 2.0
    """Tesla, along +z."""


@dataclass(frozen=True)
class Impact:
    """Where each particle leaves the cylinder."""

    x: Floats
    y: Floats
    z: Floats
    """Metres."""
    reached: npt.NDArray[np.bool_]
    """False for particles born outside the cylinder or turning in it without end."""

    @property
    def eta(self) -> Floats:
        return pseudorapidity(np.hypot(self.x, self.y), self.z)

    @property
    def phi(self) -> Floats:
        return np.arctan2(self.y, self.x)


def pseudorapidity(transverse: Floats, z: Floats) -> Floats:
    """η of vectors with the given transverse and longitudinal components; ±inf on the beam axis."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.arcsinh(z / transverse)


def propagate(particles: Particles, solenoid: Solenoid | None = None) -> Impact:
    """Exact intersection of each trajectory, from its production point, with the cylinder.

    Neutral particles fly straight, charged ones on a helix; no material, no energy loss. The path is
    parametrised by t in metres per GeV: a straight flight is x = x₀ + p·t, and in the field the
    transverse momentum turns by ω = −0.2998·q·B radians per unit of t. Of barrel and end cap the one
    met first counts, so that soft particles curl up into the end caps.
    """
    solenoid = solenoid or Solenoid()
    x0, y0, z0 = particles.x * 1e-3, particles.y * 1e-3, particles.z * 1e-3
    px, py, pz = particles.px, particles.py, particles.pz
    inside = (np.hypot(x0, y0) < solenoid.radius) & (np.abs(z0) < solenoid.half_length)
    charged = np.abs(particles.charge) > 1e-9
    omega = -LIGHT * particles.charge * solenoid.field
    bent = charged & (omega != 0.0)

    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        t_cap = (solenoid.half_length - np.sign(pz) * z0) / np.abs(pz)
        t_barrel = np.where(
            bent,
            _helix_to_barrel(x0, y0, px, py, np.where(bent, omega, 1.0), solenoid.radius),
            _line_to_barrel(x0, y0, px, py, solenoid.radius),
        )
    t = np.fmin(t_barrel, t_cap)
    reached = inside & np.isfinite(t)
    t = np.where(reached, t, 0.0)

    # Along the chord: sin(a)/a → 1 makes the straight line the limit of the helix.
    half_turn = np.where(bent, 0.5 * omega * t, 0.0)
    chord = t * np.sinc(half_turn / np.pi)
    cos, sin = np.cos(half_turn), np.sin(half_turn)
    return Impact(
        x=x0 + chord * (px * cos - py * sin),
        y=y0 + chord * (px * sin + py * cos),
        z=z0 + pz * t,
        reached=reached,
    )


def _line_to_barrel(x0: Floats, y0: Floats, px: Floats, py: Floats, radius: float) -> Floats:
    """Path length t of a straight flight to the barrel; inf where it runs along the beam."""
    pt2 = px**2 + py**2
    b = x0 * px + y0 * py
    root = np.sqrt(b**2 + pt2 * (radius**2 - x0**2 - y0**2))
    return np.where(pt2 > 0.0, (root - b) / pt2, np.inf)


def _helix_to_barrel(x0: Floats, y0: Floats, px: Floats, py: Floats, omega: Floats, radius: float) -> Floats:
    """Path length t of a helix to the barrel; inf where its circle stays inside.

    The circle has the signed radius ρ = pT/ω around a centre at distance d from the beam, in direction
    α. A point at the angle ψ of the momentum lies at r² = d² + ρ² + 2ρd·sin(ψ − α).
    """
    rho = np.hypot(px, py) / omega
    start = np.arctan2(py, px)
    xc, yc = x0 - rho * np.sin(start), y0 + rho * np.cos(start)
    d, alpha = np.hypot(xc, yc), np.arctan2(yc, xc)
    k = (radius**2 - d**2 - rho**2) / (2.0 * rho * d)
    meets = np.abs(k) <= 1.0
    bend = np.arcsin(np.where(meets, k, 0.0))
    sense = np.sign(omega)
    turn = np.minimum(
        np.mod(sense * (alpha + bend - start), 2.0 * np.pi),
        np.mod(sense * (alpha + np.pi - bend - start), 2.0 * np.pi),
    )
    return np.where(meets, turn / np.abs(omega), np.inf)
