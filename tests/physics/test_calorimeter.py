from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.physics.calorimeter import (
    ETA_EDGES,
    INVISIBLE,
    N_TOWERS,
    PHI_CELLS,
    Towers,
    ecal_resolution,
    energy_fractions,
    hcal_resolution,
    log_normal,
    measure_towers,
    tower_index,
)
from hpctrain.physics.particles import Floats, Particles
from hpctrain.physics.propagation import propagate

Maker = Callable[..., Particles]


def _measure(particles: Particles, seed: int = 1) -> Towers:
    return measure_towers(particles, propagate(particles), np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("pdg", "ecal", "hcal"),
    [
        (11, 1, 0), (-11, 1, 0), (22, 1, 0), (111, 1, 0), (211, 0, 1), (-2212, 0, 1), (130, 0, 1), (2112, 0, 1),
        (310, 0.3, 0.7), (-3122, 0.3, 0.7), (13, 0, 0), (-14, 0, 0), (12, 0, 0), (16, 0, 0), (1000022, 0, 0),
    ],
)  # fmt: skip
def test_energy_fractions(pdg: int, ecal: float, hcal: float) -> None:
    fractions = energy_fractions(np.array([pdg]))
    assert fractions[0][0] == pytest.approx(ecal)
    assert fractions[1][0] == pytest.approx(hcal)


def test_grid_is_symmetric_and_as_fine_as_the_card_says() -> None:
    assert pytest.approx(-ETA_EDGES[::-1]) == ETA_EDGES
    assert np.array_equal(PHI_CELLS, PHI_CELLS[::-1])
    inner = np.abs(0.5 * (ETA_EDGES[1:] + ETA_EDGES[:-1])) < 2.5
    assert np.diff(ETA_EDGES)[inner] == pytest.approx(0.1)
    assert set(PHI_CELLS[inner]) == {36}
    assert ETA_EDGES[-1] == 4.9
    assert PHI_CELLS.sum() == N_TOWERS


@given(eta=st.floats(-4.89, 4.89), phi=st.floats(-np.pi, np.pi), turns=st.integers(-18, 18))
def test_every_direction_has_one_tower(eta: float, phi: float, turns: int) -> None:
    """Towers are numbered without gaps, and a turn by whole 20° cells stays in the ring."""
    tower = int(tower_index(np.array([eta]), np.array([phi]))[0])
    assert 0 <= tower < N_TOWERS
    first = np.concatenate([[0], np.cumsum(PHI_CELLS)])
    ring = int(np.searchsorted(first, tower, side="right")) - 1
    assert ETA_EDGES[ring] <= eta <= ETA_EDGES[ring + 1]
    cell = tower - first[ring]
    width = 2 * np.pi / PHI_CELLS[ring]
    assert -np.pi + cell * width - 1e-9 <= phi or np.isclose(phi, np.pi)
    assert phi <= -np.pi + (cell + 1) * width + 1e-9 or np.isclose(phi, np.pi)


def test_outside_the_acceptance_there_is_no_tower() -> None:
    assert tower_index(np.array([5.0, -4.95, np.inf, -np.inf]), np.zeros(4)).tolist() == [-1] * 4


def test_both_ends_of_the_circle_share_a_tower() -> None:
    ends = tower_index(np.array([0.05, 0.05]), np.array([-np.pi, np.pi]))
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("curve", "eta", "energy", "sigma"),
    [  # by hand from the card's formulas
        (ecal_resolution, 0.5, 100.0, 1.0242), (ecal_resolution, 4.0, 100.0, 4.5136),
        (hcal_resolution, 0.5, 100.0, 6.2242), (hcal_resolution, -2.0, 100.0, 8.6510),
        (hcal_resolution, 4.0, 100.0, 13.7380),
    ],
)  # fmt: skip
def test_resolution_at_known_points(
    curve: Callable[[Floats, Floats], Floats], eta: float, energy: float, sigma: float
) -> None:
    assert curve(np.array([eta]), np.array([energy]))[0] == pytest.approx(sigma, abs=1e-3)


@pytest.mark.parametrize("ratio", [0.02, 0.3, 1.5])
def test_log_normal_has_the_moments_asked_for(ratio: float) -> None:
    drawn = log_normal(np.random.default_rng(2), np.full(400_000, 50.0), np.full(400_000, 50.0 * ratio))
    assert drawn.min() > 0
    assert drawn.mean() == pytest.approx(50.0, rel=0.01)
    assert drawn.std() == pytest.approx(50.0 * ratio, rel=0.05)


def test_log_normal_of_nothing_is_nothing() -> None:
    assert log_normal(np.random.default_rng(2), np.zeros(3), np.ones(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("pdg", "layer", "curve", "energy"),
    [(22, "ecal", ecal_resolution, 100.0), (130, "hcal", hcal_resolution, 200.0)],
)
@pytest.mark.parametrize("eta", [0.05, -1.95])
def test_response_to_one_particle(
    particles: Maker,
    pdg: int,
    layer: str,
    curve: Callable[[Floats, Floats], Floats],
    energy: float,
    eta: float,
) -> None:
    """Mean and spread of 20,000 measurements are the energy and the card's resolution; one tower each."""
    n = 20_000
    towers = _measure(particles(pt=energy / np.cosh(eta), eta=eta, phi=0.4, pdg=pdg, event=np.arange(n)))
    assert np.array_equal(towers.event, np.arange(n))
    measured = getattr(towers, layer)
    sigma = curve(np.array([eta]), np.array([energy]))[0]
    assert measured.mean() == pytest.approx(energy, abs=5 * sigma / np.sqrt(n))
    assert measured.std() == pytest.approx(sigma, rel=0.03)
    assert (towers.ecal if layer == "hcal" else towers.hcal).sum() == 0
    # Spread evenly over the face of the tower: 0.1 wide, 10 degrees.
    assert np.abs(towers.eta - eta).max() <= 0.05 + 1e-9
    assert towers.eta.std() == pytest.approx(0.1 / np.sqrt(12), rel=0.03)
    assert towers.phi.std() == pytest.approx(np.radians(10) / np.sqrt(12), rel=0.03)


def test_thresholds(particles: Maker) -> None:
    """ECAL towers have at least 0.5 GeV, HCAL ones 1 GeV and one resolution (2.3 GeV at |η| < 1.7)."""
    rng = np.random.default_rng(3)
    n = 30_000
    soft = {"eta": rng.uniform(-1.6, 1.6, n), "phi": rng.uniform(-3, 3, n), "event": np.arange(n)}
    photons = _measure(particles(pt=rng.uniform(0.1, 2.0, n), pdg=22, **soft))
    assert photons.ecal.min() >= 0.5
    assert photons.ecal.min() < 0.52
    hadrons = _measure(particles(pt=rng.uniform(0.1, 6.0, n), pdg=130, **soft))
    sigma = hcal_resolution(hadrons.eta, hadrons.hcal)
    assert np.all(hadrons.hcal >= sigma)
    assert 1.7 < hadrons.hcal.min() < 1.9  # where E = σ(E)


def test_invisible_particles_leave_nothing(particles: Maker) -> None:
    p = particles(pt=100.0, eta=0.3, phi=0.1, pdg=np.array(INVISIBLE), event=np.arange(len(INVISIBLE)))
    assert len(_measure(p)) == 0


def test_neighbours_in_a_tower_add_up(particles: Maker) -> None:
    p = particles(
        pt=[40.0, 60.0, 30.0], eta=0.05, phi=[0.30, 0.31, 0.32], pdg=[22, 22, 310], event=np.repeat(0, 3)
    )
    towers = _measure(p)
    assert len(towers) == 1
    assert towers.ecal[0] == pytest.approx(109, abs=6)
    assert towers.hcal[0] == pytest.approx(21, abs=14)


def test_measurement_is_even_in_eta_and_flat_in_phi(particles: Maker) -> None:
    """The sum of energies does not know forward from backward, nor one φ cell from another."""
    rng = np.random.default_rng(4)
    n = 60_000
    eta, phi = rng.uniform(0, 4.8, n), rng.uniform(-np.pi, np.pi, n)
    towers = _measure(
        particles(pt=20.0, eta=np.where(np.arange(n) % 2, eta, -eta), phi=phi, pdg=22, event=np.arange(n))
    )
    forward = towers.eta > 0
    share = towers.ecal[forward].sum() / towers.ecal.sum()
    assert share == pytest.approx(0.5, abs=0.02)
    sectors = np.histogram(towers.phi, bins=6, range=(-np.pi, np.pi))[0]
    assert np.abs(sectors / len(towers) - 1 / 6).max() < 5 * np.sqrt(1 / 6 / len(towers))


def test_a_seed_fixes_the_measurement(particles: Maker) -> None:
    rng = np.random.default_rng(5)
    p = particles(pt=rng.exponential(20, 500), eta=rng.normal(0, 2, 500), phi=rng.uniform(-3, 3, 500), pdg=211,
                  charge=1.0, event=np.sort(rng.integers(0, 9, 500)))  # fmt: skip
    one, same, other = _measure(p, 1), _measure(p, 1), _measure(p, 2)
    assert np.array_equal(one.hcal, same.hcal)
    assert not np.array_equal(one.hcal[:50], other.hcal[:50])
    assert np.all(np.diff(one.event) >= 0)
