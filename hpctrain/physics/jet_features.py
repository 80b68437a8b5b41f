"""Features of jets: the 16 expert inputs of the dense tagger, and 16 per constituent for the graph network.

Order and names of the expert inputs are those of the public jet-tagging sample of arXiv:1804.06913 and
1908.05318; the constituents' too. What those papers leave open is decided here and said where it is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hpctrain.physics.energy_correlations import energy_correlations
from hpctrain.physics.particle_jets import Constituents, modified_mass_drop
from hpctrain.physics.particles import Floats, sum_by

EXPERT_FEATURES = (
    "zlogz",
    "c1_b0_mmdt",
    "c1_b1_mmdt",
    "c1_b2_mmdt",
    "c2_b1_mmdt",
    "c2_b2_mmdt",
    "d2_b1_mmdt",
    "d2_b2_mmdt",
    "d2_a1_b1_mmdt",
    "d2_a1_b2_mmdt",
    "m2_b1_mmdt",
    "m2_b2_mmdt",
    "n2_b1_mmdt",
    "n2_b2_mmdt",
    "mass_mmdt",
    "multiplicity",
)
"""Columns of ``expert_features``. ``d2_a1_b1`` is the same function as ``d2_b1``: both stand in the public list."""

CONSTITUENT_FEATURES = (
    "px",
    "py",
    "pz",
    "e",
    "e_rel",
    "pt",
    "pt_rel",
    "eta",
    "eta_rel",
    "eta_rot",
    "phi",
    "phi_rel",
    "phi_rot",
    "delta_r",
    "cos_theta",
    "cos_theta_rel",
)
"""Columns of ``constituent_features``."""
MAX_CONSTITUENTS = 150


def expert_features(constituents: Constituents) -> npt.NDArray[np.float32]:
    """(jets, 16), columns ``EXPERT_FEATURES``.

    zlogz (Σ z ln z, z = pT/ΣpT) and the multiplicity are of the whole jet, all others of what the modified
    mass drop keeps; the mass is in GeV. Ratios whose denominator is 0 (one constituent left) are 0; with two
    left the three-point functions, and with them C2, D2, M2 and N2, are 0 by themselves.
    """
    groomed = modified_mass_drop(constituents)
    e = energy_correlations(groomed)
    e2, e3 = e.pairs, e.triples
    z = (
        constituents.pt
        / np.maximum(sum_by(constituents.jet, constituents.pt, len(constituents)), 1e-300)[constituents.jet]
    )
    columns = {
        "zlogz": sum_by(constituents.jet, z * np.log(np.maximum(z, 1e-300)), len(constituents)),
        **{f"c1_b{b}_mmdt": e2[b] for b in (0, 1, 2)},
        **{f"c2_b{b}_mmdt": _ratio(e3[b], e2[b] ** 2) for b in (1, 2)},
        **{f"d2_b{b}_mmdt": _ratio(e3[b], e2[b] ** 3) for b in (1, 2)},
        # Generalised D2(α, β) = e₃(α) / e₂(β)^(3α/β), 1409.6298.
        "d2_a1_b1_mmdt": _ratio(e3[1], e2[1] ** 3),
        "d2_a1_b2_mmdt": _ratio(e3[1], e2[2] ** 1.5),
        **{f"m2_b{b}_mmdt": _ratio(e.smallest[b], e2[b]) for b in (1, 2)},
        **{f"n2_b{b}_mmdt": _ratio(e.two_smallest[b], e2[b] ** 2) for b in (1, 2)},
        "mass_mmdt": groomed.total().mass,
        "multiplicity": constituents.counts.astype(np.float64),
    }
    return np.stack([columns[name] for name in EXPERT_FEATURES], axis=1).astype(np.float32)


def constituent_features(constituents: Constituents) -> npt.NDArray[np.float32]:
    """(constituents, 16), columns ``CONSTITUENT_FEATURES``, in the order of ``constituents``.

    GeV and radians. ``_rel``: energy and pT as fractions of the jet's, η and φ as differences to its axis,
    cos θ as that of the angle to it. ``_rot``: η and φ relative to the axis, turned about it by the angle that
    ``rotation`` gives. The jet is the sum of all constituents given.
    """
    c, jet, axis = constituents, constituents.jet, constituents.total()
    eta, phi, pt = c.eta, c.phi, c.pt
    delta_eta = eta - axis.eta[jet]
    delta_phi = _wrap(phi - axis.phi[jet])
    angle = rotation(c, delta_eta, delta_phi)[jet]
    momentum = np.sqrt(c.px**2 + c.py**2 + c.pz**2)
    of_jet = np.sqrt(axis.px**2 + axis.py**2 + axis.pz**2)[jet]
    along = c.px * axis.px[jet] + c.py * axis.py[jet] + c.pz * axis.pz[jet]
    columns = {
        "px": c.px,
        "py": c.py,
        "pz": c.pz,
        "e": c.e,
        "e_rel": c.e / axis.e[jet],
        "pt": pt,
        "pt_rel": pt / axis.pt[jet],
        "eta": eta,
        "eta_rel": delta_eta,
        "eta_rot": delta_eta * np.cos(angle) + delta_phi * np.sin(angle),
        "phi": phi,
        "phi_rel": delta_phi,
        "phi_rot": delta_phi * np.cos(angle) - delta_eta * np.sin(angle),
        "delta_r": np.hypot(delta_eta, delta_phi),
        "cos_theta": c.pz / momentum,
        "cos_theta_rel": np.clip(along / (momentum * of_jet), -1.0, 1.0),
    }
    return np.stack([columns[name] for name in CONSTITUENT_FEATURES], axis=1).astype(np.float32)


def rotation(constituents: Constituents, delta_eta: Floats, delta_phi: Floats) -> Floats:
    """Angle of each jet's principal axis in the (η, φ) plane, (jets,): turning by it puts the axis along η.

    The axis is the pT-weighted one of largest spread; of its two senses, the one towards the harder half.
    """
    jet, n, pt = constituents.jet, len(constituents), constituents.pt
    xx, yy, xy = (
        sum_by(jet, pt * a * b, n)
        for a, b in ((delta_eta, delta_eta), (delta_phi, delta_phi), (delta_eta, delta_phi))
    )
    angle = 0.5 * np.arctan2(2.0 * xy, xx - yy)
    along = delta_eta * np.cos(angle)[jet] + delta_phi * np.sin(angle)[jet]
    # The first moment is 0 about the axis up to the jets' mass; the half with more pT decides.
    backwards = sum_by(jet, pt * np.sign(along), n) < 0.0
    return np.where(backwards, angle + np.pi, angle)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0.0)


def _wrap(phi: Floats) -> Floats:
    return phi - 2.0 * np.pi * np.round(phi / (2.0 * np.pi))
