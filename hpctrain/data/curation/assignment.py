"""Which event goes to which split: exact fractions, or whole groups; a function of the seed and the data alone."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hpctrain.data.curation.external_shuffle import running
from hpctrain.data.mixing import Permutation
from hpctrain.errors import UserError

SPLITS = ("train", "validation", "test")

_SMALL, _TINY = 2**22, 2**10
"""Permutations of a dataset up to the first length are drawn and kept (32 MiB); longer ones are computed, but for
classes of up to the second length."""
_TRIES = 50
"""Random sequences of groups of which the one that comes nearest to the fractions is taken."""
_MANY = 2000
"""Groups of which one sequence is near enough."""

Ints = NDArray[np.int64]


def scattered(size: int, seed: int, *stream: int, keep: int = _SMALL) -> Callable[[Ints], Ints]:
    """A pseudo-random permutation of 0 … size-1, another one for each ``stream``; up to ``keep`` it is kept in memory."""
    if size <= keep:
        table = np.random.default_rng([seed, *stream]).permutation(size)
        return lambda numbers: np.asarray(table[numbers], dtype=np.int64)
    entropy = np.random.SeedSequence([seed, *stream]).generate_state(2, np.uint64)
    return Permutation(size, (int(entropy[0]), int(entropy[1]))).number


class Tally:
    """How often each pair (group, class) occurs."""

    def __init__(self) -> None:
        self._pairs = np.zeros((0, 2), dtype=np.int64)
        self._counts = np.zeros(0, dtype=np.int64)
        self._new: list[tuple[Ints, Ints]] = []
        self._pending = 0

    def add(self, pairs: Ints, each: int = 1) -> None:
        """Count pairs int64 (n, 2), ``each`` times."""
        found, counts = np.unique(pairs, axis=0, return_counts=True)
        self._new.append((found, counts * each))
        self._pending += len(found)
        if self._pending > max(2**16, len(self._counts)):
            self._gather()

    def table(self) -> tuple[Ints, Ints]:
        """Pairs (u, 2), sorted, and how often each was counted (u,)."""
        self._gather()
        return self._pairs, self._counts

    def _gather(self) -> None:
        every = np.concatenate([self._pairs, *(pairs for pairs, _ in self._new)])
        weight = np.concatenate([self._counts, *(counts for _, counts in self._new)])
        self._pairs, where = np.unique(every, axis=0, return_inverse=True)
        self._counts = np.zeros(len(self._pairs), dtype=np.int64)
        np.add.at(self._counts, where.ravel(), weight)
        self._new, self._pending = [], 0


class ByEvent:
    """Each event for itself: of every class exactly the fractions, rounded to whole events.

    Event *k* of a class goes where the *k*-th number of a permutation of that class falls. Events must be
    given in the order of the dataset, each once.
    """

    def __init__(self, tally: Tally, fractions: Sequence[float], seed: int) -> None:
        pairs, counts = tally.table()
        self._classes, self._totals = pairs[:, 1], counts
        ends = np.rint(np.cumsum(fractions)[None, :] * counts[:, None]).astype(np.int64)
        ends[:, -1] = counts
        self._ends = ends
        keep = _SMALL if counts.sum() <= _SMALL else _TINY
        self._places = [scattered(int(n), seed, 0, number, keep=keep) for number, n in enumerate(counts)]
        self._seen = np.zeros(len(counts), dtype=np.int64)

    def sizes(self) -> Ints:
        """Events of each split."""
        return np.asarray(np.diff(self._ends, axis=1, prepend=0).sum(axis=0))

    def assign(self, groups: Ints, classes: Ints) -> Ints:
        """Number of the split of each of the next events."""
        index = np.searchsorted(self._classes, classes)
        number = running(index, self._seen)
        chosen = np.empty(len(index), dtype=np.int64)
        for one in np.unique(index):
            mine = index == one
            chosen[mine] = np.searchsorted(self._ends[one], self._places[one](number[mine]), side="right")
        return chosen


class ByGroup:
    """Whole groups, so that no group lies in two splits; as near to the fractions as the groups allow.

    Groups come in random sequence, each to the split that lacks most of what the group has; of some sequences
    the best is taken. Raises ``UserError`` when there are fewer groups than splits.
    """

    def __init__(self, tally: Tally, fractions: Sequence[float], seed: int, name: str) -> None:
        pairs, counts = tally.table()
        self._groups, group = np.unique(pairs[:, 0], return_inverse=True)
        classes, kind = np.unique(pairs[:, 1], return_inverse=True)
        if len(self._groups) < len(SPLITS):
            raise UserError(
                f"the events have {len(self._groups)} different values of '{name}', too few for "
                f"{len(SPLITS)} splits that share none",
                hint="Split by a field with more values, or without --by",
            )
        self._table = np.zeros((len(self._groups), len(classes)), dtype=np.int64)
        self._table[group.ravel(), kind.ravel()] = counts
        rng = np.random.default_rng([seed, 2])
        tries = _TRIES if len(self._groups) <= _MANY else 1
        found = [_deal(self._table, fractions, rng) for _ in range(tries)]
        self._split = min(found, key=lambda chosen: _distance(self._table, chosen, fractions))

    def sizes(self) -> Ints:
        """Events of each split."""
        return np.bincount(self._split, weights=self._table.sum(axis=1), minlength=len(SPLITS)).astype(
            np.int64
        )

    def assign(self, groups: Ints, classes: Ints) -> Ints:
        """Number of the split of each event."""
        return np.asarray(self._split[np.searchsorted(self._groups, groups)])


def _deal(table: Ints, fractions: Sequence[float], rng: np.random.Generator) -> Ints:
    """Split of each group; none is left empty."""
    order = rng.permutation(len(table)).tolist()
    total = table.sum(axis=0)
    share = (table / total).tolist()
    lacking = [[fraction] * len(total) for fraction in fractions]
    empty = set(range(len(fractions)))
    chosen = np.zeros(len(table), dtype=np.int64)
    for done, group in enumerate(order):
        left = len(order) - done
        open_to = sorted(empty) if left <= len(empty) else range(len(fractions))
        best = max(open_to, key=lambda s: sum(a * b for a, b in zip(share[group], lacking[s], strict=True)))
        lacking[best] = [b - a for a, b in zip(share[group], lacking[best], strict=True)]
        empty.discard(best)
        chosen[group] = best
    return chosen


def _distance(table: Ints, chosen: Ints, fractions: Sequence[float]) -> float:
    """How far the splits are from the fractions, relative to these, the worst class of the worst split."""
    total = table.sum(axis=0)
    worst = 0.0
    for number, fraction in enumerate(fractions):
        got = table[chosen == number].sum(axis=0) / total
        worst = max(worst, float(np.abs(got / fraction - 1).max()))
    return worst
