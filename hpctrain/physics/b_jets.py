"""Tracks and secondary vertices of jets for H → bb: 30 and 14 features, as near to the public CMS lists as is honest.

The lists are those of the CMS open data sample for H → bb tagging (10.7483/OPENDATA.CMS.JGJX.MS7Q) as used in
arXiv:1909.12285. What only a fit or a detector's reconstruction can give is left out and replaced; see
``REPLACED``.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hpctrain.physics.detector import tracking_efficiency
from hpctrain.physics.impact_parameters import SmearedTracks, smear_tracks
from hpctrain.physics.jets import Jets, load_fastjet
from hpctrain.physics.particle_jets import Constituents, ParticleJets, modified_mass_drop
from hpctrain.physics.particles import Floats, Ints, Particles
from hpctrain.physics.propagation import pseudorapidity
from hpctrain.physics.secondary_vertices import VERTEX_FEATURES, Vertices, secondary_vertices, vertex_features

TRACK_FEATURES = (
    "ptrel",
    "erel",
    "phirel",
    "etarel",
    "deltaR",
    "drminsv",
    "drsubjet1",
    "drsubjet2",
    "dz",
    "dzsig",
    "dxy",
    "dxysig",
    "pt",
    "charge",
    "dptdpt",
    "detadeta",
    "dphidphi",
    "dxydxy",
    "dzdz",
    "lepton",
    "dphidxy",
    "dlambdadz",
    "EtaRel",
    "PtRatio",
    "PParRatio",
    "Sip2dVal",
    "Sip2dSig",
    "Sip3dVal",
    "Sip3dSig",
    "JetDistVal",
)
"""Columns of a track; millimetres, GeV, radians."""

REPLACED = {
    "track_normchi2": "pt (no track is fitted)",
    "track_quality": "charge (no pattern recognition)",
    "track_dxydz": "lepton: true electron or muon (the toy tracker has no such correlation)",
    "sv_normchi2": "charge (no vertex is fitted)",
}
"""Features of the public lists that are not here, and what stands in their place.

``dphidxy`` and ``dlambdadz`` are here but equal each other: the toy tracker scatters at one radius."""

MAX_TRACKS = 60
MAX_VERTICES = 5
TRACK_PT_MIN_GEV = 0.95
TRACK_ETA_MAX = 2.5
NO_VERTEX_DELTA_R = 0.8
"""``drminsv`` in a jet without a secondary vertex: the radius of the jet."""


@dataclass(frozen=True)
class BJetInputs:
    """Features of a number of jets."""

    track_offsets: Ints
    """(jets + 1,)"""
    tracks: npt.NDArray[np.float32]
    """(tracks, 30): by falling significance |Sip2dSig|."""
    vertex_offsets: Ints
    vertices: npt.NDArray[np.float32]
    """(vertices, 14): by falling d3dsig."""


def b_jet_inputs(particles: Particles, jets: ParticleJets, rng: np.random.Generator) -> BJetInputs:
    """Tracks and vertices of every jet of ``particles``."""
    member_jet = np.repeat(np.arange(len(jets), dtype=np.int64), np.diff(jets.offsets))
    rows = jets.members
    pt = np.hypot(particles.px[rows], particles.py[rows])
    eta = pseudorapidity(pt, particles.pz[rows])
    found = (particles.charge[rows] != 0.0) & (pt > TRACK_PT_MIN_GEV) & (np.abs(eta) < TRACK_ETA_MAX)
    found &= rng.random(len(rows)) < tracking_efficiency(particles.pdg[rows], pt, eta)
    jet, rows = member_jet[found], rows[found]
    tracks = smear_tracks(particles, rows, rng)
    vertices = secondary_vertices(particles, tracks, jet, rng)
    values = _track_features(particles, tracks, jet, jets, vertices)
    significance = np.abs(values["Sip2dSig"])
    order = _leading(jet, significance, MAX_TRACKS)
    vertex_values = vertex_features(vertices, jets.jets)
    vertex_order = _leading(vertices.jet, vertex_values["d3dsig"], MAX_VERTICES)
    return BJetInputs(
        _offsets(jet[order], len(jets)),
        np.stack([values[n] for n in TRACK_FEATURES], axis=1)[order].astype(np.float32),
        _offsets(vertices.jet[vertex_order], len(jets)),
        np.stack([vertex_values[n] for n in VERTEX_FEATURES], axis=1)[vertex_order].astype(np.float32),
    )


def subjets(constituents: Constituents) -> tuple[Jets, Jets]:
    """The two branches at which the modified mass drop stopped, harder first, and jet i's as jet i of event i.

    A jet of which one constituent is left is given twice.
    """
    import awkward as ak

    groomed = modified_mass_drop(constituents)
    total = groomed.total()
    both = np.repeat(np.stack([total.px, total.py, total.pz, total.e], axis=1)[:, None], 2, axis=1)
    several = np.flatnonzero(groomed.counts > 1)
    if len(several):
        fastjet = load_fastjet()
        momenta = {"px": groomed.px, "py": groomed.py, "pz": groomed.pz, "E": groomed.e}
        jets = ak.unflatten(ak.zip(momenta, with_name="Momentum4D"), groomed.counts)[several]
        definition = fastjet.JetDefinition(fastjet.cambridge_algorithm, 100.0)
        # fastjet 3.5 warns of exclusive jets of any algorithm, Cambridge/Aachen too, and swaps a global with it.
        shown = warnings.formatwarning
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            pair = fastjet.ClusterSequence(jets, definition).exclusive_jets(n_jets=2)
        warnings.formatwarning = shown
        found = np.stack([ak.to_numpy(pair[k]) for k in ("px", "py", "pz", "E")], axis=2)
        harder = np.argsort(-np.hypot(found[:, :, 0], found[:, :, 1]), axis=1)
        both[several] = np.take_along_axis(found, harder[:, :, None], axis=1)
    number = np.arange(len(both), dtype=np.int64)
    one, two = (Jets(len(both), number, *both[:, i].T) for i in (0, 1))
    return one, two


def _track_features(
    particles: Particles, tracks: SmearedTracks, jet: Ints, jets: ParticleJets, vertices: Vertices
) -> dict[str, Floats]:
    axis = jets.jets
    first, second = subjets(jets.constituents(particles))
    side = np.where(axis.eta[jet] < 0.0, -1.0, 1.0)
    delta_eta, delta_phi = tracks.eta - axis.eta[jet], _wrap(tracks.phi - axis.phi[jet])
    momentum = np.stack([tracks.px, tracks.py, tracks.pz], axis=1)
    size = np.linalg.norm(momentum, axis=1)
    unit = np.stack([axis.px, axis.py, axis.pz], axis=1)
    unit = (unit / np.linalg.norm(unit, axis=1, keepdims=True))[jet]
    along = np.sum(momentum * unit, axis=1)
    across = np.sqrt(np.maximum(size**2 - along**2, 0.0))

    # Closest approach to the beam, and with it the sign: positive where the track crosses the axis in flight.
    cos, sin, sin_theta = np.cos(tracks.phi), np.sin(tracks.phi), 1.0 / np.cosh(tracks.eta)
    point = np.stack([-tracks.dxy * sin, tracks.dxy * cos, tracks.dz], axis=1)
    sign_2d = np.where(point[:, 0] * unit[:, 0] + point[:, 1] * unit[:, 1] < 0.0, -1.0, 1.0)
    across_z = tracks.dz * sin_theta
    # The nearest point in space lies further along the track by this much of its direction.
    nearest = point - (np.sum(point * momentum, axis=1) / size**2)[:, None] * momentum
    sign_3d = np.where(np.sum(nearest * unit, axis=1) < 0.0, -1.0, 1.0)
    ip_3d = np.hypot(tracks.dxy, across_z)
    error_3d = np.sqrt(
        tracks.dxy**2 * tracks.var_dxy + across_z**2 * tracks.var_dz * sin_theta**2
    ) / np.maximum(ip_3d, 1e-12)
    normal = np.cross(momentum / size[:, None], unit)
    distance = np.abs(np.sum(point * normal, axis=1)) / np.maximum(np.linalg.norm(normal, axis=1), 1e-9)
    code = np.abs(particles.pdg[tracks.row])
    return {
        "ptrel": tracks.pt / axis.pt[jet],
        "erel": tracks.e / axis.e[jet],
        "phirel": delta_phi,
        "etarel": side * delta_eta,
        "deltaR": np.hypot(delta_eta, delta_phi),
        "drminsv": _distance_to_vertices(tracks, jet, vertices),
        "drsubjet1": _distance(tracks, first, jet),
        "drsubjet2": _distance(tracks, second, jet),
        "dz": tracks.dz,
        "dzsig": tracks.dz / np.sqrt(tracks.var_dz),
        "dxy": tracks.dxy,
        "dxysig": tracks.dxy / np.sqrt(tracks.var_dxy),
        "pt": tracks.pt,
        "charge": tracks.charge,
        "dptdpt": tracks.var_pt,
        "detadeta": tracks.var_eta,
        "dphidphi": tracks.var_phi,
        "dxydxy": tracks.var_dxy,
        "dzdz": tracks.var_dz,
        "lepton": ((code == 11) | (code == 13)).astype(np.float64),
        "dphidxy": tracks.cov_phi_dxy,
        "dlambdadz": tracks.cov_lambda_dz,
        "EtaRel": np.arctanh(np.clip(along / tracks.e, -1.0 + 1e-12, 1.0 - 1e-12)),
        "PtRatio": across / size,
        "PParRatio": along / size,
        "Sip2dVal": sign_2d * np.abs(tracks.dxy),
        "Sip2dSig": sign_2d * np.abs(tracks.dxy) / np.sqrt(tracks.var_dxy),
        "Sip3dVal": sign_3d * ip_3d,
        "Sip3dSig": sign_3d * ip_3d / np.maximum(error_3d, 1e-12),
        "JetDistVal": distance,
    }


def _distance_to_vertices(tracks: SmearedTracks, jet: Ints, vertices: Vertices) -> Floats:
    """ΔR of each track to the nearest flight direction of a vertex of its jet, at most ``NO_VERTEX_DELTA_R``."""
    nearest = np.full(len(tracks), NO_VERTEX_DELTA_R)
    x, y, z = vertices.position.T
    eta, phi = pseudorapidity(np.hypot(x, y), z), np.arctan2(y, x)
    for number in range(len(vertices.jet)):  # few
        mine = np.flatnonzero(jet == vertices.jet[number])
        apart = np.hypot(tracks.eta[mine] - eta[number], _wrap(tracks.phi[mine] - phi[number]))
        nearest[mine] = np.minimum(nearest[mine], apart)
    return nearest


def _distance(tracks: SmearedTracks, jets: Jets, jet: Ints) -> Floats:
    """ΔR of each track to jet number ``jet``."""
    return np.hypot(tracks.eta - jets.eta[jet], _wrap(tracks.phi - jets.phi[jet]))


def _leading(group: Ints, value: Floats, at_most: int) -> Ints:
    """Rows group after group by falling ``value``, the first ``at_most`` of each."""
    order = np.lexsort((-value, group))
    rank = np.arange(len(order)) - np.searchsorted(group[order], group[order])
    return order[rank < at_most]


def _offsets(group: Ints, groups: int) -> Ints:
    return np.concatenate([[0], np.cumsum(np.bincount(group, minlength=groups))]).astype(np.int64)


def _wrap(phi: Floats) -> Floats:
    return phi - 2.0 * np.pi * np.round(phi / (2.0 * np.pi))
