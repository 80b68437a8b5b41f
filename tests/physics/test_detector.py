import json
from collections.abc import Callable

import numpy as np
import pytest

from hpctrain.physics.detector import (
    DetectorEvents,
    describe_detector,
    measure_tracks,
    simulate,
    track_resolution,
    tracking_efficiency,
)
from hpctrain.physics.particles import Particles

Maker = Callable[..., Particles]


@pytest.mark.parametrize(
    ("pdg", "pt", "eta", "efficiency"),
    [  # the card's table
        (211, 0.05, 0.0, 0.0), (211, 0.5, 1.0, 0.70), (-321, 5.0, -1.5, 0.95), (2212, 0.5, 2.0, 0.60),
        (211, 5.0, -2.5, 0.85), (211, 5.0, 2.6, 0.0), (11, 0.5, 0.0, 0.73), (11, 50.0, 0.0, 0.95),
        (-11, 200.0, 0.0, 0.99), (11, 50.0, 2.0, 0.83), (11, 200.0, 2.0, 0.90), (13, 0.5, 0.0, 0.75),
        (-13, 5.0, 0.0, 0.99), (13, 5.0, 2.0, 0.98), (13, 5.0, 3.0, 0.0),
    ],
)  # fmt: skip
def test_efficiency_table(pdg: int, pt: float, eta: float, efficiency: float) -> None:
    assert tracking_efficiency(np.array([pdg]), np.array([pt]), np.array([eta]))[0] == efficiency


@pytest.mark.parametrize(
    ("pdg", "pt", "eta", "relative"),
    [(211, 10.0, 0.2, 0.0614), (211, 100.0, -1.0, 0.1972), (211, 10.0, 2.0, 0.2519), (11, 10.0, 0.0, 0.0327),
     (13, 100.0, 2.0, 0.0430)],
)  # fmt: skip
def test_resolution_table(pdg: int, pt: float, eta: float, relative: float) -> None:
    found = track_resolution(np.array([pdg]), np.array([pt]), np.array([eta]))[0]
    assert found == pytest.approx(relative, abs=2e-4)


@pytest.mark.parametrize(
    ("eta", "efficiency", "sigma"), [(0.2, 0.95, 0.0614), (-1.0, 0.95, 0.1014), (2.0, 0.85, 0.2519)]
)
def test_tracks_of_pions(particles: Maker, eta: float, efficiency: float, sigma: float) -> None:
    n = 40_000
    p = particles(pt=10.0, eta=eta, phi=0.7, pdg=211, charge=1.0, mass=0.14, event=np.arange(n))
    tracks = measure_tracks(p, np.random.default_rng(1))
    assert len(tracks) / n == pytest.approx(efficiency, abs=5 * np.sqrt(efficiency * (1 - efficiency) / n))
    assert tracks.pt.mean() == pytest.approx(10.0, rel=5 * sigma / np.sqrt(n))
    assert tracks.pt.std() / 10.0 == pytest.approx(sigma, rel=0.03)
    assert tracks.eta == pytest.approx(np.full(len(tracks), eta))
    assert tracks.phi == pytest.approx(np.full(len(tracks), 0.7))


def test_neutral_particles_make_no_track(particles: Maker) -> None:
    p = particles(pt=10.0, eta=0.2, phi=0.0, pdg=[22, 2112, 12], event=[0, 0, 0])
    assert len(measure_tracks(p, np.random.default_rng(1))) == 0


def test_particles_born_outside_are_not_seen(particles: Maker) -> None:
    p = particles(pt=50.0, eta=0.2, phi=0.0, pdg=211, charge=1.0, x=1500.0, event=np.arange(50))
    seen = simulate(p, np.random.default_rng(1))
    assert len(seen.towers) == len(seen.tracks) == 0
    assert seen.n_events == 50


def test_the_measured_energy_is_near_the_true_one(rpv_events: DetectorEvents) -> None:
    """Gluino pairs: at least their masses, 2.8 TeV, nearly all of it visible, in every event."""
    energy = np.bincount(rpv_events.towers.event, weights=rpv_events.towers.ecal + rpv_events.towers.hcal)
    assert len(energy) == 60
    assert energy.min() > 1800
    assert 2800 < np.median(energy) < 9000
    hadronic = rpv_events.towers.hcal.sum() / energy.sum()
    assert 0.6 < hadronic < 0.85  # π⁰ take about a third of a jet, the ECAL share of charged pions is 0


def test_tracks_lie_in_the_tracker(rpv_events: DetectorEvents) -> None:
    assert np.abs(rpv_events.tracks.eta).max() <= 2.5
    per_event = np.bincount(rpv_events.tracks.event, minlength=60)
    assert 60 < per_event.mean() < 600


def test_nothing_in_nothing_out(particles: Maker) -> None:
    p = particles(pt=1.0, eta=0.0, phi=0.0)
    empty = simulate(
        Particles(**{**p.where(np.array([False])).__dict__, "n_events": 4}), np.random.default_rng(1)
    )
    assert empty.n_events == 4
    assert len(empty.towers) == len(empty.tracks) == 0


def test_description_is_json() -> None:
    text = json.loads(json.dumps(describe_detector()))
    assert text["label"] == "Delphes-ATLAS-like parametrised simulation"
    assert text["solenoid"] == {"radius": 1.15, "half_length": 3.51, "field": 2.0}


def test_golden_measurement(particles: Maker) -> None:
    """Sums recorded on 2026-11-21 with numpy 2.4 (PCG64), x86-64: they change when the detector's numbers, or the
    order in which it draws random numbers, change. Then stored datasets are of another detector: say so in the
    changelog and record the new sums."""
    rng = np.random.default_rng(2017)
    n = 2000
    p = particles(
        pt=rng.exponential(8.0, n), eta=rng.uniform(-4.5, 4.5, n), phi=rng.uniform(-np.pi, np.pi, n),
        pdg=rng.choice([211, 22, 130, 310, 11, 13, 12], n), charge=0.0, event=np.sort(rng.integers(0, 20, n)),
    )  # fmt: skip
    charge = np.where(np.isin(p.pdg, [211, 11, 13]), 1.0, 0.0)
    seen = simulate(Particles(**{**p.__dict__, "charge": charge}), np.random.default_rng(1711))
    found = [
        len(seen.towers),
        len(seen.tracks),
        seen.towers.ecal.sum(),
        seen.towers.hcal.sum(),
        seen.tracks.pt.sum(),
    ]
    golden = [1316, 438, 56695.075657825655, 55499.198290865956, 3595.837491741704]
    assert found == pytest.approx(golden, rel=1e-9)
