"""Images of jets: trimmed, centred, rotated, flipped (1407.5675, 1511.05190), and N-subjettiness (1011.2268)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpctrain.physics.images import SparseImages
from hpctrain.physics.jets import Jets, load_fastjet
from hpctrain.physics.particle_jets import Constituents
from hpctrain.physics.particles import Floats, Ints, sum_by

TRIM_RADIUS = 0.3
TRIM_FRACTION = 0.05
IMAGE_BINS = 25
PIXEL = 0.1
"""Width of a pixel in rapidity and φ."""


@dataclass(frozen=True)
class Trimmed:
    """Jets of which soft subjets were taken away."""

    constituents: Constituents
    """Of the subjets that are kept."""
    first: Jets
    """Hardest of the subjets of jet i, as jet i of event i."""
    second: Jets
    """The next; of no momentum where there is none."""


def trim(
    constituents: Constituents, *, radius: float = TRIM_RADIUS, fraction: float = TRIM_FRACTION
) -> Trimmed:
    """Recluster each jet with kT and keep subjets with at least ``fraction`` of its pT (0912.1342)."""
    import awkward as ak

    fastjet = load_fastjet()
    number = np.arange(len(constituents), dtype=np.int64)
    if not len(constituents):
        nothing = Jets(0, number, *(np.zeros(0),) * 4)
        return Trimmed(constituents, nothing, nothing)
    definition = fastjet.JetDefinition(fastjet.kt_algorithm, radius)
    found = fastjet.ClusterSequence(_awkward(constituents), definition).constituents(min_pt=0)
    per_jet = ak.to_numpy(ak.num(found, axis=1)).astype(np.int64)
    flat = ak.flatten(found, axis=1)
    pieces = _from_awkward(flat)
    subjets = pieces.total()
    jet = np.repeat(number, per_jet)
    kept = subjets.pt >= fraction * constituents.total().pt[jet]
    inside = kept[pieces.jet]
    counts = np.bincount(jet[pieces.jet[inside]], minlength=len(number))
    whole = Constituents(
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        *(getattr(pieces, c)[inside] for c in ("px", "py", "pz", "e")),
    )
    order = np.lexsort((-subjets.pt, ~kept, jet))
    rank = np.arange(len(order)) - np.searchsorted(jet[order], jet[order])
    leading = []
    for wanted in (0, 1):
        rows = order[(rank == wanted) & kept[order]]
        columns = np.zeros((4, len(number)))
        columns[:, jet[rows]] = subjets.px[rows], subjets.py[rows], subjets.pz[rows], subjets.e[rows]
        leading.append(Jets(len(number), number, *columns))
    return Trimmed(whole, leading[0], leading[1])


def jet_images(trimmed: Trimmed, *, bins: int = IMAGE_BINS, pixel: float = PIXEL) -> SparseImages:
    """(1, ``bins``, ``bins``) images of pT [GeV] in rapidity and azimuth: axis 1 is horizontal, axis 2 vertical.

    The hardest of the subjets is put in the centre, the next one straight below it; where there is none the principal
    axis is made vertical. Then the image is mirrored so that its right half holds more pT. Pixels are filled
    after that: nothing is interpolated. What lies outside is lost.
    """
    c = trimmed.constituents
    jet, n, pt = c.jet, len(c), c.pt
    # Rapidity: the difference of two does not change with a boost along the beam, massive subjets or not.
    first, second = _rapidity(trimmed.first), _rapidity(trimmed.second)
    x = c.rapidity - first[jet]
    y = _wrap(c.phi - trimmed.first.phi[jet])
    there = trimmed.second.pt > 0.0
    towards = np.arctan2(_wrap(trimmed.second.phi - trimmed.first.phi), second - first)
    xx, yy, xy = (sum_by(jet, pt * a * b, n) for a, b in ((x, x), (y, y), (x, y)))
    axis = 0.5 * np.arctan2(2.0 * xy, xx - yy)
    turn = (-0.5 * np.pi - np.where(there, towards, axis))[jet]
    x, y = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    # What lies on the line between the subjets is on neither side, whatever rounding says.
    right = sum_by(jet, pt * np.sign(x) * (np.abs(x) > 1e-6), n) >= 0.0
    x = np.where(right[jet], x, -x)
    half = 0.5 * bins * pixel
    inside = (np.abs(x) < half) & (np.abs(y) < half)
    column = np.floor((x[inside] + half) / pixel).astype(np.int64)
    row = np.floor((y[inside] + half) / pixel).astype(np.int64)
    cell = np.minimum(column, bins - 1) * bins + np.minimum(row, bins - 1)
    key, inverse = np.unique(jet[inside] * bins**2 + cell, return_inverse=True)
    total = sum_by(inverse, pt[inside], len(key))
    offsets = np.searchsorted(key, np.arange(n + 1, dtype=np.int64) * bins**2).astype(np.int64)
    return SparseImages((1, bins, bins), offsets, (key % bins**2).astype(np.uint32), total.astype(np.float32))


def n_subjettiness(constituents: Constituents, n: int, *, radius: float) -> Floats:
    """τ_N of every jet for β = 1, with the axes of exclusive kT clustering into ``n``; 0 with fewer constituents."""
    import awkward as ak

    tau = np.zeros(len(constituents))
    rows = np.flatnonzero(constituents.counts >= n)
    if not len(rows):
        return tau
    fastjet = load_fastjet()
    definition = fastjet.JetDefinition(fastjet.kt_algorithm, 100.0)
    # fastjet 3.5 warns of exclusive jets of any algorithm, kT too, and swaps a global with it.
    shown = warnings.formatwarning
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        axes = fastjet.ClusterSequence(_awkward(constituents)[rows], definition).exclusive_jets(n_jets=n)
    warnings.formatwarning = shown
    px, py, pz = (np.asarray(ak.to_numpy(axes[k])).reshape(len(rows), n) for k in ("px", "py", "pz"))
    pt = np.hypot(px, py)
    eta, phi = np.arcsinh(pz / pt), np.arctan2(py, px)
    place = np.full(len(constituents), -1)
    place[rows] = np.arange(len(rows))
    mine = place[constituents.jet] >= 0
    at = place[constituents.jet[mine]]
    apart = np.hypot(
        constituents.eta[mine][:, None] - eta[at], _wrap(constituents.phi[mine][:, None] - phi[at])
    ).min(axis=1)
    weight = constituents.pt[mine]
    tau[rows] = sum_by(at, weight * apart, len(rows)) / (radius * sum_by(at, weight, len(rows)))
    return tau


def _rapidity(jets: Jets) -> Floats:
    transverse_mass = np.sqrt(jets.pt**2 + jets.mass**2)
    return np.arcsinh(
        np.divide(jets.pz, transverse_mass, out=np.zeros(len(jets)), where=transverse_mass > 0.0)
    )


def _awkward(c: Constituents) -> Any:
    import awkward as ak

    momenta = {"px": c.px, "py": c.py, "pz": c.pz, "E": c.e}
    return ak.unflatten(ak.zip(momenta, with_name="Momentum4D"), c.counts)


def _from_awkward(jets: Any) -> Constituents:
    import awkward as ak

    counts = ak.to_numpy(ak.num(jets, axis=1)).astype(np.int64)
    flat = ak.flatten(jets, axis=1)
    offsets: Ints = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Constituents(
        offsets, *(np.asarray(ak.to_numpy(flat[k]), dtype=np.float64) for k in ("px", "py", "pz", "E"))
    )


def _wrap(phi: Floats) -> Floats:
    return phi - 2.0 * np.pi * np.round(phi / (2.0 * np.pi))
