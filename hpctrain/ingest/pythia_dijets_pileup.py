"""Dijets under pileup, particle by particle: what PUPPI and its successors have to clean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from hpctrain.data.columns import Columns, RaggedRows, concatenate, offsets_of
from hpctrain.data.schema import DenseField, Fields, RaggedField
from hpctrain.ingest.assemble import Sample
from hpctrain.ingest.chunks import Chunk, Settings
from hpctrain.ingest.generation import FinitePositive, Generation, GenerationConfig, pythia_label
from hpctrain.physics.generator import CrossSection, Generator
from hpctrain.physics.jet_processes import dijets
from hpctrain.physics.particle_jets import cluster_particles, visible
from hpctrain.physics.particles import Particles
from hpctrain.physics.pileup import Overlay, describe_pileup, minimum_bias_pool, overlay
from hpctrain.physics.processes import Process
from hpctrain.physics.propagation import pseudorapidity
from hpctrain.registry import register

PARTICLES_AT_A_TIME = 300_000
"""Particles of an overlay in memory at once, roughly; 140 collisions have some 20,000."""
PER_COLLISION = 140
PARTICLE_FEATURES = ("pt", "eta", "phi", "charge", "vertex", "leading")
JET_FEATURES = ("pt", "eta", "phi", "mass")
VERTEX_FEATURES = ("z", "t")
UNKNOWN = -1.0


@dataclass(frozen=True)
class PileupSettings(Settings):
    """What is overlaid and what is kept of it."""

    mu: float
    pool: int
    particle_pt_min: float
    particle_eta_max: float
    tracker_eta_max: float
    jet_radius: float
    jet_pt_min: float
    jet_eta_max: float

    def fields(self) -> Fields:
        """See ``docs/ingest.md``."""
        return {
            "particles": RaggedField(shape=(len(PARTICLE_FEATURES),), features=PARTICLE_FEATURES),
            "particle_label": RaggedField(dtype="uint8"),
            "truth_jets": RaggedField(shape=(len(JET_FEATURES),), features=JET_FEATURES),
            "vertices": RaggedField(shape=(len(VERTEX_FEATURES),), features=VERTEX_FEATURES),
            "n_pileup": DenseField(dtype="int64"),
            "event_id": DenseField(dtype="int64"),
        }

    def simulate(self, chunk: Chunk) -> tuple[Columns, CrossSection]:
        """Every event of the chunk."""
        generator = Generator(chunk.process, chunk.pythia_seed)
        rng = chunk.random()
        pool = minimum_bias_pool(chunk.pool_seed(), self.pool)
        pool = pool.where(visible(pool))
        size = max(1, int(PARTICLES_AT_A_TIME / (PER_COLLISION * (self.mu + 5.0))))
        batches = []
        for start in range(0, chunk.events, size):
            hard = generator.generate(min(size, chunk.events - start))
            hard = hard.where(visible(hard))
            events = overlay(hard, pool, self.mu, rng)
            numbers = start + np.arange(hard.n_events)
            batches.append(
                {
                    **self._particles(events),
                    "truth_jets": self._truth_jets(hard),
                    "vertices": RaggedRows(
                        events.offsets, np.stack([events.z, events.t], axis=1).astype(np.float32)
                    ),
                    "n_pileup": events.n_pileup.astype(np.int64),
                    "event_id": chunk.event_ids(numbers),
                }
            )
        return concatenate(batches), generator.cross_section()

    def _particles(self, events: Overlay) -> Columns:
        """Particles by falling pT; the number of the vertex only where a tracker would tell it."""
        p = events.particles
        pt = np.hypot(p.px, p.py)
        eta = pseudorapidity(pt, p.pz)
        kept = np.flatnonzero((pt > self.particle_pt_min) & (np.abs(eta) < self.particle_eta_max))
        kept = kept[np.lexsort((-pt[kept], p.event[kept]))]
        vertex = events.vertex[kept]
        tracked = (p.charge[kept] != 0.0) & (np.abs(eta[kept]) < self.tracker_eta_max)
        columns = {
            "pt": pt[kept],
            "eta": eta[kept],
            "phi": np.arctan2(p.py, p.px)[kept],
            "charge": p.charge[kept],
            "vertex": np.where(tracked, vertex, UNKNOWN),
            "leading": np.where(tracked, np.where(vertex == 0, 1.0, -1.0), 0.0),
        }
        offsets = offsets_of(np.bincount(p.event[kept], minlength=p.n_events))
        values = np.stack([columns[name] for name in PARTICLE_FEATURES], axis=1)
        return {
            "particles": RaggedRows(offsets, values.astype(np.float32)),
            "particle_label": RaggedRows(offsets, (vertex == 0).astype(np.uint8)),
        }

    def _truth_jets(self, hard: Particles) -> RaggedRows:
        """Jets of the hard collision alone, before any cut on particles; within |η| < ``jet_eta_max``."""
        found = cluster_particles(hard, radius=self.jet_radius, pt_min=self.jet_pt_min).jets
        good = np.abs(found.eta) < self.jet_eta_max
        values = np.stack([found.pt, found.eta, found.phi, found.mass], axis=1)[good]
        counts = np.bincount(found.event[good], minlength=hard.n_events)
        return RaggedRows(offsets_of(counts), values.astype(np.float32))


@register("ingest")
class PythiaDijetsPileup(Generation):
    """QCD dijets with pileup at particle level; every particle says whether it is of the leading vertex."""

    classes = ("dijets",)
    rows = "events"

    class Config(GenerationConfig):
        kind: Literal["pythia_dijets_pileup"] = "pythia_dijets_pileup"
        mu: Annotated[float, Field(ge=0, le=300)] = 20.0
        """Mean number of pileup collisions; 20, 80 and 140 are those of the literature."""
        pthat: Annotated[tuple[FinitePositive, ...], Field(min_length=2)] = (20.0, 50.0, 100.0, 200.0, 500.0)
        """Edges in GeV of the slices of the hard process' transverse momentum, one after the other."""
        events: PositiveInt = 1000
        """Events to generate in each slice; together they are roughly flat in the logarithm of p̂T."""
        events_per_chunk: PositiveInt = 500
        """Most events of one task."""
        events_per_shard: PositiveInt = 512
        """Events of one HDF5 file."""
        pool: PositiveInt = 1000
        """Minimum-bias collisions generated for each chunk, from which its pileup is drawn."""
        particle_pt_min: Annotated[float, Field(ge=0)] = 0.5
        """GeV; softer particles are left out."""
        particle_eta_max: Annotated[float, Field(gt=0, le=5)] = 5.0
        """Particles beyond are left out."""
        tracker_eta_max: Annotated[float, Field(ge=0, le=5)] = 2.5
        """To here the vertex of a charged particle is known, without error."""
        jet_radius: FinitePositive = 0.4
        """Of the anti-kT truth jets."""
        jet_pt_min: FinitePositive = 15.0
        """GeV; of the truth jets."""

        @model_validator(mode="after")
        def _rising(self) -> Self:
            if any(low >= high for low, high in pairwise(self.pthat)):
                raise ValueError("pthat: the edges must rise")
            return self

    config: Config

    def requests(self) -> list[tuple[Process, int]]:
        edges = self.config.pthat
        return [(dijets((low, high)), self.config.events) for low, high in pairwise(edges)]

    def settings(self, seed: int) -> PileupSettings:
        c = self.config
        return PileupSettings(
            seed=seed,
            mu=c.mu,
            pool=c.pool,
            particle_pt_min=c.particle_pt_min,
            particle_eta_max=c.particle_eta_max,
            tracker_eta_max=c.tracker_eta_max,
            jet_radius=c.jet_radius,
            jet_pt_min=c.jet_pt_min,
            jet_eta_max=c.particle_eta_max - c.jet_radius,
        )

    def describe(self, samples: Sequence[Sample]) -> dict[str, Any]:
        c = self.config
        return {
            "label": pythia_label(
                f"particle level, no detector, perfect vertices of charged particles; pileup mu = {c.mu:g}"
            ),
            "units": {"pt": "GeV", "mass": "GeV", "z": "mm", "t": "ps"},
            "pileup": describe_pileup(c.mu, c.pool),
            "particles": f"visible, pT > {c.particle_pt_min:g} GeV, |eta| < {c.particle_eta_max:g}; by falling pT; "
            f"vertex (0: leading) known of charged ones to |eta| = {c.tracker_eta_max:g}, else {UNKNOWN:g}; "
            "leading is 1 and -1 where it is known to be or not to be of the leading vertex, else 0",
            "particle_label": "1: of the leading vertex, 0: of pileup; the truth, for every particle",
            "truth_jets": f"anti-kT R={c.jet_radius:g} of the hard collision's visible particles of any momentum, "
            f"pT > {c.jet_pt_min:g} GeV, |eta| < {c.particle_eta_max - c.jet_radius:g}",
            "not_generated": f"p-hat_T outside {c.pthat[0]:g}-{c.pthat[-1]:g} GeV; detector; magnetic field",
        }
