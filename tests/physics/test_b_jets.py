"""Tracks and vertices: built by hand, and of Higgs bosons against QCD."""

from typing import Any

import numpy as np
import pytest

from hpctrain.physics.b_jets import (
    MAX_TRACKS,
    MAX_VERTICES,
    REPLACED,
    TRACK_FEATURES,
    BJetInputs,
    b_jet_inputs,
    subjets,
)
from hpctrain.physics.generator import Generator
from hpctrain.physics.jet_processes import higgs_to_bb, qcd
from hpctrain.physics.particle_jets import Constituents, ParticleJets, cluster_particles, visible
from hpctrain.physics.particles import Floats, Ints, Particles
from hpctrain.physics.partons import hard_partons, heavy_hadrons_in, match
from hpctrain.physics.processes import Process
from hpctrain.physics.secondary_vertices import VERTEX_FEATURES


def sample(process: Process, events: int) -> tuple[BJetInputs, ParticleJets, Ints]:
    generator = Generator(process, 17)
    record = generator.record(events)
    particles = generator.final_state(record)
    particles = particles.where(visible(particles))
    jets = cluster_particles(particles, radius=0.8, pt_min=300.0)
    good = np.abs(jets.jets.eta) < 2.0
    if process.partons:
        good &= match(jets.jets, hard_partons(record, process.partons), radius=0.4) >= 0
    jets = jets.take(np.flatnonzero(good))
    bottom = heavy_hadrons_in(jets.jets, record, 5, radius=0.8)
    return b_jet_inputs(particles, jets, np.random.default_rng(3)), jets, bottom


@pytest.fixture(scope="module")
def higgs() -> tuple[BJetInputs, ParticleJets, Ints]:
    return sample(higgs_to_bb((450.0, 600.0)), 80)


@pytest.fixture(scope="module")
def light() -> tuple[BJetInputs, ParticleJets, Ints]:
    return sample(qcd((450.0, 600.0)), 60)


def track(found: BJetInputs, name: str) -> Floats:
    return found.tracks[:, TRACK_FEATURES.index(name)].astype(np.float64)


def vertex(found: BJetInputs, name: str) -> Floats:
    return found.vertices[:, VERTEX_FEATURES.index(name)].astype(np.float64)


def test_numbers_and_names(higgs: Any) -> None:
    found, jets, _ = higgs
    assert (len(TRACK_FEATURES), len(VERTEX_FEATURES)) == (30, 14)
    assert found.tracks.shape[1:] == (30,)
    assert found.vertices.shape[1:] == (14,)
    assert np.isfinite(found.tracks).all()
    assert np.isfinite(found.vertices).all()
    assert len(found.track_offsets) == len(found.vertex_offsets) == len(jets) + 1
    assert np.diff(found.track_offsets).max() <= MAX_TRACKS
    assert np.diff(found.vertex_offsets).max() <= MAX_VERTICES
    assert set(REPLACED) == {"track_normchi2", "track_quality", "track_dxydz", "sv_normchi2"}


def test_higgs_jets_have_two_b_hadrons_and_vertices(higgs: Any, light: Any) -> None:
    """Of H → bb̄ jets, most have both b hadrons within 0.8 and a secondary vertex; of QCD jets few have one."""
    for (found, jets, bottom), two, some in (
        (higgs, (0.7, 1.0), (0.8, 1.0)),
        (light, (0.0, 0.2), (0.0, 0.4)),
    ):
        assert len(jets) > 50
        assert two[0] <= np.mean(bottom >= 2) <= two[1]
        assert some[0] <= np.mean(np.diff(found.vertex_offsets) > 0) <= some[1]
    assert np.percentile(track(higgs[0], "Sip2dSig"), 95) > 3 * np.percentile(track(light[0], "Sip2dSig"), 95)


def test_prompt_tracks_have_the_width_of_their_error(light: Any) -> None:
    """Most tracks of light jets come from the collision: the core of dxy/σ and dz/σ is a unit Gaussian."""
    found, _, _ = light
    for name in ("dxysig", "dzsig"):
        values = track(found, name)
        low, high = np.percentile(values, [25, 75])
        assert high - low == pytest.approx(1.349, rel=0.15)
        assert np.median(values) == pytest.approx(0.0, abs=0.15)


def test_vertices_point_along_their_momentum_and_come_from_heavy_hadrons(higgs: Any) -> None:
    found, _, _ = higgs
    assert np.median(vertex(found, "costhetasvpv")) > 0.995
    assert np.all(vertex(found, "ntracks") >= 2)
    assert np.all(vertex(found, "d3d") >= vertex(found, "dxy") - 1e-6)
    assert vertex(found, "mass").max() < 6.5  # no heavier than a b hadron, by more than its tracks' errors
    assert np.median(vertex(found, "d3d")) > 3.0  # mm: γcτ of b and c hadrons of 50 to 200 GeV


def test_order(higgs: Any) -> None:
    found, _, _ = higgs
    for offsets, values in (
        (found.track_offsets, np.abs(track(found, "Sip2dSig"))),
        (found.vertex_offsets, vertex(found, "d3dsig")),
    ):
        same = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        assert np.all(np.diff(values)[np.diff(same) == 0] <= 1e-3)


def _made(points: list[list[float]], phi: list[float]) -> tuple[Particles, ParticleJets]:
    """Charged pions of 20 GeV in the transverse plane from the given points, all in one jet along x."""
    n = len(points)
    x, y, z = np.array(points).T
    turn = np.array(phi)
    px, py = 20.0 * np.cos(turn), 20.0 * np.sin(turn)
    particles = Particles(
        1,
        np.zeros(n, np.int64),
        np.full(n, 211),
        np.ones(n),
        px,
        py,
        np.zeros(n),
        np.full(n, 20.0005),
        x,
        y,
        z,
    )
    return particles, cluster_particles(particles, radius=0.8, pt_min=5.0)


def test_a_decay_by_hand() -> None:
    """Two tracks from 5 mm along the jet, three from the collision: one vertex there, positive impact parameters."""
    away = [5.0, 0.0, 0.0]
    for seed in range(20):  # until the tracker has found all five: 0.95 each
        particles, jets = _made([away, away, [0.0] * 3, [0.0] * 3, [0.0] * 3], [0.2, -0.2, 0.05, -0.05, 0.0])
        found = b_jet_inputs(particles, jets, np.random.default_rng(seed))
        if len(found.tracks) == 5:
            break
    assert len(found.vertices) == 1
    assert vertex(found, "ntracks") == [2]
    assert vertex(found, "charge") == [2]
    assert vertex(found, "d3d")[0] == pytest.approx(5.0, abs=1.0)
    assert vertex(found, "ptrel")[0] == pytest.approx(0.4, abs=0.02)
    assert vertex(found, "costhetasvpv")[0] > 0.999
    displaced, prompt = track(found, "Sip2dVal")[:2], track(found, "Sip2dVal")[2:]
    assert displaced == pytest.approx([5 * np.sin(0.2)] * 2, abs=0.1)  # both before the jet: positive
    assert np.abs(prompt).max() < 0.1
    assert np.abs(track(found, "Sip3dVal")[:2]) == pytest.approx([5 * np.sin(0.2)] * 2, abs=0.15)
    assert track(found, "drminsv")[:2] == pytest.approx([0.2, 0.2], abs=0.05)
    assert track(found, "PParRatio")[:2] == pytest.approx([np.cos(0.2)] * 2, abs=1e-3)
    assert track(found, "PtRatio")[:2] == pytest.approx([np.sin(0.2)] * 2, abs=5e-3)
    assert track(found, "JetDistVal").max() < 0.2


def test_a_track_from_behind_has_a_negative_impact_parameter() -> None:
    particles, jets = _made([[-5.0, 0.0, 0.0], [0.0] * 3], [0.2, -0.2])
    for seed in range(20):
        found = b_jet_inputs(particles, jets, np.random.default_rng(seed))
        if len(found.tracks) == 2:
            break
    assert track(found, "Sip2dVal")[0] == pytest.approx(-5 * np.sin(0.2), abs=0.1)
    assert len(found.vertices) == 0
    assert track(found, "drminsv") == pytest.approx([0.8, 0.8])


def test_subjets_are_the_prongs() -> None:
    pt = np.array([300.0, 200.0, 100.0, 7.0])
    phi = np.array([0.0, 0.5, 0.55, 1.0])
    jets = Constituents(np.array([0, 3, 4]), pt * np.cos(phi), pt * np.sin(phi), np.zeros(4), pt)
    one, two = subjets(jets)
    # 300 alone and 200 + 100 nearly in line: the first is harder by the angle between the two others.
    assert one.pt == pytest.approx([300.0, 7.0])
    assert two.pt == pytest.approx([299.9, 7.0], abs=0.1)
    assert two.phi[0] == pytest.approx(0.517, abs=1e-2)


def test_no_jets_at_all() -> None:
    particles, jets = _made([[0.0] * 3], [0.0])
    found = b_jet_inputs(particles, jets.take(np.zeros(0, np.int64)), np.random.default_rng(1))
    assert found.tracks.shape == (0, 30)
    assert found.vertices.shape == (0, 14)
    assert found.track_offsets.tolist() == [0]
