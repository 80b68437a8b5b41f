"""One dataset → train, validation and test: every event in exactly one, shuffled once for all.

What is random follows from the seed and the number of the event alone: an event's split and its place in it are
computed (a permutation of the events of its class, then one of the events of its split), not drawn on the way. So
a dataset of any size is read twice at most, in its own order, and put into its new one through an
``ExternalShuffle``. Scale constants are those of the training split, given to all three.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpctrain import registry
from hpctrain.data.columns import Columns, nbytes, part
from hpctrain.data.curation.assignment import SPLITS, ByEvent, ByGroup, Tally, scattered
from hpctrain.data.curation.external_shuffle import ExternalShuffle, memory_bytes, running
from hpctrain.data.curation.feature_scale import FeatureScale
from hpctrain.data.curation.image_scale import ImageScale
from hpctrain.data.curation.inspection import is_integer
from hpctrain.data.curation.provenance import NAMES, Numbering
from hpctrain.data.curation.whole_directory import usable, whole_directory
from hpctrain.data.shard_file import Compression
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError

Ints = NDArray[np.int64]
Progress = Callable[[int, int], None]
"""Told how much is done, of how much."""


@dataclass(frozen=True)
class Plan:
    """How to split."""

    fractions: tuple[float, float, float] = (0.6, 0.15, 0.25)
    """Of train, validation and test; they add up to 1."""
    by: str | None = None
    """Field of integers (``source`` …): events of equal value stay together. None: each event for itself."""
    stratify: str | None = None
    """Field of integers (``label`` …): each value is cut by the fractions for itself."""
    seed: int = 1

    def __post_init__(self) -> None:
        if not (min(self.fractions) > 0 and abs(sum(self.fractions) - 1) <= 1e-6):  # nan is neither
            raise UserError(
                f"the fractions {' '.join(f'{f:g}' for f in self.fractions)} are not three positive numbers that add up to 1",
                hint="For example --fractions 0.6 0.15 0.25",
            )
        if self.seed < 0:
            raise UserError("the seed must not be negative")


@dataclass
class Contents:
    """What one split holds."""

    events: int = 0
    labels: Counter[int] = field(default_factory=Counter)
    """Events of each value of ``label``, where there is one."""
    processes: Counter[int] = field(default_factory=Counter)


def split(
    directory: Path,
    output: Path,
    plan: Plan,
    *,
    memory: int = 2**30,
    compression: Compression = "none",
    progress: Progress = lambda done, total: None,
) -> dict[str, Contents]:
    """Write ``output/train``, ``validation`` and ``test``; the three appear whole or not at all.

    ``memory`` [bytes] bounds the events held at once; a dataset larger than a third of it goes through files
    beside ``output`` and needs its size there twice. Raises ``UserError`` (too few events or groups, a field
    that cannot be split by, full disk, damaged shards). ``progress`` is told of events read and written.
    """
    usable(output)  # before everything is read
    dataset = ShardDataset.open(directory)
    return Splitter(dataset, plan, memory, progress).write(output, compression)


class Splitter:
    """The two passes over one dataset."""

    def __init__(self, dataset: ShardDataset, plan: Plan, memory: int, progress: Progress) -> None:
        for name in (plan.by, plan.stratify):
            _check_field(dataset, name)
        self.dataset = dataset
        self.plan = plan
        self.memory = memory
        self.progress = progress
        self.numbering = {
            name: Numbering(name, dataset.provenance, dataset.events)
            for name in NAMES
            if is_integer(dataset, name)
        }
        self.contents = {name: Contents() for name in SPLITS}
        self.scales = (ImageScale(dataset.fields), FeatureScale(dataset.fields))

    def write(self, output: Path, compression: Compression) -> dict[str, Contents]:
        """Both passes."""
        assigner = self._assigner()
        sizes = assigner.sizes()
        if sizes.min() < 1:
            raise UserError(
                f"{self.dataset.directory} has {self.dataset.events} events: none is left for the "
                f"{SPLITS[int(sizes.argmin())]} split",
                hint="Take other fractions, or more events",
            )
        with whole_directory(output) as folder:
            shuffle = ExternalShuffle(
                folder / "buckets", self.dataset.fields, self.dataset.events, self._bytes(), self.memory
            )
            self._distribute(shuffle, assigner, sizes)
            self._write_splits(folder, shuffle, sizes, compression)
            if (folder / "buckets").exists():
                (folder / "buckets").rmdir()
        return self.contents

    def _assigner(self) -> ByEvent | ByGroup:
        """First pass: how many events of each group and class there are; nothing is read where it does not matter."""
        by, stratify = self.plan.by, self.plan.stratify
        names = [name for name in (by, stratify) if name is not None]
        tally = Tally()
        if not names:
            tally.add(np.zeros((1, 2), dtype=np.int64), self.dataset.events)
        for start, columns in self._read(names) if names else ():
            zeros = np.zeros(_length(columns), dtype=np.int64)
            pair = [self._integers(columns, name, start) if name else zeros for name in (by, stratify)]
            tally.add(np.stack(pair, axis=1))
        if by is None:
            return ByEvent(tally, self.plan.fractions, self.plan.seed)
        return ByGroup(tally, self.plan.fractions, self.plan.seed, by)

    def _distribute(self, shuffle: ExternalShuffle, assigner: ByEvent | ByGroup, sizes: Ints) -> None:
        """Second pass: every event to its split and its place in it."""
        begins = np.concatenate([[0], np.cumsum(sizes)])
        places = [scattered(int(size), self.plan.seed, 1, number) for number, size in enumerate(sizes)]
        filled = np.zeros(len(SPLITS), dtype=np.int64)
        names = [name for name in (self.plan.by, self.plan.stratify) if name]
        for start, columns in self._read(list(self.dataset.fields)):
            keys = {name: self._integers(columns, name, start) for name in {*names, *self.numbering}}
            for name in self.numbering:
                columns[name] = keys[name].astype(self.dataset.fields[name].dtype)
            zeros = np.zeros(_length(columns), dtype=np.int64)
            chosen = assigner.assign(
                keys[self.plan.by] if self.plan.by else zeros,
                keys[self.plan.stratify] if self.plan.stratify else zeros,
            )
            number = running(chosen, filled)
            place = np.empty(len(chosen), dtype=np.int64)
            for which, permuted in enumerate(places):
                mine = chosen == which
                place[mine] = begins[which] + permuted(number[mine])
            self._take_notes(columns, chosen)
            shuffle.add(columns, place)
            self.progress(start + len(chosen), 2 * self.dataset.events)

    def _take_notes(self, columns: Columns, chosen: Ints) -> None:
        for scale in self.scales:
            scale.add(columns, np.flatnonzero(chosen == 0))
        for number, name in enumerate(SPLITS):
            mine = chosen == number
            contents = self.contents[name]
            contents.events += int(mine.sum())
            for counter, key in ((contents.labels, "label"), (contents.processes, "process")):
                if is_integer(self.dataset, key):
                    values, counts = np.unique(np.asarray(columns[key])[mine], return_counts=True)
                    counter.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))

    def _write_splits(
        self, folder: Path, shuffle: ExternalShuffle, sizes: Ints, compression: Compression
    ) -> None:
        scale = {key: value for each in self.scales for key, value in each.constants().items()}
        pieces = _Cutter(shuffle.pieces())
        done = self.dataset.events
        for name, size in zip(SPLITS, sizes.tolist(), strict=True):
            with ShardWriter(
                folder / name,
                self.dataset.fields,
                provenance=self._provenance(name),
                scale=scale,
                compression=compression,
            ) as writer:
                for piece in pieces.next(size):
                    writer.append(piece)
                    done += _length(piece)
                    self.progress(done, 2 * self.dataset.events)

    def _provenance(self, name: str) -> dict[str, Any]:
        """That of the dataset, with what this split is; the order of its events says nothing any more."""
        original = dict(self.dataset.provenance)
        history = {key: original.pop(key) for key in ("merged", "split_of") if key in original}
        found: dict[str, Any] = {
            **original,
            "split": name,
            "split_of": {
                "directory": str(self.dataset.directory),
                "events": self.dataset.events,
                "fractions": list(self.plan.fractions),
                "by": self.plan.by,
                "stratify": self.plan.stratify,
                "seed": self.plan.seed,
                **history,
            },
        }
        if "source" in self.numbering and self.numbering["source"].entries:
            found["sources"] = self.numbering["source"].entries
        if "process" in self.numbering:
            found["processes"] = self._processes(name)
        return found

    def _processes(self, name: str) -> list[dict[str, Any]]:
        """Each process with its share in this split, which weighted sums over the split are divided by."""
        totals = sum((contents.processes for contents in self.contents.values()), Counter[int]())
        entries = self.numbering["process"].entries or [
            {"name": f"process {number}"} for number in range(max(totals, default=-1) + 1)
        ]
        found = []
        for number, entry in enumerate(entries):
            total, here = totals[number], self.contents[name].processes[number]
            process = dict(entry) if isinstance(entry, Mapping) else {"name": str(entry)}
            earlier = float(process.get("split_fraction", 1.0))  # where the dataset is a split itself
            process.setdefault("preselected", total)
            process.update(in_split=here, split_fraction=earlier * here / total if total else 0.0)
            found.append(process)
        return found

    def _integers(self, columns: Columns, name: str, start: int) -> Ints:
        values = np.asarray(columns[name]).astype(np.int64)
        if name not in self.numbering:
            return values
        unified = self.numbering[name].unify(values, start)
        entries = self.numbering[name].entries
        limit = len(entries) if entries else 2**16 if name == "process" else np.iinfo(np.int64).max
        if len(unified) and (unified.min() < 0 or unified.max() >= limit):
            wrong = int(unified.min() if unified.min() < 0 else unified.max())
            raise UserError(
                f"{self.dataset.directory}: an event has the {name} {wrong}, "
                f"provenance has {len(entries)} {NAMES[name]}",
                hint=f"Write the dataset again with all its {NAMES[name]}",
            )
        dtype = self.dataset.fields[name].dtype
        if len(unified) and unified.max() > _largest(dtype):
            raise UserError(
                f"{self.dataset.directory}: the merged parts have {len(entries)} {NAMES[name]}, "
                f"more than the field '{name}' of {dtype} can number",
                hint=f"Write the parts with '{name}' as int64",
            )
        return unified

    def _read(self, names: Sequence[str]) -> Iterator[tuple[int, Columns]]:
        """(first event, columns) through the dataset, in pieces of a small part of the memory."""
        start, rows = 0, 64
        while start < self.dataset.events:
            stop = min(start + rows, self.dataset.events)
            columns = self.dataset.read_range(start, stop, names)
            yield start, columns
            each = max(1, nbytes(columns) // (stop - start))
            rows = max(64, min(2**20, self.memory // 16 // each) // 64 * 64)
            start = stop

    def _bytes(self) -> int:
        """What all events take in memory; only offsets are read for it."""
        items = {}
        for name, description in self.dataset.fields.items():
            if description.kind != "dense":
                items[name] = sum(
                    int(self.dataset.counts(start, min(start + 2**20, self.dataset.events), name).sum())
                    for start in range(0, self.dataset.events, 2**20)
                )
        return memory_bytes(self.dataset.fields, self.dataset.events, items)


class _Cutter:
    """Cuts a stream of pieces where one split ends and the next begins."""

    def __init__(self, pieces: Iterator[Columns]) -> None:
        self._pieces = pieces
        self._rest: Columns | None = None

    def next(self, events: int) -> Iterator[Columns]:
        """The next so many events."""
        while events > 0:
            piece = self._rest if self._rest is not None else next(self._pieces)
            length = _length(piece)
            taken, self._rest = (piece, None) if length <= events else _cut(piece, events)
            events -= _length(taken)
            yield taken


def _cut(piece: Columns, events: int) -> tuple[Columns, Columns]:
    return part(piece, 0, events), part(piece, events, _length(piece))


def _length(columns: Columns) -> int:
    return len(next(iter(columns.values())))


def _largest(dtype: str) -> int:
    return 1 if np.dtype(dtype).kind == "b" else int(np.iinfo(dtype).max)


def _check_field(dataset: ShardDataset, name: str | None) -> None:
    if name is None or is_integer(dataset, name):
        return
    usable = [field for field in dataset.fields if is_integer(dataset, field)]
    if name in dataset.fields:
        problem = f"{dataset.directory}: the field '{name}' is not one integer per event"
    else:
        problem = f"{dataset.directory} has no field '{name}'"
    hint = (
        registry.nearest(name, usable, "fields of integers are") if usable else "It has no field of integers"
    )
    raise UserError(problem, hint=hint)
