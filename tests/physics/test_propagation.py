from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.physics.particles import Floats, Particles
from hpctrain.physics.propagation import LIGHT, Impact, Solenoid, propagate, pseudorapidity

Maker = Callable[..., Particles]


def step_to_surface(p: Particles, i: int, solenoid: Solenoid, angle: float = 0.02) -> Floats:
    """Point (m) where particle ``i`` leaves the cylinder: Runge-Kutta steps of dx/dt = p, dp/dt = 0.3 q p × B,
    the last one cut by bisection. Slow, and knows nothing of circles."""
    turn = LIGHT * p.charge[i] * solenoid.field

    def slope(state: Floats) -> Floats:
        px, py, pz = state[3:]
        return np.array([px, py, pz, turn * py, -turn * px, 0.0])

    def step(state: Floats, h: float) -> Floats:
        k1 = slope(state)
        k2 = slope(state + 0.5 * h * k1)
        k3 = slope(state + 0.5 * h * k2)
        k4 = slope(state + h * k3)
        return state + h / 6.0 * (k1 + 2 * k2 + 2 * k3 + k4)

    def inside(state: Floats) -> bool:
        return bool(np.hypot(state[0], state[1]) < solenoid.radius and abs(state[2]) < solenoid.half_length)

    state = np.array([p.x[i], p.y[i], p.z[i], p.px[i], p.py[i], p.pz[i]]) * ([1e-3] * 3 + [1.0] * 3)
    h = min(0.05 / p.e[i], angle / max(abs(turn), 1e-9))
    for _ in range(200_000):
        following = step(state, h)
        if not inside(following):
            break
        state = following
    else:
        raise RuntimeError("the particle did not leave")
    low, high = 0.0, h
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if inside(step(state, middle)) else (low, middle)
    return step(state, low)[:3]


def _random(make: Maker, seed: int, n: int, vertex_mm: float) -> Particles:
    rng = np.random.default_rng(seed)
    return make(
        pt=np.exp(rng.uniform(np.log(0.15), np.log(500), n)),
        eta=rng.uniform(-3.5, 3.5, n),
        phi=rng.uniform(-np.pi, np.pi, n),
        charge=rng.choice([-2.0, -1.0, 0.0, 1.0], n),
        x=rng.normal(0, vertex_mm, n),
        y=rng.normal(0, vertex_mm, n),
        z=rng.normal(0, 3 * vertex_mm, n),
    )


@pytest.mark.parametrize("vertex_mm", [0.0, 60.0])
def test_agrees_with_stepping_through_the_field(particles: Maker, vertex_mm: float) -> None:
    p = _random(particles, 1, 60, vertex_mm)
    impact = propagate(p)
    assert impact.reached.all()
    expected = np.array([step_to_surface(p, i, Solenoid()) for i in range(len(p))])
    found = np.stack([impact.x, impact.y, impact.z], axis=1)
    assert np.abs(found - expected).max() < 1e-5  # metres


def test_soft_particles_curl_into_the_end_caps(particles: Maker) -> None:
    # Smallest pT that reaches the barrel at 2 T: 0.3·2·1.15/2 = 0.345 GeV.
    p = particles(pt=[0.34, 0.35, 0.34], eta=0.5, phi=0.3, charge=[1, 1, 0])
    impact = propagate(p)
    radius = np.hypot(impact.x, impact.y)
    assert radius[0] < 1.15 - 1e-6
    assert abs(impact.z[0]) == pytest.approx(3.51)
    assert radius[1:] == pytest.approx(1.15)


def test_positive_charge_turns_clockwise(particles: Maker) -> None:
    impact = propagate(particles(pt=2.0, eta=0.0, phi=0.0, charge=[1.0, -1.0, 0.0]))
    bend = np.arcsin(LIGHT * 2.0 * 1.15 / (2 * 2.0))  # from the chord of a circle
    assert impact.phi == pytest.approx([-bend, bend, 0.0])


def test_neutral_particles_from_the_origin_keep_their_direction(particles: Maker) -> None:
    p = _random(particles, 2, 200, 0.0)
    p = p.where(p.charge == 0)
    impact = propagate(p)
    assert impact.eta == pytest.approx(pseudorapidity(np.hypot(p.px, p.py), p.pz))
    assert impact.phi == pytest.approx(np.arctan2(p.py, p.px))


def test_particles_that_meet_nothing(particles: Maker) -> None:
    outside = propagate(particles(pt=5.0, eta=0.1, phi=0.0, charge=1.0, x=1200.0))
    behind = propagate(particles(pt=5.0, eta=0.1, phi=0.0, charge=0.0, z=-4000.0))
    turning = propagate(particles(pt=0.1, eta=0.0, phi=0.0, charge=1.0))
    along = propagate(particles(px=0.0, py=0.0, pz=100.0, charge=0.0))
    assert not outside.reached.any()
    assert not behind.reached.any()
    assert not turning.reached.any()
    assert along.reached.all()
    assert along.z == pytest.approx([3.51])


def test_no_particles(particles: Maker) -> None:
    empty = particles(pt=1.0, eta=0.0, phi=0.0).where(np.array([False]))
    assert len(propagate(empty).x) == 0


@given(seed=st.integers(0, 2**32 - 1), angle=st.floats(-np.pi, np.pi))
def test_symmetries(particles: Maker, seed: int, angle: float) -> None:
    """Turning the event turns the impact; mirrors of z, and of y together with the charge, mirror it."""
    p = _random(particles, seed, 30, 40.0)
    plain = propagate(p)
    cos, sin = np.cos(angle), np.sin(angle)

    def changed(**columns: Floats) -> Impact:
        fields = {**p.__dict__, **columns}
        return propagate(Particles(**fields))

    turned = changed(
        px=cos * p.px - sin * p.py,
        py=sin * p.px + cos * p.py,
        x=cos * p.x - sin * p.y,
        y=sin * p.x + cos * p.y,
    )
    assert turned.x == pytest.approx(cos * plain.x - sin * plain.y, abs=1e-6)
    assert turned.y == pytest.approx(sin * plain.x + cos * plain.y, abs=1e-6)
    backward = changed(pz=-p.pz, z=-p.z)
    assert backward.z == pytest.approx(-plain.z, abs=1e-9)
    assert backward.x == pytest.approx(plain.x, abs=1e-9)
    mirrored = changed(py=-p.py, y=-p.y, charge=-p.charge)
    assert mirrored.y == pytest.approx(-plain.y, abs=1e-6)
    assert mirrored.x == pytest.approx(plain.x, abs=1e-6)
