"""Impact parameters of charged particles from their true production points, with a toy tracker's errors.

A parametrised toy with round numbers of a silicon tracker, no experiment's: the first layer at 30 mm measures
10 µm across and 25 µm along the beam; multiple scattering before and in it kicks the track by
2.5 mrad · GeV / (pT √sin θ); the layers behind measure the direction to 0.1 mrad and the momentum to
0.7 % ⊕ 1.5·10⁻⁴ pT. Kicks move the impact parameter and the angle together, so both carry one covariance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpctrain.physics.particles import Floats, Ints, Particles
from hpctrain.physics.propagation import pseudorapidity

FIRST_LAYER_MM = 30.0
HIT_XY_MM = 0.010
HIT_Z_MM = 0.025
KICK_MRAD_GEV = 2.5
ANGLE_MRAD = 0.1
PT_CONSTANT = 0.007
PT_SLOPE = 1.5e-4
PION_GEV = 0.13957

SMEARING_LABEL = "truth vertices, smeared impact parameters"


@dataclass(frozen=True)
class SmearedTracks:
    """Measured parameters of charged particles, one row each, and their covariance; millimetres, GeV, radians."""

    row: Ints
    """Which of the ``Particles`` it is."""
    charge: Floats
    pt: Floats
    eta: Floats
    phi: Floats
    dxy: Floats
    """Signed transverse impact parameter to the beam: −x sin φ + y cos φ."""
    dz: Floats
    """z at the point of closest approach to the beam; the collision is at z = 0."""
    var_pt: Floats
    var_eta: Floats
    var_phi: Floats
    var_dxy: Floats
    var_dz: Floats
    cov_phi_dxy: Floats
    cov_lambda_dz: Floats
    """λ is the angle to the transverse plane."""

    def __len__(self) -> int:
        return len(self.row)

    @property
    def px(self) -> Floats:
        return self.pt * np.cos(self.phi)

    @property
    def py(self) -> Floats:
        return self.pt * np.sin(self.phi)

    @property
    def pz(self) -> Floats:
        return self.pt * np.sinh(self.eta)

    @property
    def e(self) -> Floats:
        """With the mass of a pion, as a tracker would."""
        return np.sqrt((self.pt * np.cosh(self.eta)) ** 2 + PION_GEV**2)


def true_impact(particles: Particles) -> tuple[Floats, Floats]:
    """dxy and dz [mm] of each particle; as if it flew straight from its production point back to the beam.

    Over the centimetres of a b hadron's flight the curvature of a 1 GeV track is less than its error.
    """
    pt = np.hypot(particles.px, particles.py)
    cos, sin = particles.px / pt, particles.py / pt
    dxy = -particles.x * sin + particles.y * cos
    dz = particles.z - (particles.x * cos + particles.y * sin) * particles.pz / pt
    return dxy, dz


def smear_tracks(particles: Particles, rows: Ints, rng: np.random.Generator) -> SmearedTracks:
    """Measured tracks of the charged particles ``rows``; the same state of ``rng`` gives the same ones."""
    p = Particles(
        particles.n_events,
        *(
            getattr(particles, n)[rows]
            for n in ("event", "pdg", "charge", "px", "py", "pz", "e", "x", "y", "z")
        ),
    )
    pt = np.hypot(p.px, p.py)
    eta = pseudorapidity(pt, p.pz)
    sin_theta = 1.0 / np.cosh(eta)
    dxy, dz = true_impact(p)
    n = len(p)

    # The kick in the bending plane turns φ; the one across it turns λ, by sin θ less for the same pT.
    kick_phi = 1e-3 * KICK_MRAD_GEV / (pt * np.sqrt(sin_theta))
    kick_lambda = kick_phi * sin_theta
    lever_lambda = FIRST_LAYER_MM / sin_theta**2  # dz for a turn of λ: r d(cot θ)
    angle = 1e-3 * ANGLE_MRAD
    turn_phi = kick_phi * rng.standard_normal(n)
    turn_lambda = kick_lambda * rng.standard_normal(n)
    d_phi = turn_phi + angle * rng.standard_normal(n)
    d_lambda = turn_lambda + angle * rng.standard_normal(n)
    relative = np.hypot(PT_CONSTANT, PT_SLOPE * pt)
    return SmearedTracks(
        row=rows,
        charge=p.charge,
        pt=pt * np.maximum(1.0 + relative * rng.standard_normal(n), 0.1),
        eta=eta + d_lambda / sin_theta,
        phi=_wrap(np.arctan2(p.py, p.px) + d_phi),
        dxy=dxy + HIT_XY_MM * rng.standard_normal(n) - FIRST_LAYER_MM * turn_phi,
        dz=dz + HIT_Z_MM * rng.standard_normal(n) - lever_lambda * turn_lambda,
        var_pt=(relative * pt) ** 2,
        var_eta=(kick_lambda**2 + angle**2) / sin_theta**2,
        var_phi=kick_phi**2 + angle**2,
        var_dxy=HIT_XY_MM**2 + (FIRST_LAYER_MM * kick_phi) ** 2,
        var_dz=HIT_Z_MM**2 + (lever_lambda * kick_lambda) ** 2,
        cov_phi_dxy=-FIRST_LAYER_MM * kick_phi**2,
        cov_lambda_dz=-lever_lambda * kick_lambda**2,
    )


def _wrap(phi: Floats) -> Floats:
    return phi - 2.0 * np.pi * np.round(phi / (2.0 * np.pi))
