"""Parts of a generation → train, validation and test shards with weights, mixed and shuffled."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hpctrain.data.columns import Columns, SparseRows, concatenate, take
from hpctrain.data.schema import DenseField, Fields, SparseField
from hpctrain.data.shards import ShardWriter, read_shard
from hpctrain.errors import UserError
from hpctrain.ingest.chunks import stable_hash
from hpctrain.ingest.simulate import Part, part_fields
from hpctrain.physics.generator import CrossSection
from hpctrain.physics.processes import Process

SPLITS = ("train", "validation", "test")
MB_IN_FB = 1.0e12

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """All parts of one process, and what they add up to."""

    process: Process
    parts: tuple[Part, ...]

    @property
    def generated(self) -> int:
        return sum(part.generated for part in self.parts)

    @property
    def preselected(self) -> int:
        return sum(part.preselected for part in self.parts)

    @property
    def selected(self) -> int:
        return sum(part.selected for part in self.parts)

    @property
    def cross_section(self) -> CrossSection:
        return CrossSection.combine([part.cross_section for part in self.parts])

    def weight(self, luminosity_fb: float) -> float:
        """Expected events at ``luminosity_fb`` [1/fb] per generated event of the whole sample."""
        return self.cross_section.mb * MB_IN_FB * luminosity_fb / self.generated


def split_rows(samples: Sequence[Sample], fractions: Mapping[str, float], seed: int) -> list[dict[str, Rows]]:
    """For each sample, the numbers of its preselected events that go to each split, sorted.

    Stratified: every process is cut by the same fractions, at random but decided by (seed, process)
    alone, so that more events of one process leave the others where they were.
    Raises ``UserError`` when a split would have no signal or no background.
    """
    assigned = []
    for sample in samples:
        rng = np.random.default_rng([seed, stable_hash("split:" + sample.process.key)])
        order = rng.permutation(sample.preselected)
        cuts = np.rint(np.cumsum([fractions[name] for name in SPLITS]) * sample.preselected).astype(int)
        pieces = np.split(order, cuts[:-1])
        assigned.append({name: np.sort(rows) for name, rows in zip(SPLITS, pieces, strict=True)})
    for signal, kind in ((True, "signal"), (False, "background")):
        rows = [a for a, s in zip(assigned, samples, strict=True) if s.process.signal is signal]
        for name in SPLITS:
            if not sum(len(r[name]) for r in rows):
                total = sum(s.preselected for s in samples if s.process.signal is signal)
                raise UserError(
                    f"no {kind} event for the {name} split: {total} {kind} events passed the preselection",
                    hint="raise generate.processes[].events, or the split's fraction",
                )
    return assigned


def read_split(
    samples: Sequence[Sample],
    rows: Sequence[Rows],
    folder: Path,
    fields: Fields,
    luminosity_fb: float,
    seed: int,
    split: str,
) -> Columns:
    """The events ``rows`` of every sample as columns, in one shuffled order; ``fields`` are those of the parts."""
    pieces: list[Columns] = []
    for number, (sample, wanted) in enumerate(zip(samples, rows, strict=True)):
        start = 0
        for part in sample.parts:
            mine = wanted[(wanted >= start) & (wanted < start + part.preselected)] - start
            start += part.preselected
            if len(mine) == 0:
                continue
            piece = take(read_shard(folder / part.file, fields, part.shard), mine)
            piece["label"] = np.full(len(mine), int(sample.process.signal), dtype=np.int64)
            piece["weight"] = np.full(len(mine), sample.weight(luminosity_fb))
            piece["process"] = np.full(len(mine), number, dtype=np.int64)
            pieces.append(piece)
    columns = concatenate(pieces)
    rng = np.random.default_rng([seed, stable_hash("order:" + split)])
    return take(columns, rng.permutation(sum(map(len, rows))))


def image_scale(images: Any, image_shape: tuple[int, ...]) -> dict[str, list[float]]:
    """Largest cell and mean of the non-zero cells, per channel; 1 for a channel without any."""
    if not isinstance(images, SparseRows):
        raise TypeError("image_scale takes sparse rows")
    channel = images.indices.astype(np.int64) // int(np.prod(image_shape[1:]))
    largest, mean = [], []
    for number in range(image_shape[0]):
        values = images.values[channel == number].astype(np.float64)
        largest.append(float(values.max()) if len(values) else 1.0)
        mean.append(float(values.mean()) if len(values) else 1.0)
    return {"image_max": largest, "image_mean_nonzero": mean}


def all_fields(image_bins: int) -> dict[str, DenseField | SparseField]:
    """Fields of the finished shards."""
    return {
        **part_fields(image_bins),
        "label": DenseField(dtype="int64"),
        "weight": DenseField(dtype="float64"),
        "process": DenseField(dtype="int64"),
    }


def write_splits(
    samples: Sequence[Sample],
    *,
    data: Path,
    parts: Path,
    fractions: Mapping[str, float],
    luminosity_fb: float,
    image_bins: int,
    seed: int,
    provenance: Mapping[str, Any],
    events_per_shard: int,
) -> dict[str, int]:
    """Write ``data/{train,validation,test}``; returns the number of events of each.

    All three are written beside their place and moved there when whole, so that a kill leaves either
    no dataset, the old ones, or parts to begin again from. Memory: about 2 kB per event of a split,
    twice. Raises ``UserError`` (a class missing in a split, disk full).
    """
    assigned = split_rows(samples, fractions, seed)
    staging = data / ".writing"
    shutil.rmtree(staging, ignore_errors=True)
    fields = all_fields(image_bins)
    scale: dict[str, Any] = {}
    counts: dict[str, int] = {}
    try:
        for split in SPLITS:
            rows = [a[split] for a in assigned]
            columns = read_split(samples, rows, parts, part_fields(image_bins), luminosity_fb, seed, split)
            if split == "train":
                scale = image_scale(columns["image"], fields["image"].shape)
            processes = [
                describe_sample(sample, luminosity_fb, in_split=len(r))
                for sample, r in zip(samples, rows, strict=True)
            ]
            with ShardWriter(
                staging / split,
                fields,
                provenance={**provenance, "split": split, "processes": processes},
                scale=scale,
                events_per_shard=events_per_shard,
            ) as writer:
                writer.append(columns)
            counts[split] = sum(map(len, rows))
        for split in SPLITS:
            shutil.rmtree(data / split, ignore_errors=True)
            (staging / split).replace(data / split)
    finally:
        # After an error, too: a full disk gets its space back.
        shutil.rmtree(staging, ignore_errors=True)
    return counts


def describe_sample(sample: Sample, luminosity_fb: float, *, in_split: int) -> dict[str, Any]:
    """One entry of provenance["processes"]; ``split_fraction`` is exact: in_split / preselected."""
    process, sigma = sample.process, sample.cross_section
    return {
        "name": process.short_name,
        "label": process.label,
        "signal": process.signal,
        "pthat": list(process.pthat) if process.pthat else None,
        "masses": process.masses,
        "settings": list(process.commands),
        "cross_section_mb": sigma.mb,
        "cross_section_error_mb": sigma.error_mb,
        "reference_cross_section_mb": process.reference_mb,
        "generated": sample.generated,
        "preselected": sample.preselected,
        "selected": sample.selected,
        "weight": sample.weight(luminosity_fb),
        "in_split": in_split,
        "split_fraction": in_split / sample.preselected if sample.preselected else 0.0,
    }
