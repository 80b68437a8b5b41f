from collections.abc import Callable

import numpy as np
import pytest
from fastjet import _swig as fj
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.physics.generator import Generator
from hpctrain.physics.particle_jets import (
    Constituents,
    cluster_particles,
    modified_mass_drop,
    visible,
)
from hpctrain.physics.particles import Particles
from hpctrain.physics.processes import find_process

Make = Callable[..., Particles]


@pytest.fixture(scope="module")
def qcd() -> Particles:
    particles = Generator(find_process("jz5"), seed=8).generate(12)
    return particles.where(visible(particles))


def _momenta(particles: Particles, event: int) -> list[fj.PseudoJet]:
    mine = particles.event == event
    rows = np.stack([particles.px, particles.py, particles.pz, particles.e], axis=1)[mine]
    return [fj.PseudoJet(*map(float, row)) for row in rows]


def test_jets_are_those_of_fastjet_and_the_sum_of_their_members(qcd: Particles) -> None:
    found = cluster_particles(qcd, radius=0.8, pt_min=30.0)
    expected = []
    definition = fj.JetDefinition(fj.antikt_algorithm, 0.8)
    for event in range(qcd.n_events):
        sequence = fj.ClusterSequence(_momenta(qcd, event), definition)
        jets = fj.sorted_by_pt(sequence.inclusive_jets(30.0))
        expected += [(event, j.px(), j.py(), j.pz(), j.e(), len(j.constituents())) for j in jets]
    jets = found.jets
    rows = np.stack([jets.event, jets.px, jets.py, jets.pz, jets.e, np.diff(found.offsets)], axis=1)
    assert len(rows) > 20
    assert rows == pytest.approx(np.array(expected), abs=1e-6)
    assert np.array_equal(qcd.event[found.members], np.repeat(jets.event, np.diff(found.offsets)))
    assert len(np.unique(found.members)) == len(found.members)  # a particle is in one jet


def test_invisible_particles_are_in_no_jet(particles: Make) -> None:
    mixed = particles(pt=[50.0, 60.0, 70.0, 80.0], eta=0.0, phi=[0.0, 1.0, 2.0, 3.0], pdg=[12, -14, 13, 211])
    assert visible(mixed).tolist() == [False, False, True, True]


def test_no_particles_and_no_jets(particles: Make) -> None:
    soft = particles(pt=[1.0, 2.0], eta=0.0, phi=[0.0, 2.0], event=[0, 2])
    for some in (soft, soft.where(np.zeros(2, dtype=bool))):
        found = cluster_particles(some, radius=0.4, pt_min=20.0)
        assert len(found) == len(found.members) == 0
        assert found.jets.n_events == 3
        assert len(modified_mass_drop(found.constituents(some))) == 0


def test_constituents_by_falling_pt(qcd: Particles) -> None:
    whole = cluster_particles(qcd, radius=0.8, pt_min=30.0).constituents(qcd)
    hardest = whole.sorted_by_pt(7)
    assert hardest.counts.tolist() == np.minimum(whole.counts, 7).tolist()
    for jet in range(len(whole)):
        mine = np.sort(whole.pt[whole.offsets[jet] : whole.offsets[jet + 1]])[::-1][:7]
        assert np.array_equal(hardest.pt[hardest.offsets[jet] : hardest.offsets[jet + 1]], mine)


def test_rapidity_of_light_heavy_and_forward_particles() -> None:
    pz, mass = np.array([3.0, -400.0, 5e3, 0.0]), np.array([0.14, 80.0, 0.0, 1.0])
    pt = np.array([1.0, 20.0, 2.0, 5.0])
    e = np.sqrt(pt**2 + pz**2 + mass**2)
    some = Constituents(np.array([0, 4]), pt, np.zeros(4), pz, e)
    expected = [
        fj.PseudoJet(float(p), 0.0, float(z), float(q)).rap() for p, z, q in zip(pt, pz, e, strict=True)
    ]
    assert some.rapidity == pytest.approx(expected, rel=1e-6, abs=1e-6)


def mass_drop_by_hand(momenta: list[fj.PseudoJet], z_cut: float) -> fj.PseudoJet:
    """Undo Cambridge/Aachen with fastjet's own history, and drop softer branches."""
    definition = fj.JetDefinition(fj.cambridge_algorithm, 100.0)
    sequence = fj.ClusterSequence(momenta, definition)
    jet = sequence.inclusive_jets()[0]
    one, two = fj.PseudoJet(), fj.PseudoJet()
    while jet.has_parents(one, two):
        soft, hard = sorted((one, two), key=lambda j: j.pt())
        if soft.pt() > z_cut * (soft.pt() + hard.pt()):
            break
        jet = fj.PseudoJet(hard)
    return jet


def test_mass_drop_is_that_done_by_hand(qcd: Particles) -> None:
    whole = cluster_particles(qcd, radius=0.8, pt_min=100.0).constituents(qcd)
    groomed = modified_mass_drop(whole).total()
    for jet in range(len(whole)):
        part = slice(whole.offsets[jet], whole.offsets[jet + 1])
        rows = zip(whole.px[part], whole.py[part], whole.pz[part], whole.e[part], strict=True)
        expected = mass_drop_by_hand([fj.PseudoJet(*map(float, row)) for row in rows], 0.1)
        assert groomed.px[jet] == pytest.approx(expected.px(), abs=1e-6)
        assert groomed.mass[jet] == pytest.approx(max(expected.m(), 0.0), abs=1e-3)


@settings(max_examples=30, deadline=None)
@given(
    z=st.floats(0.01, 0.49),
    distance=st.floats(0.1, 0.7),
)
def test_two_prongs_stay_two_or_become_one(z: float, distance: float) -> None:
    pt, phi = 500.0 * np.array([1 - z, z]), np.array([0.0, distance])
    two = Constituents(np.array([0, 2]), pt * np.cos(phi), pt * np.sin(phi), np.zeros(2), pt)
    kept = modified_mass_drop(two)
    fraction = z  # of the scalar sum
    if abs(fraction - 0.1) > 1e-6:
        assert kept.counts.tolist() == [2 if fraction > 0.1 else 1]


def test_a_jet_of_one_constituent_keeps_it() -> None:
    one = Constituents(np.array([0, 1]), np.array([50.0]), np.zeros(1), np.zeros(1), np.array([50.0]))
    assert modified_mass_drop(one).counts.tolist() == [1]
