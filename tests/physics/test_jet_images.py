import numpy as np
import pytest
from fastjet import _swig as fj
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.physics.jet_images import jet_images, n_subjettiness, trim
from hpctrain.physics.particle_jets import Constituents
from hpctrain.physics.particles import Floats


def jet_of(pt: Floats, eta: Floats, phi: Floats) -> Constituents:
    pt, eta, phi = (np.atleast_1d(np.asarray(v, dtype=np.float64)) for v in (pt, eta, phi))
    return Constituents(
        np.array([0, len(pt)]), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta)
    )


def random_jet(seed: int, n: int) -> Constituents:
    rng = np.random.default_rng(seed)
    return jet_of(rng.exponential(10, n) + 0.1, rng.normal(0.5, 0.4, n), rng.normal(3.0, 0.4, n))


def prongs(first: Floats, second: Floats, eta: float, phi: float, scatter: int = 0) -> Constituents:
    """Two narrow prongs of 200 and 80 GeV, the second at ``second`` relative to the first's ``eta``, ``phi``."""
    rng = np.random.default_rng(scatter)
    pt = np.repeat([20.0, 8.0], 10)
    place = np.repeat([first, second], 10, axis=0) + rng.normal(0, 0.01, (20, 2))
    return jet_of(pt, eta + place[:, 0], phi + place[:, 1])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 40))
def test_trimming_is_fastjets_filter(seed: int, n: int) -> None:
    jet = random_jet(seed, n)
    momenta = [fj.PseudoJet(*map(float, p)) for p in zip(jet.px, jet.py, jet.pz, jet.e, strict=True)]
    sequence = fj.ClusterSequence(momenta, fj.JetDefinition(fj.antikt_algorithm, 10.0))
    filtering = fj.Filter(fj.JetDefinition(fj.kt_algorithm, 0.3), fj.SelectorPtFractionMin(0.05))
    expected = filtering(sequence.inclusive_jets()[0])
    found = trim(jet)
    total = found.constituents.total()
    assert [total.px[0], total.py[0], total.pz[0]] == pytest.approx(
        [expected.px(), expected.py(), expected.pz()], abs=1e-6
    )
    pieces = fj.sorted_by_pt(expected.pieces())
    assert found.first.pt[0] == pytest.approx(pieces[0].pt())
    assert found.second.pt[0] == pytest.approx(pieces[1].pt() if len(pieces) > 1 else 0.0)


@pytest.mark.parametrize("angle", [0.0, 1.0, 2.5, -2.0])
def test_hardest_in_the_centre_and_the_next_below_wherever_the_jet_is(angle: float) -> None:
    where = 0.55 * np.array([np.cos(angle), np.sin(angle)])
    jet = prongs(np.zeros(2), where, eta=-0.7, phi=3.1)
    image = jet_images(trim(jet)).dense()[0, 0]
    assert image.sum() == pytest.approx(280.0, rel=1e-5)
    assert image[12, 12] + image[11:14, 11:14].sum() > 200.0
    lower = image[11:14, 5:9].sum()  # 0.55 below: pixels 6 and 7 of 12
    assert lower == pytest.approx(80.0, rel=1e-3)


def test_the_right_half_is_the_harder() -> None:
    for seed in range(20):
        image = jet_images(trim(random_jet(seed, 30))).dense()[0, 0]
        assert image[13:].sum() + 0.5 * image[12].sum() >= 0.35 * image.sum()
    one = jet_of([100.0, 30.0, 20.0], [0.0, 0.0, 0.5], [0.0, -0.6, 0.0])
    mirrored = jet_of([100.0, 30.0, 20.0], [0.0, 0.0, -0.5], [0.0, -0.6, 0.0])
    first, second = (jet_images(trim(jet)).dense() for jet in (one, mirrored))
    assert np.array_equal(first, second)
    assert first[0, 0, 13:].sum() == pytest.approx(20.0)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), turn=st.floats(-3, 3), shift=st.floats(-1, 1))
def test_moving_the_jet_moves_hardly_a_pixel(seed: int, turn: float, shift: float) -> None:
    """Rotations about the beam and boosts along it leave the picture; a constituent on an edge may change pixel."""
    jet = random_jet(seed, 20)
    moved = jet_of(jet.pt, jet.eta + shift, jet.phi + turn)
    first, second = (jet_images(trim(j)).dense() for j in (jet, moved))
    assert np.count_nonzero(np.abs(first - second) > 1e-3) <= 2


def test_jets_of_one_constituent_and_no_jets() -> None:
    image = jet_images(trim(jet_of([50.0], [0.1], [0.2]))).dense()
    assert image[0, 0, 12, 12] == 50.0
    none = Constituents(np.array([0]), *(np.zeros(0),) * 4)
    assert len(jet_images(trim(none))) == 0
    assert n_subjettiness(none, 2, radius=1.0).shape == (0,)


def test_n_subjettiness_counts_prongs() -> None:
    two = prongs(np.zeros(2), np.array([0.5, 0.0]), 0.0, 0.0)
    one = prongs(np.zeros(2), np.zeros(2), 0.0, 0.0)
    ratio = [n_subjettiness(j, 2, radius=1.0)[0] / n_subjettiness(j, 1, radius=1.0)[0] for j in (two, one)]
    assert ratio[0] < 0.15
    assert ratio[1] > 0.4
    # By hand: two massless particles, one axis between them by momentum, angles to it weighted with pT.
    pair = jet_of([100.0, 50.0], [0.0, 0.0], [0.0, 0.3])
    axis = np.arctan2(50 * np.sin(0.3), 100 + 50 * np.cos(0.3))
    expected = (100 * axis + 50 * (0.3 - axis)) / (0.8 * 150)
    assert n_subjettiness(pair, 1, radius=0.8)[0] == pytest.approx(expected)
    assert n_subjettiness(pair, 2, radius=0.8)[0] == pytest.approx(0.0, abs=1e-9)
    assert n_subjettiness(pair, 3, radius=0.8)[0] == 0.0  # fewer constituents than axes
