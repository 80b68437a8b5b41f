"""Pileup: minimum-bias collisions overlaid on the hard one, each from a vertex of its own.

The pool of collisions is generated once and drawn from with replacement. A collision drawn again is turned by
a random angle about the beam and mirrored along it at random: both leave proton-proton physics as it is, so a
pool of a few hundred gives many more pictures than it has collisions. It still has only so many of them: say so.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from hpctrain.physics.generator import Generator
from hpctrain.physics.jet_processes import minimum_bias
from hpctrain.physics.particles import Floats, Ints, Particles
from hpctrain.physics.propagation import pseudorapidity


@dataclass(frozen=True)
class BeamSpot:
    """Spread of the collisions; Gaussian, numbers of the Delphes pileup cards."""

    sigma_z: float = 53.0
    """Along the beam, millimetres."""
    sigma_t: float = 160.0
    """In time, picoseconds; independent of z. Nothing in the detector measures it."""


@dataclass(frozen=True)
class Overlay:
    """Events with their pileup."""

    particles: Particles
    """Of all collisions, ordered by event; production points are moved to their vertex."""
    vertex: Ints
    """Collision of each particle: 0 the hard one, 1 … those of pileup of its event."""
    offsets: Ints
    """(events + 1,): the collisions of event i are offsets[i] to offsets[i + 1], the hard one first."""
    z: Floats
    """Of each collision, millimetres."""
    t: Floats
    """Of each collision, picoseconds."""

    @property
    def n_pileup(self) -> Ints:
        """(events,)"""
        return np.diff(self.offsets) - 1


ETA_MAX = 6.0
"""What flies nearer to the beam than this meets no detector here, wherever its vertex is."""


def central(particles: Particles) -> Particles:
    """The particles within ``ETA_MAX``."""
    pt = np.hypot(particles.px, particles.py)
    return particles.where(np.abs(pseudorapidity(pt, particles.pz)) < ETA_MAX)


def overlay(
    hard: Particles, pool: Particles, mu: float, rng: np.random.Generator, spot: BeamSpot | None = None
) -> Overlay:
    """``hard`` events with Poisson(``mu``) collisions of ``pool`` each; every vertex is drawn from ``spot``.

    ``pool`` holds one collision an event, as generated, with its vertex at the origin. The hard collisions
    are moved as well. The same state of ``rng`` gives the same events.
    """
    if mu < 0.0:
        raise ValueError(f"mu must not be negative, got {mu}")
    if mu > 0.0 and pool.n_events == 0:
        raise ValueError("a pool without collisions")
    spot = spot or BeamSpot()
    n_pileup = rng.poisson(mu, hard.n_events)
    offsets = np.concatenate([[0], np.cumsum(n_pileup + 1)]).astype(np.int64)
    z = rng.normal(0.0, spot.sigma_z, offsets[-1])
    t = rng.normal(0.0, spot.sigma_t, offsets[-1])
    total = int(n_pileup.sum())
    drawn = rng.integers(0, max(pool.n_events, 1), total)
    turn = rng.uniform(-np.pi, np.pi, total)
    mirror = rng.choice([-1.0, 1.0], total)

    counts = np.bincount(pool.event, minlength=pool.n_events)
    first = np.cumsum(counts) - counts
    size = counts[drawn] if total else np.zeros(0, np.int64)
    start = np.cumsum(size) - size
    collision = np.repeat(np.arange(total), size)
    rows = (
        np.repeat(first[drawn] - start, size) + np.arange(len(collision)) if total else np.zeros(0, np.int64)
    )
    event = np.repeat(np.arange(hard.n_events, dtype=np.int64), n_pileup)
    number = np.arange(total) - np.repeat(np.cumsum(n_pileup) - n_pileup, n_pileup) + 1
    vertex_z = z[offsets[event] + number]

    cos, sin, sign = np.cos(turn)[collision], np.sin(turn)[collision], mirror[collision]
    px, py, x, y = pool.px[rows], pool.py[rows], pool.x[rows], pool.y[rows]
    soft = Particles(
        n_events=hard.n_events,
        event=event[collision],
        pdg=pool.pdg[rows],
        charge=pool.charge[rows],
        px=px * cos - py * sin,
        py=px * sin + py * cos,
        pz=pool.pz[rows] * sign,
        e=pool.e[rows],
        x=x * cos - y * sin,
        y=x * sin + y * cos,
        z=pool.z[rows] * sign + vertex_z[collision],
    )
    moved = replace(hard, z=hard.z + z[offsets[:-1]][hard.event])
    particles, order = _merged(moved, soft)
    vertex = np.concatenate([np.zeros(len(hard), np.int64), number[collision]])[order]
    return Overlay(particles, vertex, offsets, z, t)


def _merged(hard: Particles, soft: Particles) -> tuple[Particles, Ints]:
    """Both in one, event by event, the hard one's particles first; and the order that did it."""
    order = np.argsort(np.concatenate([hard.event, soft.event]), kind="stable")
    names = ("event", "pdg", "charge", "px", "py", "pz", "e", "x", "y", "z")
    columns = {n: np.concatenate([getattr(hard, n), getattr(soft, n)])[order] for n in names}
    return Particles(n_events=hard.n_events, **columns), order


def minimum_bias_pool(seed: int, collisions: int, batch: int = 200) -> Particles:
    """``collisions`` inelastic collisions for ``overlay``: what flies towards a detector of them (``central``)."""
    generator = Generator(minimum_bias(), seed)
    sizes = [min(batch, collisions - start) for start in range(0, collisions, batch)]
    return Particles.concatenate([central(generator.generate(size)) for size in sizes])


def describe_pileup(mu: float, pool: int) -> dict[str, Any]:
    """How pileup was made, as plain JSON types, for the provenance of a dataset."""
    return {
        "mu": mu,
        "collisions": f"Poisson({mu:g}) of Pythia's inelastic ones an event",
        "pool": f"{pool} collisions generated for each chunk, drawn with replacement; each time turned by a "
        "random angle about the beam and mirrored along it at random",
        "vertices": {"distribution": "Gaussian, hard collision too", **asdict(BeamSpot())},
        "left_out": f"pileup particles with |eta| > {ETA_MAX:g}; out-of-time pileup",
    }
