"""Graphs of ragged events: edges to all, to the nearest, within a radius or a ring, for a whole batch at once.

Positions are (items, features), float32 or float64, of events one after the other; ``offsets`` int64 (events + 1,)
says where each begins: a ragged field of a batch as it is, ``batch["x"]`` and ``batch["x.offsets"]``. Edges are those
of PyTorch Geometric: ``edge_index`` int64 (2, edges), source above target, numbers of the items in the batch. A
neighbour is the source, the item whose neighbour it is the target. ``phi`` is the number of the feature that is
periodic in 2π, None when none is. What the builders return depends on the positions alone, not on the device.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hpctrain.data.graphs import cells, neighbours
from hpctrain.data.graphs.kits import Kit, NumpyKit, TorchKit
from hpctrain.data.graphs.neighbours import TURN, Cloud
from hpctrain.data.schema import offsets_problem
from hpctrain.errors import UserError

PAIR_COST = 12
"""What comparing a pair found in cells costs beside one of all pairs of an event."""
FAR_FROM_ALL = 80
"""Items of an event, for each neighbour wanted, from which cells find them sooner."""
SMALL = 32
"""Pairs an item has in its event up to which sorting items into cells is not worth it."""
LARGEST = 1e18  # whose square is still a float32


def fully_connected(offsets: Tensor, *, loops: bool = False) -> Tensor:
    """Every directed edge of each event, by target, then source; those to itself with ``loops``."""
    kit, bounds = _kit(offsets), _bounds(offsets)
    counts = np.diff(bounds)
    degree = np.repeat(counts if loops else counts - 1, counts)
    ends = np.concatenate([[0], np.cumsum(degree)])
    # Numbers of edges go on, those of sources begin again for each target.
    shift = np.repeat(bounds[:-1], counts) - ends[:-1]
    made = kit.empty(2 * int(ends[-1])).reshape(2, int(ends[-1]))
    cuts = np.searchsorted(ends, np.append(np.arange(0, ends[-1], kit.pairs), ends[-1]))
    for first, last in itertools.pairwise(np.unique(cuts).tolist()):
        begin, end = int(ends[first]), int(ends[last])
        times = kit.put(degree[first:last])
        source, target = made[0, begin:end], made[1, begin:end]
        target[:] = kit.repeat(kit.arange(first, last), times, end - begin)
        source[:] = kit.arange(begin, end)
        source += kit.repeat(kit.put(shift[first:last]), times, end - begin)
        if not loops:
            source += source >= target
    return kit.tensor(made)


def knn(positions: Tensor, offsets: Tensor, k: int, *, phi: int | None, loops: bool = False) -> Tensor:
    """Edges to each item from its ``k`` nearest, or from as many others as its event has.

    By target, then distance, then source, which also says who is nearer of two at the same distance. With ``loops``
    an item is the first of its own ``k``.
    """
    if not isinstance(k, int | np.integer) or k < 1:
        raise UserError(
            f"k is {k}: a graph of nearest neighbours needs a whole number, one at least", hint="k=16, say"
        )
    cloud = _cloud(positions, offsets, phi)
    # Items of the event in which the average item is.
    typical = float((cloud.counts**2).sum()) / max(1, cloud.items)
    far = len(cloud.columns) < 3 and typical > FAR_FROM_ALL * k
    return cloud.kit.tensor((cells if far else neighbours).nearest(cloud, k, loops))


def radius(positions: Tensor, offsets: Tensor, r: float, *, phi: int | None, loops: bool = False) -> Tensor:
    """Edges between items at most ``r`` apart, by target, then source; those to itself with ``loops``."""
    return _within(_cloud(positions, offsets, phi), -1.0, r, loops)


def ring(positions: Tensor, offsets: Tensor, rmin: float, rmax: float, *, phi: int | None) -> Tensor:
    """Edges between items whose distance is above ``rmin`` and at most ``rmax``, by target, then source.

    Below 0 ``rmin`` lets in those that lie on one another.
    """
    if not rmin < rmax:
        raise UserError(f"the ring from {rmin} to {rmax} is empty", hint="rmin must be below rmax")
    return _within(_cloud(positions, offsets, phi), rmin, rmax, False)


def rings(
    positions: Tensor, offsets: Tensor, bounds: Sequence[float], *, phi: int | None
) -> tuple[Tensor, Tensor]:
    """Edges of the ring from the first to the last of ``bounds``, and in which ring between two of them each is.

    The second is int64 (edges,), from 0: the type of an edge, as in graph networks against pileup.
    """
    if len(bounds) < 2 or any(not a < b for a, b in itertools.pairwise(bounds)):
        raise UserError(
            f"the bounds of rings must rise: {list(bounds)}", hint="For two rings (0, 0.3, 0.6), say"
        )
    cloud = _cloud(positions, offsets, phi)
    edges = _within(cloud, bounds[0], bounds[-1], False)
    source, target = (cloud.kit.of(row) for row in edges)
    inner = np.array([_square(bound, cloud) for bound in bounds[1:-1]])
    squared = cloud.kit.doubles(cloud.squared(target, source))
    return edges, cloud.kit.tensor(cloud.kit.integers(cloud.kit.search(cloud.kit.put(inner), squared)))


def edge_attributes(positions: Tensor, edge_index: Tensor, *, phi: int | None) -> Tensor:
    """(edges, features + 1): source minus target in each feature, in φ the shorter way round, and the distance.

    For positions (η, φ): Δη, Δφ within ±π, ΔR. Gradients flow to the positions. Raises ``UserError`` when ``phi`` is
    no number of a feature.
    """
    _check_phi(phi, positions)
    apart = positions[edge_index[0]] - positions[edge_index[1]]
    if phi is not None:
        turn = torch.zeros(apart.shape[1], dtype=apart.dtype, device=apart.device)
        turn[phi] = TURN
        apart = apart - turn * torch.round(apart / TURN)
    return torch.cat([apart, torch.linalg.vector_norm(apart, dim=1, keepdim=True)], dim=1)


def event_of_item(offsets: Tensor, items: int | None = None) -> Tensor:
    """Number of each item's event, int64 (items,): what PyTorch Geometric calls ``batch``; its ``ptr`` is ``offsets``.

    ``items`` is where the offsets end, for a caller who knows it: else a GPU is waited for.
    """
    counts = offsets[1:] - offsets[:-1]
    events = torch.arange(len(counts), device=offsets.device)
    return torch.repeat_interleave(events, counts, output_size=items)


def edge_offsets(edge_index: Tensor, offsets: Tensor) -> Tensor:
    """Where the edges of each event begin, int64 (events + 1,), when they are one event after the other."""
    # Searched, not counted: neither sum nor size is asked of a GPU. Offsets of empty events are equal: the last counts.
    event = torch.searchsorted(offsets, edge_index[1], right=True) - 1
    return torch.searchsorted(event, torch.arange(len(offsets), device=offsets.device))


def _within(cloud: Cloud, low: float, high: float, loops: bool) -> Tensor:
    if not high >= 0:
        raise UserError(f"the radius is {high}: it must not be below 0", hint="0.4, say")
    low, high = _square(low, cloud), _square(high, cloud)
    pairs = int((cloud.counts**2).sum())
    if pairs > SMALL * cloud.items:
        grid = cells.Cells.of(cloud, math.sqrt(high))
        if grid.rows * grid.columns > 3:
            begins, numbers = grid.candidates()
            if PAIR_COST * int(numbers.sum()) < pairs:
                return cloud.kit.tensor(grid.within(begins, numbers, low, high, loops))
    return cloud.kit.tensor(neighbours.within(cloud, low, high, loops))


def _square(distance: float, cloud: Cloud) -> float:
    """Rounded as squared distances are; below all of them for a distance below 0."""
    if distance < 0:
        return -1.0
    square = min(distance, LARGEST) ** 2
    return square if cloud.double else float(np.float32(square))


def _cloud(positions: Tensor, offsets: Tensor, phi: int | None) -> Cloud:
    """The points to search. Raises ``UserError`` when they are not what the module says."""
    positions = positions.detach()
    if positions.ndim != 2 or not positions.shape[1] or not positions.is_floating_point():
        raise UserError(
            f"positions are {positions.dtype} {list(positions.shape)}, they must be floating (items, features)",
            hint="For (η, φ) of particles: torch.stack([eta, phi], dim=1)",
        )
    _check_phi(phi, positions)
    bounds = _bounds(offsets)
    if bounds[-1] != len(positions):
        raise UserError(
            f"offsets end at {bounds[-1]}, there are {len(positions)} positions",
            hint="offsets are those of the ragged field that the positions come from: batch['x.offsets']",
        )
    if positions.dtype != torch.float64:
        positions = positions.float()
    kit = _kit(positions)
    columns = [kit.column(kit.of(positions), number) for number in range(positions.shape[1])]
    if len(positions) and not float(abs(kit.of(positions)).max()) < LARGEST:
        raise UserError(
            f"positions are NaN, infinite or not below {LARGEST:g}",
            hint="`hpctrain data verify` finds NaN and infinity in shards",
        )
    if phi is not None:
        columns[phi][:-1] -= TURN * ((columns[phi][:-1] + math.pi) // TURN)
    return Cloud(kit, tuple(columns), phi, bounds)


def _check_phi(phi: int | None, positions: Tensor) -> None:
    if phi is not None and not 0 <= phi < positions.shape[1]:
        raise UserError(
            f"phi={phi}, positions have {positions.shape[1]} features", hint="Features count from 0"
        )


def _kit(tensor: Tensor) -> Kit:
    return NumpyKit() if tensor.device.type == "cpu" else TorchKit(tensor.device)


def _bounds(offsets: Tensor) -> neighbours.Ints:
    """Offsets on the host. Raises ``UserError`` when they are none."""
    bounds: neighbours.Ints = offsets.cpu().numpy()
    problem = offsets_problem(bounds, int(bounds[-1]) if bounds.ndim == 1 and len(bounds) else 0)
    if problem:
        raise UserError(f"the ragged field {problem}", hint="offsets come with it: batch['x.offsets']")
    return bounds
