"""Equal work for every rank: a batch of graphs is cut where the work is halved, not where the events are."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpctrain.errors import UserError

Ints = NDArray[np.int64]
Work = NDArray[np.float64]

NEARLY = 0.005


def fully_connected_work(nodes: Ints) -> Work:
    """Nodes and directed edges of fully connected graphs: n + n (n − 1)."""
    return np.asarray(nodes, dtype=np.float64) ** 2


@dataclass(frozen=True)
class NeighbourWork:
    """Nodes and edges of graphs in which each node has ``k`` neighbours at most: n + n min(k, n − 1)."""

    k: int

    def __call__(self, nodes: Ints) -> Work:
        n = np.asarray(nodes, dtype=np.float64)
        return n + n * np.minimum(self.k, np.maximum(n - 1, 0))


@dataclass(frozen=True)
class RadiusWork:
    """Nodes and, on average, edges of graphs within a radius or ring: n + f n (n − 1).

    ``fraction`` f of the pairs of an event are near enough: edges over n (n − 1), measured on some events.
    """

    fraction: float

    def __call__(self, nodes: Ints) -> Work:
        n = np.asarray(nodes, dtype=np.float64)
        return n + self.fraction * n * (n - 1)


@dataclass(frozen=True)
class Balance:
    """What an event costs: ``work`` of the number of items it has in the ragged field ``field``."""

    field: str
    work: Callable[[Ints], Work] = fully_connected_work


def cuts(work: Work, size: int) -> Ints:
    """Where to cut events into ``size`` contiguous shares of nearly equal work: int64 (size + 1,).

    The largest share, for which all ranks wait, is the smallest possible (to ``NEARLY`` of the ideal one). Within that,
    cuts are where they divide the work most evenly; no share is off by more than one event's work from the ideal.
    Without any work, events are cut evenly. Raises ``UserError`` when work is negative, NaN or infinite.
    """
    ends = np.concatenate([[0.0], np.cumsum(work)])
    total = float(ends[-1])
    if not np.isfinite(total) or work.min(initial=0) < 0:
        raise UserError(
            "the work of an event is negative, NaN or infinite",
            hint="See the function `work` of the task's Balance",
        )
    if total == 0:
        return np.arange(size + 1, dtype=np.int64) * len(work) // size
    ideal = total * np.arange(1, size) / size
    after = np.searchsorted(ends, ideal).clip(1, len(work))
    nearer = np.where(ideal - ends[after - 1] < ends[after] - ideal, after - 1, after)
    places = np.concatenate([[0], np.maximum.accumulate(nearer), [len(work)]]).astype(np.int64)
    low, high = max(total / size, float(work.max())), float(np.diff(ends[places]).max())
    forward, backward = ends.tolist(), (total - ends[::-1]).tolist()
    found = None
    while high - low > NEARLY * total / size:
        most = (low + high) / 2
        if _filled(forward, most, size)[-1] == len(work):
            high = found = most
        else:
            low = most
    if found is not None:
        earliest = len(work) - np.array(_filled(backward, found, size)[::-1])
        for share in range(1, size):
            furthest = bisect_right(forward, forward[places[share - 1]] + found) - 1
            places[share] = min(max(places[share], earliest[share]), furthest)
    return places


def _filled(ends: list[float], most: float, size: int) -> list[int]:
    """Cuts when each share takes all the events it can up to this work."""
    places = [0]
    for _ in range(size):
        places.append(bisect_right(ends, ends[places[-1]] + most) - 1)
    return places


class Imbalance:
    """Largest over mean work of the ranks, averaged over steps: 1 is perfect, 2 wastes half the machine."""

    def __init__(self) -> None:
        self.steps = 0
        self._sum = 0.0

    def add(self, work: Work, places: Ints) -> None:
        """One step: events of this ``work``, cut at ``places``."""
        ends = np.concatenate([[0.0], np.cumsum(work)])
        shares = np.diff(ends[places])
        if shares.sum() > 0:
            self._sum += float(shares.max() / shares.mean())
            self.steps += 1

    @property
    def mean(self) -> float:
        return self._sum / self.steps if self.steps else 1.0
