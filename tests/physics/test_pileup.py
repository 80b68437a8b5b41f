from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.physics.generator import Generator
from hpctrain.physics.jet_processes import minimum_bias
from hpctrain.physics.particles import Particles
from hpctrain.physics.pileup import BeamSpot, central, describe_pileup, minimum_bias_pool, overlay

Make = Callable[..., Particles]


@pytest.fixture(scope="module")
def pool() -> Particles:
    return minimum_bias_pool(7, 80)


def _hard(particles: Make, events: int) -> Particles:
    """Two particles back to back in each event."""
    event = np.repeat(np.arange(events), 2)
    return particles(pt=50.0, eta=0.3, phi=np.where(np.arange(2 * events) % 2, 1.0, -2.0), event=event, z=1.0)


def test_multiplicity_is_proportional_to_mu(particles: Make, pool: Particles) -> None:
    """At μ = 20 about 20 collisions' worth: the mean of the pool, within the error of 200 events' Poisson numbers."""
    per_collision = len(pool) / pool.n_events
    for mu in (5.0, 20.0):
        hard = _hard(particles, 200)
        found = overlay(hard, pool, mu, np.random.default_rng(2))
        collisions = found.n_pileup
        assert collisions.mean() == pytest.approx(mu, abs=5 * np.sqrt(mu / 200))
        assert collisions.var() == pytest.approx(mu, rel=0.5)
        added = (len(found.particles) - len(hard)) / 200
        assert added == pytest.approx(mu * per_collision, rel=0.15)


def test_collisions_are_whole_and_from_one_vertex_each(particles: Make, pool: Particles) -> None:
    """Each overlaid collision is a turned and mirrored one of the pool: same particles, momenta and distances."""
    found = overlay(_hard(particles, 6), pool, 4.0, np.random.default_rng(3))
    p = found.particles
    known = {}
    for number in range(pool.n_events):
        mine = pool.event == number
        known[round(float(pool.e[mine].sum()), 6)] = mine
    assert np.all(np.diff(p.event) >= 0)
    for event in range(6):
        assert set(found.vertex[p.event == event]) <= set(range(found.n_pileup[event] + 1))
        for vertex in range(1, found.n_pileup[event] + 1):
            mine = (p.event == event) & (found.vertex == vertex)
            if not mine.any():  # diffraction that left nothing but what went down the beam pipe
                continue
            source = known[round(float(p.e[mine].sum()), 6)]
            assert np.array_equal(p.pdg[mine], pool.pdg[source])
            assert np.hypot(p.px, p.py)[mine] == pytest.approx(np.hypot(pool.px, pool.py)[source])
            sign = p.pz[mine][0] / pool.pz[source][0]
            assert abs(sign) == 1.0
            assert np.array_equal(p.pz[mine], sign * pool.pz[source])
            z = found.z[found.offsets[event] + vertex]
            assert p.z[mine] == pytest.approx(z + sign * pool.z[source])
            # one angle for all
            turn = np.arctan2(p.py, p.px)[mine] - np.arctan2(pool.py, pool.px)[source]
            assert np.cos(turn - turn[0]) == pytest.approx(1.0)


def test_the_hard_collision_is_as_it_was_but_for_its_vertex(particles: Make, pool: Particles) -> None:
    hard = _hard(particles, 30)
    found = overlay(hard, pool, 10.0, np.random.default_rng(4))
    leading = found.particles.where(found.vertex == 0)
    for name in ("event", "pdg", "px", "py", "pz", "e", "x", "y"):
        assert np.array_equal(getattr(leading, name), getattr(hard, name))
    assert leading.z - hard.z == pytest.approx(np.repeat(found.z[found.offsets[:-1]], 2))


def test_vertices_have_the_spread_of_the_beam(particles: Make, pool: Particles) -> None:
    found = overlay(_hard(particles, 400), pool, 5.0, np.random.default_rng(5), BeamSpot(30.0, 200.0))
    assert len(found.z) > 2000
    assert found.z.std() == pytest.approx(30.0, rel=0.08)
    assert found.t.std() == pytest.approx(200.0, rel=0.08)
    assert abs(np.corrcoef(found.z, found.t)[0, 1]) < 0.1


def test_no_pileup_adds_nothing(particles: Make, pool: Particles) -> None:
    hard = _hard(particles, 5)
    found = overlay(hard, pool, 0.0, np.random.default_rng(1))
    assert len(found.particles) == len(hard)
    assert found.n_pileup.tolist() == [0] * 5


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_same_random_state_gives_the_same_events(particles: Make, pool: Particles, seed: int) -> None:
    hard = _hard(particles, 3)
    one, two = (overlay(hard, pool, 3.0, np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(one.particles.px, two.particles.px)
    assert np.array_equal(one.vertex, two.vertex)


def test_the_pool_follows_from_its_seed_and_looks_as_minimum_bias_does(pool: Particles) -> None:
    again = Generator(minimum_bias(), 7).generate(80)
    assert np.array_equal(central(again).e, pool.e)
    assert pool.n_events == 80
    pt = np.hypot(pool.px, pool.py)
    eta = np.arcsinh(pool.pz / pt)
    assert np.abs(eta).max() < 6.0
    # ATLAS and CMS count about 20 charged particles above 500 MeV within |η| < 2.5 in inelastic collisions
    # with at least one; diffraction that shows none of them is in ours.
    counted = (pool.charge != 0) & (pt > 0.5) & (np.abs(eta) < 2.5)
    assert 9 < counted.sum() / 80 < 20


def test_wrong_arguments(particles: Make, pool: Particles) -> None:
    hard = _hard(particles, 2)
    with pytest.raises(ValueError, match="mu must not be negative"):
        overlay(hard, pool, -1.0, np.random.default_rng(1))
    empty = particles(pt=[], eta=[], phi=[])
    with pytest.raises(ValueError, match="without collisions"):
        overlay(hard, empty, 5.0, np.random.default_rng(1))


def test_the_description_says_that_collisions_are_used_again() -> None:
    found = describe_pileup(20.0, 1000)
    assert "drawn with replacement" in found["pool"]
    assert found["vertices"]["sigma_z"] == 53.0
