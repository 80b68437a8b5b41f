"""Samples in which a row is a jet: what their chunks have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hpctrain.data.columns import Columns, concatenate
from hpctrain.data.schema import DenseField, Fields
from hpctrain.ingest.chunks import Chunk, Settings
from hpctrain.physics.generator import CrossSection, Generator
from hpctrain.physics.particle_jets import ParticleJets, cluster_particles, visible
from hpctrain.physics.particles import Particles
from hpctrain.physics.partons import hard_partons, match

BATCH = 100
"""Events in memory as full records at a time; random numbers are drawn batch by batch."""
JET_FEATURES = ("pt", "eta", "phi", "mass")


@dataclass(frozen=True)
class JetBatch:
    """Accepted jets of some events, one an event at most."""

    start: int
    """Number in the chunk of the first event."""
    record: Any
    """The generator's, with everything in it."""
    particles: Particles
    """Final state without neutrinos."""
    jets: ParticleJets
    """Of ``particles``."""


@dataclass(frozen=True)
class JetSettings(Settings):
    """Anti-kT jets of all visible particles, without a detector; one jet of an event at most is kept.

    One, because the jets of an event are not independent: two could stand in different splits. A subclass
    adds ``columns`` and the fields for them.
    """

    radius: float
    pt_min: float
    pt_max: float
    """GeV."""
    eta_max: float
    match_radius: float
    """Greatest ΔR between a jet and the parton it is named after."""

    @abstractmethod
    def jet_fields(self) -> Fields:
        """Fields beside ``jet`` and ``event_id``."""

    @abstractmethod
    def columns(self, batch: JetBatch, rng: np.random.Generator) -> Columns:
        """Their values, a row a jet."""

    def accepted(self, particles: Particles, jets: ParticleJets) -> npt.NDArray[np.bool_]:
        """Further cuts on jets that have passed those on pT and η."""
        return np.ones(len(jets), dtype=bool)

    def fields(self) -> Fields:
        """``jet`` (pT, η, φ, mass), ``event_id`` and the subclass' own."""
        return {
            "jet": DenseField(shape=(len(JET_FEATURES),), features=JET_FEATURES),
            **self.jet_fields(),
            "event_id": DenseField(dtype="int64"),
        }

    def simulate(self, chunk: Chunk) -> tuple[Columns, CrossSection]:
        """One accepted jet of each event that has any."""
        generator = Generator(chunk.process, chunk.pythia_seed)
        rng = chunk.random()
        rows = []
        for batch in self._batches(generator, chunk, rng):
            jets = batch.jets.jets
            jet = np.stack([jets.pt, jets.eta, jets.phi, jets.mass], axis=1).astype(np.float32)
            ids = chunk.event_ids(batch.start + jets.event)
            rows.append({"jet": jet, **self.columns(batch, rng), "event_id": ids})
        return concatenate(rows), generator.cross_section()

    def _batches(self, generator: Generator, chunk: Chunk, rng: np.random.Generator) -> Iterator[JetBatch]:
        for start in range(0, chunk.events, BATCH):
            record = generator.record(min(BATCH, chunk.events - start))
            particles = generator.final_state(record)
            particles = particles.where(visible(particles))
            jets = cluster_particles(particles, radius=self.radius, pt_min=self.pt_min)
            good = (jets.jets.pt < self.pt_max) & (np.abs(jets.jets.eta) < self.eta_max)
            if chunk.process.partons:
                partons = hard_partons(record, chunk.process.partons)
                good &= match(jets.jets, partons, radius=self.match_radius) >= 0
            jets = jets.take(np.flatnonzero(good))
            jets = jets.take(np.flatnonzero(self.accepted(particles, jets)))
            yield JetBatch(start, record, particles, jets.take(one_of_each(jets.jets.event, rng)))


def one_of_each(event: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """For each event that stands in ``event``, one of its rows at random; by rising event."""
    order = rng.permutation(len(event))
    _, first = np.unique(event[order], return_index=True)
    return np.asarray(order[first], dtype=np.int64)
