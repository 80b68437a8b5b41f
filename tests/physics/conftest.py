"""Particles, towers and one small simulated sample that the tests of physics/ share."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hpctrain.physics.calorimeter import Towers
from hpctrain.physics.detector import DetectorEvents, simulate
from hpctrain.physics.generator import Generator
from hpctrain.physics.particles import Particles
from hpctrain.physics.processes import find_process


def _particles(**columns: Any) -> Particles:
    """Particles from pt, eta, phi (or px, py, pz), pdg, charge, mass and vertex; scalars are repeated."""
    if "pt" in columns:
        pt, eta, phi = (np.asarray(columns.pop(n), dtype=float) for n in ("pt", "eta", "phi"))
        columns.update(px=pt * np.cos(phi), py=pt * np.sin(phi), pz=pt * np.sinh(eta))
    defaults = {"event": 0, "pdg": 22, "charge": 0.0, "x": 0.0, "y": 0.0, "z": 0.0, "mass": 0.0}
    filled = {**defaults, **columns}
    arrays = dict(zip(filled, np.broadcast_arrays(*filled.values()), strict=True))
    momentum2 = arrays["px"] ** 2 + arrays["py"] ** 2 + arrays["pz"] ** 2
    energy = np.sqrt(momentum2 + arrays.pop("mass") ** 2)
    event = np.atleast_1d(arrays.pop("event")).astype(np.int64)
    pdg = np.atleast_1d(arrays.pop("pdg")).astype(np.int64)
    rest = {k: np.atleast_1d(v).astype(float) for k, v in arrays.items()}
    n_events = int(event.max()) + 1 if len(event) else 0
    return Particles(n_events=n_events, event=event, pdg=pdg, e=np.atleast_1d(energy), **rest)


@pytest.fixture(scope="session")
def particles() -> Callable[..., Particles]:
    return _particles


@pytest.fixture(scope="session")
def random_towers() -> Callable[..., Towers]:
    def make(seed: int, n_events: int = 3, per_event: int = 60) -> Towers:
        """Towers clustered around a few directions, so that hard jets come out."""
        rng = np.random.default_rng(seed)
        event = np.repeat(np.arange(n_events), per_event)
        axis = rng.integers(0, 4, len(event))
        centre = rng.uniform([-1.5, -np.pi], [1.5, np.pi], (n_events, 4, 2))[event, axis]
        eta = centre[:, 0] + rng.normal(0, 0.4, len(event))
        phi = (centre[:, 1] + rng.normal(0, 0.4, len(event)) + np.pi) % (2 * np.pi) - np.pi
        return Towers(
            n_events, event, eta, phi, rng.exponential(20, len(event)), rng.exponential(30, len(event))
        )

    return make


@pytest.fixture(scope="session")
def rpv_events() -> DetectorEvents:
    """60 simulated signal events."""
    particles = Generator(find_process("rpv_gluino"), seed=77).generate(60)
    return simulate(particles, np.random.default_rng(3))
