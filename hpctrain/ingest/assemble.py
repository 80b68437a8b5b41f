"""Parts of a generation → train, validation and test shards with weights, mixed and shuffled.

Nothing here grows with the number of events. Which split an event goes to, and its place there, are computed
from its number with pseudo-random permutations that are never stored (``data.mixing.Permutation``); the events
are then put in order of these places through files on disk (``data.curation.external_shuffle``). So the shards follow from the parts and
the seed alone, not from the memory used.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpctrain.data.checksums import BLOCK_ROWS
from hpctrain.data.columns import Columns, count, part
from hpctrain.data.curation.external_shuffle import ExternalShuffle
from hpctrain.data.mixing import Permutation
from hpctrain.data.schema import DenseField, Fields
from hpctrain.data.shard_file import ShardFile
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.errors import UserError
from hpctrain.ingest.chunks import stable_hash
from hpctrain.ingest.division import SPLITS, Division
from hpctrain.ingest.parts import Part
from hpctrain.ingest.scale import Scale
from hpctrain.physics.generator import CrossSection
from hpctrain.physics.processes import Process

CLASSES = ("background", "signal")
"""What the labels 0 and 1 mean."""
MB_IN_FB = 1.0e12
MEMORY = 128 * 2**20
"""Bytes of events held at a time, whatever their number."""
PIECE = 8 * 2**20
"""Bytes of a part read at a time."""


@dataclass(frozen=True)
class Sample:
    """All parts of one process, and what they add up to."""

    process: Process
    parts: tuple[Part, ...]

    @property
    def label(self) -> int:
        return self.process.target

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


def divide(
    samples: Sequence[Sample], fractions: Mapping[str, float], seed: int, classes: Sequence[str] = CLASSES
) -> list[Division]:
    """The division of each sample. Every process is cut by the same fractions, and more events of one process
    leave the others where they were.

    Raises ``UserError`` when a split would have no event of one of the ``classes`` (named by label).
    """
    divisions = [Division(s.process.key, s.preselected, fractions, seed) for s in samples]
    for label, kind in enumerate(classes):
        mine = [d for d, s in zip(divisions, samples, strict=True) if s.label == label]
        for number, split in enumerate(SPLITS):
            if not sum(int(d.counts[number]) for d in mine):
                total = sum(d.events for d in mine)
                raise UserError(
                    f"no {kind} event for the {split} split: {total} {kind} events were kept of those generated, "
                    f"in {len(mine)} process{'' if len(mine) == 1 else 'es'}, each divided by itself",
                    hint=f"Ask for more events of it, or raise generate.split.{split}",
                )
    return divisions


def finished_fields(fields: Fields) -> Fields:
    """Fields of the finished shards: those of the parts, and label, weight and process where these have none."""
    added = {"label": DenseField(dtype="int64"), "weight": DenseField(dtype="float64")}
    return {
        **fields,
        **{k: v for k, v in added.items() if k not in fields},
        "process": DenseField(dtype="int64"),
    }


def placed_events(
    samples: Sequence[Sample],
    divisions: Sequence[Division],
    parts: Path,
    fields: Fields,
    luminosity_fb: float,
    seed: int,
) -> Iterator[tuple[Columns, NDArray[np.int64]]]:
    """All events of the parts and their places (train first, then validation, then test), and what they share.

    That is the sample's label and weight, unless the parts have such fields, and the process.
    """
    totals = np.sum([d.counts for d in divisions], axis=0)
    orders = [
        Permutation(max(1, int(total)), (seed, stable_hash("order:" + split)))
        for split, total in zip(SPLITS, totals, strict=True)
    ]
    starts = np.cumsum(totals) - totals
    before = np.zeros_like(totals)
    for number, (sample, division) in enumerate(zip(samples, divisions, strict=True)):
        weight = sample.weight(luminosity_fb)
        first = 0
        for piece in _read(sample, parts, fields):
            events = count(piece)
            split, rank = division.of(np.arange(first, first + events, dtype=np.int64))
            first += events
            place = np.empty(events, dtype=np.int64)
            for which, order in enumerate(orders):
                mine = split == which
                place[mine] = starts[which] + order.place(before[which] + rank[mine])
            shared: Columns = {
                "label": np.full(events, sample.label, dtype=np.int64),
                "weight": np.full(events, weight),
                **piece,
                "process": np.full(events, number, dtype=np.int64),
            }
            yield shared, place
        before += division.counts


def _read(sample: Sample, folder: Path, fields: Fields) -> Iterator[Columns]:
    """The events of a sample, in pieces of about ``PIECE`` bytes."""
    for one in sample.parts:
        file = ShardFile(folder / one.file, fields, one.shard)
        try:
            rows = max(1, int(PIECE * one.preselected / one.shard.bytes) // BLOCK_ROWS) * BLOCK_ROWS
            for start in range(0, one.preselected, rows):
                yield file.read(start, min(start + rows, one.preselected), list(fields))
        finally:
            file.close()


def write_splits(
    samples: Sequence[Sample],
    *,
    fields: Fields,
    scale: Scale,
    data: Path,
    parts: Path,
    fractions: Mapping[str, float],
    luminosity_fb: float,
    seed: int,
    provenance: Mapping[str, Any],
    events_per_shard: int,
    classes: Sequence[str] = CLASSES,
    progress: Callable[[int, int], None] = lambda done, total: None,
    memory: int = MEMORY,
) -> dict[str, int]:
    """Write ``data/{train,validation,test}``; returns the number of events of each.

    ``fields`` are those of the parts, which are read once; ``progress`` hears how many events of all are
    written. All three are written beside their place and moved there when whole, so that a kill leaves either
    no dataset, the old ones, or parts to begin again from. Memory: ``memory`` bytes, and three shards; disk: the shards, and while they are written once their size. Raises ``UserError`` (a class missing
    in a split, disk full).
    """
    divisions = divide(samples, fractions, seed, classes)
    totals = np.sum([d.counts for d in divisions], axis=0)
    total = int(totals.sum())
    staging = data / ".writing"
    shutil.rmtree(staging, ignore_errors=True)
    event_bytes = sum(p.shard.bytes for s in samples for p in s.parts) / total
    constants: dict[str, Any] = {}
    done = 0
    try:
        staging.mkdir(parents=True)
        shuffle = ExternalShuffle(
            staging / "buckets", finished_fields(fields), total, int(event_bytes * total), memory
        )
        for events, places in placed_events(samples, divisions, parts, fields, luminosity_fb, seed):
            shuffle.add(events, places)
        ordered = _Reader(shuffle.pieces())
        for number, split in enumerate(SPLITS):
            processes = [
                describe_sample(sample, luminosity_fb, in_split=int(division.counts[number]))
                for sample, division in zip(samples, divisions, strict=True)
            ]
            with ShardWriter(
                staging / split,
                finished_fields(fields),
                provenance={**provenance, "split": split, "processes": processes},
                scale=constants,
                events_per_shard=events_per_shard,
            ) as writer:
                for columns in ordered.take(int(totals[number])):
                    writer.append(columns)
                    if split == "train":
                        scale.add(columns)
                    done += count(columns)
                    progress(done, total)
                if split == "train":
                    constants.update(scale.constants())
        for split in SPLITS:
            shutil.rmtree(data / split, ignore_errors=True)
            (staging / split).replace(data / split)
    finally:
        # After an error, too: a full disk gets its space back.
        shutil.rmtree(staging, ignore_errors=True)
    return dict(zip(SPLITS, totals.tolist(), strict=True))


class _Reader:
    """Cuts a stream of events at given numbers."""

    def __init__(self, pieces: Iterator[Columns]) -> None:
        self._pieces = pieces
        self._left: Columns = {}

    def take(self, events: int) -> Iterator[Columns]:
        """The next ``events`` events."""
        while events:
            piece, self._left = self._left or next(self._pieces), {}
            rows = count(piece)
            if rows > events:
                piece, self._left = part(piece, 0, events), part(piece, events, rows)
            events -= count(piece)
            yield piece


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
