import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.physics.jet_features import (
    CONSTITUENT_FEATURES,
    EXPERT_FEATURES,
    constituent_features,
    expert_features,
)
from hpctrain.physics.particle_jets import Constituents
from hpctrain.physics.particles import Floats


def jet_of(pt: Floats, eta: Floats, phi: Floats, mass: float = 0.14) -> Constituents:
    e = np.sqrt((pt * np.cosh(eta)) ** 2 + mass**2)
    return Constituents(np.array([0, len(pt)]), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), e)


def random_jet(seed: int, n: int) -> Constituents:
    rng = np.random.default_rng(seed)
    return jet_of(rng.exponential(10.0, n) + 0.1, rng.normal(0.5, 0.2, n), rng.normal(3.0, 0.2, n))


def feature(values: Floats, name: str) -> Floats:
    names = EXPERT_FEATURES if values.shape[1] == len(EXPERT_FEATURES) and name in EXPERT_FEATURES else ()
    return values[:, (names or CONSTITUENT_FEATURES).index(name)]


def test_the_order_of_the_inputs() -> None:
    """systems: zlogz, C1 (β 0, 1, 2), C2, D2, D2(1,1), D2(1,2), M2, N2 (β 1, 2), mass, multiplicity."""
    assert len(EXPERT_FEATURES) == len(CONSTITUENT_FEATURES) == 16
    assert EXPERT_FEATURES[:2] == ("zlogz", "c1_b0_mmdt")
    assert EXPERT_FEATURES[8:10] == ("d2_a1_b1_mmdt", "d2_a1_b2_mmdt")
    assert EXPERT_FEATURES[-2:] == ("mass_mmdt", "multiplicity")


def test_two_equal_prongs() -> None:
    """Everything by hand: z = ½ each at ΔR = 0.4."""
    two = jet_of(np.array([100.0, 100.0]), np.array([0.2, -0.2]), np.zeros(2), mass=0.0)
    f = expert_features(two)
    assert feature(f, "zlogz") == pytest.approx(-np.log(2))
    assert feature(f, "c1_b0_mmdt") == pytest.approx(0.25)
    assert feature(f, "c1_b1_mmdt") == pytest.approx(0.25 * 0.4)
    assert feature(f, "c1_b2_mmdt") == pytest.approx(0.25 * 0.16)
    for name in ("c2_b1_mmdt", "d2_b2_mmdt", "d2_a1_b2_mmdt", "m2_b1_mmdt", "n2_b2_mmdt"):
        assert feature(f, name) == 0.0  # three-point functions of two
    assert feature(f, "mass_mmdt") == pytest.approx(np.sqrt(2 * 100**2 * (np.cosh(0.4) - 1)), rel=1e-6)
    assert feature(f, "multiplicity") == 2


def test_three_equal_prongs_at_the_corners_of_a_triangle() -> None:
    """z = ⅓, all angles θ: e₂ = θ/3, ₃e₃ = θ³/27, ₁e₃ = θ/27, ₂e₃ = θ²/27 (for β = 1)."""
    theta = 0.3
    corners = np.array([[0, 0], [theta, 0], [theta / 2, theta * np.sqrt(3) / 2]])
    f = expert_features(jet_of(np.full(3, 50.0), corners[:, 0], corners[:, 1], mass=0.0))
    assert feature(f, "c1_b1_mmdt") == pytest.approx(theta / 3)
    assert feature(f, "c2_b1_mmdt") == pytest.approx(theta / 3)
    assert feature(f, "d2_b1_mmdt") == pytest.approx(1.0)
    assert feature(f, "d2_a1_b1_mmdt") == feature(f, "d2_b1_mmdt")
    assert feature(f, "d2_a1_b2_mmdt") == pytest.approx(theta**3 / 27 / (theta**2 / 3) ** 1.5)
    assert feature(f, "m2_b1_mmdt") == pytest.approx(1 / 9)
    assert feature(f, "n2_b1_mmdt") == pytest.approx(1 / 3)
    assert feature(f, "n2_b2_mmdt") == pytest.approx(1 / 3)


@pytest.mark.parametrize("n", [1, 2])
def test_jets_of_one_and_two_constituents_are_finite(n: int) -> None:
    f = expert_features(random_jet(4, n))
    assert np.isfinite(f).all()
    assert feature(f, "multiplicity") == n
    if n == 1:
        assert np.count_nonzero(f) == 2  # mass and multiplicity
        assert feature(f, "mass_mmdt") == pytest.approx(0.14, rel=1e-3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 40))
def test_neither_depends_on_the_order_of_constituents(seed: int, n: int) -> None:
    jet = random_jet(seed, n)
    order = np.random.default_rng(seed + 1).permutation(n)
    other = Constituents(jet.offsets, jet.px[order], jet.py[order], jet.pz[order], jet.e[order])
    assert expert_features(other) == pytest.approx(expert_features(jet), rel=1e-4, abs=1e-6)
    assert constituent_features(other) == pytest.approx(constituent_features(jet)[order], rel=1e-3, abs=1e-5)


def test_constituent_features_are_what_their_names_say() -> None:
    jet = random_jet(6, 25)
    f = {name: feature(constituent_features(jet), name).astype(float) for name in CONSTITUENT_FEATURES}
    total = jet.total()
    assert f["px"] == pytest.approx(jet.px, rel=1e-6)
    assert f["e_rel"].sum() == pytest.approx(1.0, rel=1e-5)
    assert f["pt_rel"] * total.pt == pytest.approx(f["pt"], rel=1e-5)
    assert f["eta_rel"] + total.eta == pytest.approx(f["eta"], abs=1e-5)
    assert np.abs(f["phi_rel"]).max() < 1.5  # across the seam
    assert f["delta_r"] == pytest.approx(np.hypot(f["eta_rel"], f["phi_rel"]), abs=1e-5)
    # A rotation keeps lengths, puts the principal axis along η, and the harder half to positive η.
    assert np.hypot(f["eta_rot"], f["phi_rot"]) == pytest.approx(f["delta_r"], abs=1e-5)
    assert (f["pt"] * f["eta_rot"] * f["phi_rot"]).sum() == pytest.approx(0.0, abs=1e-4)
    assert (f["pt"] * f["eta_rot"] ** 2).sum() > (f["pt"] * f["phi_rot"] ** 2).sum()
    assert f["pt"][f["eta_rot"] > 0].sum() >= f["pt"][f["eta_rot"] < 0].sum()
    axis = np.array([total.px[0], total.py[0], total.pz[0]])
    momenta = np.stack([jet.px, jet.py, jet.pz], axis=1)
    cosine = momenta @ axis / np.linalg.norm(momenta, axis=1) / np.linalg.norm(axis)
    assert f["cos_theta_rel"] == pytest.approx(cosine, abs=1e-6)
    assert f["cos_theta"] == pytest.approx(np.tanh(jet.eta), abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), turn=st.floats(-3.1, 3.1))
def test_turning_a_jet_about_the_beam_leaves_what_is_relative(seed: int, turn: float) -> None:
    jet = random_jet(seed, 15)
    turned = jet_of(jet.pt, jet.eta, jet.phi + turn)
    first, second = constituent_features(jet), constituent_features(turned)
    for name in ("e_rel", "pt_rel", "eta_rel", "phi_rel", "delta_r", "cos_theta", "cos_theta_rel"):
        assert feature(second, name) == pytest.approx(feature(first, name), rel=1e-4, abs=1e-4)
