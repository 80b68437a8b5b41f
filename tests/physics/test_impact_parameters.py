from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.physics.impact_parameters import smear_tracks, true_impact
from hpctrain.physics.particles import Particles

Make = Callable[..., Particles]


def test_particles_of_the_collision_have_none(particles: Make) -> None:
    dxy, dz = true_impact(particles(pt=[1.0, 50.0], eta=[0.3, -2.0], phi=[0.1, 3.0]))
    assert np.abs(dxy).max() == np.abs(dz).max() == 0.0


@settings(max_examples=50, deadline=None)
@given(
    x=st.floats(-20, 20),
    y=st.floats(-20, 20),
    z=st.floats(-50, 50),
    phi=st.floats(-3, 3),
    eta=st.floats(-2, 2),
)
def test_closest_approach_of_a_straight_line(
    particles: Make, x: float, y: float, z: float, phi: float, eta: float
) -> None:
    """|dxy| is the least transverse distance along the line to the beam, dz the z there: found by walking along it."""
    dxy, dz = true_impact(particles(pt=5.0, eta=eta, phi=phi, x=x, y=y, z=z))
    walk = np.linspace(-40, 40, 80_001)
    distance = np.hypot(x + walk * np.cos(phi), y + walk * np.sin(phi))
    best = distance.argmin()
    assert abs(dxy[0]) == pytest.approx(distance[best], abs=1e-3)
    assert dz[0] == pytest.approx(z + walk[best] * np.sinh(eta), abs=5e-3)
    assert dxy[0] == pytest.approx(-x * np.sin(phi) + y * np.cos(phi), abs=1e-9)


@pytest.mark.parametrize(("pt", "eta"), [(1.0, 0.0), (5.0, 1.5), (100.0, -2.0)])
def test_errors_are_those_stated_and_come_together(particles: Make, pt: float, eta: float) -> None:
    """Spread and covariance of 40,000 measurements of one track: 1 % each."""
    n = 40_000
    one = particles(pt=np.full(n, pt), eta=eta, phi=0.5, pdg=211, charge=1.0, x=1.0, y=2.0, z=-3.0)
    found = smear_tracks(one, np.arange(n), np.random.default_rng(1))
    dxy, dz = (v[0] for v in true_impact(one))
    measured = {
        "pt": (found.pt, pt, found.var_pt),
        "eta": (found.eta, eta, found.var_eta),
        "phi": (found.phi, 0.5, found.var_phi),
        "dxy": (found.dxy, dxy, found.var_dxy),
        "dz": (found.dz, dz, found.var_dz),
    }
    for values, true, variance in measured.values():
        assert values.mean() == pytest.approx(true, abs=5 * np.sqrt(variance[0] / n))
        assert values.var() == pytest.approx(variance[0], rel=0.04)
    scatter = np.sqrt(found.var_phi[0] * found.var_dxy[0] / n)
    assert np.cov(found.phi, found.dxy)[0, 1] == pytest.approx(found.cov_phi_dxy[0], abs=6 * scatter)
    angle = np.arctan(np.sinh(found.eta))  # λ
    scatter = np.sqrt(angle.var() * found.var_dz[0] / n)
    assert np.cov(angle, found.dz)[0, 1] == pytest.approx(found.cov_lambda_dz[0], abs=6 * scatter)


def test_hard_central_tracks_are_measured_best(particles: Make) -> None:
    some = particles(pt=[1.0, 1.0, 30.0, 30.0], eta=[0.0, 2.4, 0.0, 2.4], phi=0.0, pdg=211, charge=-1.0)
    found = smear_tracks(some, np.arange(4), np.random.default_rng(1))
    dxy, dz = np.sqrt(found.var_dxy), np.sqrt(found.var_dz)
    assert dxy[0] == pytest.approx(0.0757, rel=0.01)  # 10 µm ⊕ 75 µm
    assert dxy[2] == pytest.approx(0.0103, rel=0.01)
    assert dxy[1] > dxy[0]
    assert dz[1] > 3 * dz[0]
    for variance, other, cov in (
        (found.var_phi, found.var_dxy, found.cov_phi_dxy),
        (found.var_eta / np.cosh(found.eta) ** 2, found.var_dz, found.cov_lambda_dz),
    ):
        assert np.all(cov**2 <= variance * other)


def test_rows_name_the_particles(particles: Make) -> None:
    some = particles(pt=[10.0, 20.0, 30.0], eta=0.0, phi=0.0, pdg=[211, 22, -11], charge=[1.0, 0.0, -1.0])
    found = smear_tracks(some, np.array([2, 0]), np.random.default_rng(1))
    assert found.row.tolist() == [2, 0]
    assert found.charge.tolist() == [-1.0, 1.0]
    assert found.pt == pytest.approx([30.0, 10.0], rel=0.1)
