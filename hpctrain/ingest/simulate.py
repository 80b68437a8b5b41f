"""One chunk from generator to disk: what a worker does."""

from __future__ import annotations

import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpctrain.data.columns import Columns, SparseRows, concatenate, index_dtype
from hpctrain.data.schema import DenseField, Fields, ShardInfo, SparseField
from hpctrain.data.shard_file import same_file, write_shard
from hpctrain.errors import UserError
from hpctrain.files import read_json, write_json
from hpctrain.ingest.chunks import Chunk
from hpctrain.physics.detector import simulate
from hpctrain.physics.generator import CrossSection, Generator
from hpctrain.physics.images import CHANNELS, SparseImages, detector_images
from hpctrain.physics.jets import cluster_fat_jets
from hpctrain.physics.selection import LEADING_JETS, jet_variables

BATCH = 100
"""Events in memory as full records at a time; random numbers are drawn batch by batch."""


@dataclass(frozen=True)
class Part:
    """What a finished chunk left: a shard of its preselected events, and these numbers."""

    file: str
    fingerprint: str
    generated: int
    preselected: int
    selected: int
    cross_section: CrossSection
    wall_s: float
    peak_memory_bytes: int
    """Of the worker, when the chunk was finished."""
    shard: ShardInfo


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


def simulate_chunk(chunk: Chunk) -> tuple[Columns, CrossSection]:
    """Generate the chunk's events; columns of those that pass the preselection, and the cross section."""
    generator = Generator(chunk.process, chunk.pythia_seed)
    rng = chunk.random()
    batches = []
    for start in range(0, chunk.events, BATCH):
        particles = generator.generate(min(BATCH, chunk.events - start))
        events = simulate(particles, rng)
        variables = jet_variables(cluster_fat_jets(events.towers, trimmed=chunk.settings.trimmed))
        rows = np.flatnonzero(variables.preselected)
        images = detector_images(events.towers, events.tracks, bins=chunk.settings.image_bins).take(rows)
        batch: Columns = {
            "image": _sparse_rows(images),
            "jets": variables.jets[rows].astype(np.float32),
            "n_jets": variables.n_jets[rows],
            "sum_mass": variables.sum_mass[rows].astype(np.float32),
            "delta_eta": variables.delta_eta[rows].astype(np.float32),
            "selected": variables.selected[rows].astype(np.uint8),
            "event_id": (chunk.index << 32) + start + rows.astype(np.int64),
        }
        batches.append(batch)
    return concatenate(batches), generator.cross_section()


def make_part(chunk: Chunk, folder: Path) -> Part:
    """Simulate a chunk and write it to ``folder``: the shard first, then the record that makes it whole.

    Raises ``UserError`` when the disk is full.
    """
    started = time.perf_counter()
    columns, cross_section = simulate_chunk(chunk)
    fields: Fields = part_fields(chunk.settings.image_bins)
    shard = write_shard(folder / f"{chunk.name}.h5", fields, columns)
    selected: Any = columns["selected"]
    part = Part(
        file=shard.file,
        fingerprint=chunk.fingerprint(),
        generated=chunk.events,
        preselected=shard.events,
        selected=int(selected.sum()),
        cross_section=cross_section,
        wall_s=time.perf_counter() - started,
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        shard=shard,
    )
    write_json(folder / f"{chunk.name}.json", {**asdict(part), "shard": shard.model_dump(mode="json")})
    return part


def find_part(chunk: Chunk, folder: Path) -> Part | None:
    """The part of exactly this chunk if ``folder`` holds it whole, else None: it is then made again."""
    try:
        record = read_json(folder / f"{chunk.name}.json")
        if record is None or record["fingerprint"] != chunk.fingerprint():
            return None
        shard = ShardInfo.model_validate(record.pop("shard"))
        part = Part(**{**record, "cross_section": CrossSection(**record["cross_section"]), "shard": shard})
        if not same_file(folder / part.file, shard):
            return None
    except (UserError, KeyError, TypeError, ValueError):
        return None
    return part


def _sparse_rows(images: SparseImages) -> SparseRows:
    """Images as the shards store them, with the smallest index type that holds their cells."""
    dtype = index_dtype(int(np.prod(images.shape)))
    return SparseRows(images.offsets, images.indices.astype(dtype), images.values)
