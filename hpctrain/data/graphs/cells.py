"""Who is near whom, found in cells: points are compared with those of neighbouring cells only.

For a radius, or ``k`` neighbours, that reach over a small part of an event: thousands of particles under pileup.
Finds the very edges of ``neighbours``, which compares all pairs.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpctrain.data.graphs.kits import LOW
from hpctrain.data.graphs.neighbours import TURN, Cloud, least

MOST = 1024  # cells along an axis: with many more, rounding could move a point by more than the margin
MARGIN = 1.001
SAMPLE = 256  # points whose neighbours say how far the others must look


@dataclass(frozen=True)
class Cells:
    """Points sorted by event and cell. Rows of cells follow one another along φ where there is one, and close there;
    the cells of a row follow one another along another feature.

    Around them is an empty cell at each end of a row and an empty row between events, so that nobody asks whether a
    cell has neighbours.
    """

    cloud: Cloud
    cell: Any
    """Of each point, counted over the batch."""
    row: Any
    """Of each point, counted in its event; may be one number for all."""
    order: Any
    """Numbers of the points by cell, then by number."""
    table: Any
    """int64 (cells + 1,): where in ``order`` the points of each cell begin."""
    rows: int
    columns: int
    closed: bool
    """The last row lies beside the first."""

    @classmethod
    def of(cls, cloud: Cloud, radius: float) -> "Cells":
        """Cells at least ``radius`` wide; one for each event where that is as wide."""
        kit, events = cloud.kit, len(cloud.counts)
        across = [number for number in range(len(cloud.columns)) if number != cloud.phi]
        along = cloud.phi if cloud.phi is not None else across[1] if len(across) > 1 else None
        axes = [_Axis.of(cloud, along), _Axis.of(cloud, across[0] if across else None)]
        most = [axis.most(radius) for axis in axes]
        room = (4 * cloud.items + 4096) / events  # more cells than points would serve nobody
        rows = max(1, int(most[0] * min(1.0, math.sqrt(room / math.prod(most)))))
        closed = cloud.phi is not None and rows > 2
        if cloud.phi is not None and not closed:
            rows = 1  # the rows above and below would be the same
        columns = max(1, min(most[1], int(room / rows)))
        event = kit.put(np.repeat(np.arange(events), cloud.counts))
        row = axes[0].place(cloud, rows)
        cell = (event * (rows + 1) + 1 + row) * (columns + 2) + 1 + axes[1].place(cloud, columns)
        order = kit.sort((cell << 32) + kit.arange(0, cloud.items)) & LOW
        sizes = kit.tally(cell, (events * (rows + 1) + 1) * (columns + 2))
        table = kit.join([kit.arange(0, 1), kit.cumsum(sizes)])
        return cls(cloud, cell, row, order, table, rows, columns, closed)

    def beside(self, points: Any, up: int) -> tuple[Any, Any]:
        """Where in ``order`` the points of the three cells around each of ``points``, ``up`` rows above, begin and end."""
        there = self.cell[points] + up * (self.columns + 2)
        if self.closed and up:
            edge = self.row[points] == (self.rows - 1 if up > 0 else 0)
            there -= up * self.rows * (self.columns + 2) * edge
        return self.table[there - 1], self.table[there + 2]

    def candidates(self) -> tuple[Any, Any]:
        """Begin and number of the candidates of each place in ``order``, int64 (2 items,); no pair is there twice.

        First those after it in its own row, then those of the row above.
        """
        kit = self.cloud.kit
        after = kit.arange(1, self.cloud.items + 1)
        begin, end = self.beside(self.order, 1)
        return kit.join([after, begin]), kit.join([self.beside(self.order, 0)[1] - after, end - begin])

    def within(self, begins: Any, numbers: Any, low: float, high: float, loops: bool) -> Any:
        """As ``neighbours.within``, among these candidates; ``high`` is at most the squared radius of the cells."""
        kit, items = self.cloud.kit, self.cloud.items
        ends = kit.cumsum(numbers)
        shifts = begins - (ends - numbers)
        owners = kit.join([self.order, self.order])
        found = [kit.arange(0, 0)]
        for first, last, begin, end in self._pieces(ends):
            times = numbers[first:last]
            one = kit.repeat(owners[first:last], times, end - begin)
            other = self.order[kit.arange(begin, end) + kit.repeat(shifts[first:last], times, end - begin)]
            squared = self.cloud.squared(one, other)
            near = kit.found((squared <= high) & (squared > low))
            found.append((one[near] << 32) + other[near])
        half = kit.join(found)
        own = kit.arange(0, items if loops else 0) * (2**32 + 1)
        keys = kit.sort(kit.join([half, ((half & LOW) << 32) + (half >> 32), own]))
        edges = kit.empty(2 * len(keys)).reshape(2, len(keys))
        edges[0], edges[1] = keys, keys
        edges[0] &= LOW
        edges[1] >>= 32
        return edges

    def _pieces(self, ends: Any) -> Iterator[tuple[int, int, int, int]]:
        """First and last of the entries, first and last of their candidates: about a budget of them."""
        kit = self.cloud.kit
        total = int(ends[-1]) if len(ends) else 0
        cuts = kit.search(ends, kit.put(np.arange(kit.pairs, total, kit.pairs)))
        places = np.unique(np.concatenate([[0], kit.host(cuts), [len(ends)]]))
        candidates = np.concatenate([[0], kit.host(ends[kit.put(places[1:] - 1)])])
        places, candidates = places.tolist(), candidates.tolist()
        yield from zip(places[:-1], places[1:], candidates[:-1], candidates[1:], strict=True)

    def nearest(self, targets: Any, k: int, loops: bool) -> Iterator[tuple[Any, Any, Any]]:
        """In pieces: some of the ``targets`` (n,), sources of their ``k`` nearest among the candidates (n, ≤ k), and
        how many candidates they had (n,). Where these are fewer than columns, the last columns mean nothing.
        """
        cloud, kit = self.cloud, self.cloud.kit
        ranges = [self.beside(targets, up) for up in (-1, 0, 1)]
        totals = sum(end - begin for begin, end in ranges)
        by_total = kit.sort((totals << 32) + kit.arange(0, len(targets))) & LOW
        for first, last, width in _rectangles(kit.host(totals[by_total]), kit.pairs):
            chosen = by_total[first:last]
            target, total = targets[chosen], totals[chosen]
            # Of the three ranges of candidates, one row above the other, a row of a rectangle.
            a, b, c = (begin[chosen][:, None] for begin, _ in ranges)
            after_a = ranges[0][1][chosen][:, None] - a
            after_b = ranges[1][1][chosen][:, None] - b + after_a
            place = kit.arange(0, width)
            shift = kit.where(place < after_a, a, kit.where(place < after_b, b - after_a, c - after_b))
            missing = place >= total[:, None]
            source = self.order[(place + shift).clip(None, cloud.items - 1)]
            source = kit.where(missing, cloud.items, source)
            if cloud.double:
                source = kit.pick(source, kit.order(source))  # as ``least`` wants it, what is missing last
            squared = cloud.squared(target[:, None], source)
            squared = kit.where(source == target[:, None], -1.0 if loops else math.inf, squared)
            yield target, least(kit, squared, source, min(k, width)), total - (0 if loops else 1)


def _rectangles(widths: Any, budget: int) -> Iterator[tuple[int, int, int]]:
    """First and last row and width of pieces of rows that rise in width, each of at most ``budget`` or one row."""
    first = 0
    while first < len(widths):
        last = first + max(1, min(len(widths) - first, budget // max(1, int(widths[first]))))
        last = first + max(1, min(last - first, budget // max(1, int(widths[last - 1]))))
        yield first, last, int(widths[last - 1])
        first = last


def nearest(cloud: Cloud, k: int, loops: bool) -> Any:
    """As ``neighbours.nearest``. A sample says how far to look; who finds too few there looks twice as far."""
    kit, counts, degrees = cloud.kit, cloud.counts, cloud.degrees(k, loops)
    edges = int((counts * degrees).sum())
    made = kit.empty(2 * edges + 1)
    degree = kit.put(np.repeat(degrees, counts))
    firsts = kit.cumsum(degree) - degree

    def search(points: Any, radius: float) -> tuple[Any, Any]:
        """Points that must look further, and squared distances to the furthest neighbours of all."""
        cells = Cells.of(cloud, radius)
        further, furthest = [kit.arange(0, 0)], []
        for target, source, candidates in cells.nearest(points, k, loops):
            wanted = degree[target][:, None]
            last = kit.pick(source, (wanted - 1).clip(None, source.shape[1] - 1))
            squared = cloud.squared(target[:, None], last)
            # With one cell there is no further.
            good = (candidates[:, None] >= wanted) & (squared <= radius**2) | (cells.columns * cells.rows < 2)
            rank = kit.arange(0, source.shape[1])
            place = kit.where(good & (rank < wanted), firsts[target][:, None] + rank, 2 * edges)
            made[place.reshape(-1)] = source.reshape(-1)
            further.append(target[kit.found(~good)])
            furthest.append(squared.reshape(-1))
        return kit.join(further), kit.sort(kit.join(furthest))

    todo = kit.found(degree > 0)
    if len(todo):
        step = max(1, len(todo) // SAMPLE)
        _, furthest = search(todo[step // 2 :: step], math.inf)
        radius = math.sqrt(float(furthest[len(furthest) * 9 // 10]))
        while len(todo):
            todo, _ = search(todo, radius)
            radius = 2 * radius or math.inf
    made[edges : 2 * edges] = kit.repeat(kit.arange(0, cloud.items), degree, edges)
    return made[: 2 * edges].reshape(2, edges)


@dataclass(frozen=True)
class _Axis:
    """A feature along which there are cells; none is one cell."""

    values: Any
    low: float
    span: float

    @classmethod
    def of(cls, cloud: Cloud, number: int | None) -> "_Axis":
        if number is None or not cloud.items:
            return cls(None, 0.0, 0.0)
        values = cloud.columns[number][:-1]
        if number == cloud.phi:
            return cls(values, -math.pi, TURN)
        low = float(values.min())
        return cls(values, low, float(values.max()) - low)

    def most(self, radius: float) -> int:
        """Cells that are at least ``radius`` wide."""
        width = max(radius * MARGIN, self.span / MOST)
        return max(1, int(self.span / width)) if width else 1

    def place(self, cloud: Cloud, cells: int) -> Any:
        """Cell of each point."""
        if cells == 1:
            return 0
        place = (cloud.kit.doubles(self.values) - self.low) * (cells / self.span)
        return cloud.kit.integers(place).clip(0, cells - 1)
