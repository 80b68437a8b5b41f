"""Who is near whom, all pairs of each event compared: the searches behind ``graphs``, in pieces of bounded memory.

Nothing is padded to the largest event of a batch: events go in blocks of at most a budget of pairs. Differences,
squares and sums are rounded one by one, so that every device and every way (see ``cells``) finds the same edges.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpctrain.data.graphs.kits import Kit

Ints = NDArray[np.int64]

TURN = 2 * math.pi


@dataclass(frozen=True)
class Cloud:
    """The points of a batch of events. Arrays are of the kit's kind."""

    kit: Kit
    columns: tuple[Any, ...]
    """One contiguous (items + 1,) for each feature, all float32 or all float64. The last entry is inf: it stands for
    no point, which is far from every point."""
    phi: int | None
    """Number of the column that is periodic in 2π; its values are within ±π."""
    bounds: Ints
    """The offsets, int64 (events + 1,), on the host."""

    @property
    def items(self) -> int:
        return int(self.bounds[-1])

    @property
    def counts(self) -> Ints:
        """Items of each event."""
        return np.diff(self.bounds)

    @property
    def double(self) -> bool:
        return bool(self.columns[0].itemsize == 8)

    def degrees(self, k: int, loops: bool) -> Ints:
        """Neighbours of each item of an event: ``k``, or as many as there are."""
        return np.minimum(k, self.counts if loops else np.maximum(self.counts - 1, 0))

    def squared(self, target: Any, source: Any) -> Any:
        """Squared distances of the points at these indices, which are broadcast against each other."""
        total = None
        for number, column in enumerate(self.columns):
            apart = column[source] - column[target]
            if number == self.phi:
                apart = self.kit.absolute(apart)
                apart = self.kit.minimum(apart, TURN - apart)
            apart *= apart
            if total is None:
                total = apart
            else:
                total += apart
        return total


@dataclass(frozen=True)
class Block:
    """Targets ``begin`` to ``end`` (numbers within their event) of some events, beside all their sources."""

    events: Ints
    begin: int
    end: int
    width: int
    """Items of the largest of these events."""
    full: bool
    """All of them have as many."""


def blocks(counts: Ints, order: Ints, budget: int) -> Iterator[Block]:
    """Events in this ``order`` in blocks of at most ``budget`` pairs (but one target of one event at least)."""
    first, width = 0, 0
    for place, size in enumerate(counts[order].tolist()):
        wider = max(width, size)
        if place > first and (place + 1 - first) * wider**2 > budget:
            yield from _cut(counts, order[first:place], budget)
            first, wider = place, size
        width = wider
    yield from _cut(counts, order[first:], budget)


def _cut(counts: Ints, events: Ints, budget: int) -> Iterator[Block]:
    width = int(counts[events].max(initial=0))
    if width:
        rows = max(1, budget // (len(events) * width))
        full = int(counts[events].min()) == width
        for begin in range(0, width, rows):
            yield Block(events, begin, min(begin + rows, width), width, full)


def nearest(cloud: Cloud, k: int, loops: bool) -> Any:
    """Edges (2, edges) from each item's ``k`` nearest to it, by target, then distance, then source.

    With ``loops`` an item is the first of its own neighbours.
    """
    kit, counts, degrees = cloud.kit, cloud.counts, cloud.degrees(k, loops)
    firsts = np.cumsum(counts * degrees) - counts * degrees
    edges = int((counts * degrees).sum())
    # What is no edge goes to one place past the end: nothing is selected, so no GPU is waited for.
    made = kit.empty(2 * edges + 1)
    order = np.argsort(counts, kind="stable")
    for block in blocks(counts, order[degrees[order] > 0], kit.pairs):
        kept = int(degrees[block.events].max())
        target, squared = _compared(cloud, block, -1.0 if loops else math.inf)
        facts = np.stack([cloud.bounds[block.events], counts[block.events], degrees[block.events]])
        start, count, degree = kit.put(facts)[:, :, None, None]
        found = least(kit, squared, None, kept)
        found += start
        first = firsts[block.events]
        if block.full and block.events[-1] - block.events[0] == len(block.events) - 1:
            begin = int(first[0]) + block.begin * kept
            made[begin : begin + math.prod(found.shape)] = found.reshape(-1)
        else:
            rank = kit.arange(0, kept)
            place = kit.put(first)[:, None, None] + target * degree + rank
            place = kit.where((rank < degree) & (target < count), place, 2 * edges)
            made[place.reshape(-1)] = found.reshape(-1)
    times = kit.put(np.repeat(degrees, counts))
    made[edges : 2 * edges] = kit.repeat(kit.arange(0, cloud.items), times, edges)
    return made[: 2 * edges].reshape(2, edges)


def least(kit: Kit, squared: Any, numbers: Any, k: int) -> Any:
    """Numbers of the ``k`` smallest of each row; equals by number. Numbers rise along the rows of float64.

    −1 is a distance too: the smallest.
    """
    if squared.itemsize == 8:
        columns = kit.order(squared)[..., :k]
        return columns if numbers is None else kit.pick(numbers, columns)
    return kit.least(squared, numbers, k)


def within(cloud: Cloud, low: float, high: float, loops: bool) -> Any:
    """Edges (2, edges) of pairs with low < squared distance ≤ high, by target, then source.

    With ``loops`` an item is a neighbour of its own, whatever ``low`` is.
    """
    kit, counts = cloud.kit, cloud.counts
    parts: list[tuple[Block, Any]] = []
    for block in blocks(counts, np.arange(len(counts)), kit.pairs):
        target, squared = _compared(cloud, block, high if loops else math.inf)
        near = (squared <= high) & (squared > low)
        if not block.full:
            near &= target < kit.put(counts[block.events])[:, None, None]
        parts.append((block, kit.shorter(kit.found(near))))
    edges = sum(len(places) for _, places in parts)
    made = kit.empty(2 * edges).reshape(2, edges)
    begin = 0
    for block, places in parts:
        end = begin + len(places)
        start = kit.put(cloud.bounds[block.events])[:, None]
        target = kit.arange(block.begin, block.end)
        # Rows of places: dividing by the width would name them too, but slowly.
        rows = kit.arange(0, len(block.events) * len(target) + 1) * block.width
        ends = kit.search(places, kit.shorter(rows))
        times = ends[1:] - ends[:-1]
        shift = start - rows[:-1].reshape(len(block.events), -1)
        made[0, begin:end] = kit.repeat(shift.reshape(-1), times, len(places))
        made[0, begin:end] += places
        made[1, begin:end] = kit.repeat((start + target).reshape(-1), times, len(places))
        begin = end
    return made


def _compared(cloud: Cloud, block: Block, own: float) -> tuple[Any, Any]:
    """Numbers of the targets within their events (targets, 1); squared distances (events, targets, sources).

    The distance of an item to itself is ``own``; where an event has no such source it is inf.
    """
    kit = cloud.kit
    start, count = kit.put(np.stack([cloud.bounds[block.events], cloud.counts[block.events]]))[
        :, :, None, None
    ]
    target, source = kit.arange(block.begin, block.end), kit.arange(0, block.width)
    ours, theirs = start + target[:, None], start + source
    if not block.full:
        ours, theirs = ours.clip(None, cloud.items - 1), kit.where(source < count, theirs, cloud.items)
    squared = cloud.squared(ours, theirs)
    squared[:, target - block.begin, target] = own
    return target[:, None], squared
