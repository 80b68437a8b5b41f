"""Whole-detector images of one chunk: generator, pileup, detector, fat jets, preselection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpctrain.data.columns import Columns, SparseRows, concatenate, index_dtype
from hpctrain.data.schema import DenseField, SparseField
from hpctrain.ingest.chunks import Chunk, Settings
from hpctrain.physics.detector import simulate
from hpctrain.physics.generator import CrossSection, Generator
from hpctrain.physics.images import CHANNELS, SparseImages, detector_images
from hpctrain.physics.jets import cluster_fat_jets
from hpctrain.physics.particles import Particles
from hpctrain.physics.pileup import minimum_bias_pool, overlay
from hpctrain.physics.selection import LEADING_JETS, jet_variables

BATCH = 100
"""Events in memory as full records at a time; random numbers are drawn batch by batch."""


@dataclass(frozen=True)
class WholeDetectorSettings(Settings):
    """What an image is made with."""

    image_bins: int
    trimmed: bool
    pileup_mu: float = 0.0
    """Mean number of pileup collisions; 0 leaves everything as it is without."""
    pileup_pool: int = 1000
    """Collisions generated for each chunk, from which its pileup is drawn."""

    def fields(self) -> dict[str, DenseField | SparseField]:
        """``part_fields`` of these images."""
        return part_fields(self.image_bins)

    def simulate(self, chunk: Chunk) -> tuple[Columns, CrossSection]:
        """Events that pass the preselection."""
        generator = Generator(chunk.process, chunk.pythia_seed)
        rng = chunk.random()
        pool = minimum_bias_pool(chunk.pool_seed(), self.pileup_pool) if self.pileup_mu else None
        # An event with mu = 140 has a hundred times the particles: as few of them at a time.
        size = BATCH if self.pileup_mu <= 20 else max(1, int(20 * BATCH / self.pileup_mu))
        batches = []
        for start in range(0, chunk.events, size):
            particles = generator.generate(min(size, chunk.events - start))
            if pool is not None:
                particles = overlay(particles, pool, self.pileup_mu, rng).particles
            batches.append(self._batch(chunk, particles, start, rng))
        return concatenate(batches), generator.cross_section()

    def _batch(self, chunk: Chunk, particles: Particles, start: int, rng: np.random.Generator) -> Columns:
        events = simulate(particles, rng)
        variables = jet_variables(cluster_fat_jets(events.towers, trimmed=self.trimmed))
        rows = np.flatnonzero(variables.preselected)
        images = detector_images(events.towers, events.tracks, bins=self.image_bins).take(rows)
        return {
            "image": _sparse_rows(images),
            "jets": variables.jets[rows].astype(np.float32),
            "n_jets": variables.n_jets[rows],
            "sum_mass": variables.sum_mass[rows].astype(np.float32),
            "delta_eta": variables.delta_eta[rows].astype(np.float32),
            "selected": variables.selected[rows].astype(np.uint8),
            "event_id": chunk.event_ids(start + rows),
        }


def part_fields(image_bins: int) -> dict[str, DenseField | SparseField]:
    """Fields of a part; assembly adds label, weight and process, which are known only then."""
    return {
        "image": SparseField(shape=(len(CHANNELS), image_bins, image_bins)),
        "jets": DenseField(shape=(LEADING_JETS, 4), dtype="float32"),
        "n_jets": DenseField(dtype="int64"),
        "sum_mass": DenseField(dtype="float32"),
        "delta_eta": DenseField(dtype="float32"),
        "selected": DenseField(dtype="uint8"),
        "event_id": DenseField(dtype="int64"),
    }


def _sparse_rows(images: SparseImages) -> SparseRows:
    """Images as the shards store them, with the smallest index type that holds their cells."""
    dtype = index_dtype(int(np.prod(images.shape)))
    return SparseRows(images.offsets, images.indices.astype(dtype), images.values)
