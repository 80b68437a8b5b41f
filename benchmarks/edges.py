"""Edges of a batch: ours beside a Python loop over events with scipy's cKDTree, in turn, on the same positions.

Positions (η, φ) are random, for speed alone: spread evenly over |η| < 2.5, of events of very different sizes, or within
0.4 of two axes as in a pair of jets. Also how evenly cuts of equal work share batches of such graphs among ranks.
"""

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from benchmarks.machine_line import machine_line
from hpctrain.data import graphs
from hpctrain.data.balance import Imbalance, cuts, fully_connected_work
from hpctrain.data.columns import offsets_of

Points = NDArray[np.float32]
Offsets = NDArray[np.int64]
K, RMIN, R = 16, 0.1, 0.4
TURN = 2 * math.pi


def evenly(counts: Offsets, eta: float = 2.5) -> Points:
    rng = np.random.default_rng(0)
    items = int(counts.sum())
    return np.stack([rng.uniform(-eta, eta, items), rng.uniform(-math.pi, math.pi, items)], 1).astype("f4")


def in_jets(counts: Offsets) -> Points:
    rng = np.random.default_rng(0)
    axes = np.stack(
        [rng.uniform(-2, 2, (len(counts), 2)), rng.uniform(-math.pi, math.pi, (len(counts), 2))], -1
    )
    event = np.repeat(np.arange(len(counts)), counts)
    points = axes[event, rng.integers(0, 2, len(event))] + rng.normal(0, 0.15, (len(event), 2))
    points[:, 1] = np.remainder(points[:, 1] + math.pi, TURN) - math.pi
    return points.astype("f4")


def loop(
    positions: Points, offsets: Offsets, edges: Callable[[NDArray[np.float64]], NDArray[np.int64]]
) -> Tensor:
    """Edges of one event after the other, numbered over the batch."""
    made = []
    for start, stop in itertools.pairwise(offsets.tolist()):
        points = positions[start:stop].astype(np.float64)
        points[:, 1] %= TURN
        made.append(edges(points) + start)
    return torch.from_numpy(np.concatenate(made, axis=1))


def knn_of_tree(points: NDArray[np.float64]) -> NDArray[np.int64]:
    k = min(K, len(points) - 1)
    _, found = cKDTree(points, boxsize=[0, TURN]).query(points, k=k + 1)
    return np.stack([found[:, 1:].ravel(), np.repeat(np.arange(len(points)), k)])


def radius_of_tree(points: NDArray[np.float64]) -> NDArray[np.int64]:
    pairs = cKDTree(points, boxsize=[0, TURN]).query_pairs(R, output_type="ndarray")
    return np.concatenate([pairs, pairs[:, ::-1]]).T


def ring_of_tree(points: NDArray[np.float64]) -> NDArray[np.int64]:
    pairs = cKDTree(points, boxsize=[0, TURN]).query_pairs(R, output_type="ndarray")
    apart = points[pairs[:, 0]] - points[pairs[:, 1]]
    apart[:, 1] -= TURN * np.round(apart[:, 1] / TURN)
    pairs = pairs[np.hypot(apart[:, 0], apart[:, 1]) > RMIN]
    return np.concatenate([pairs, pairs[:, ::-1]]).T


def all_pairs(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """No tree: what one writes for a fully connected graph."""
    return np.stack(np.nonzero(~np.eye(len(points), dtype=bool)))


def seconds(function: Callable[[], Tensor], device: torch.device) -> float:
    started = time.perf_counter()
    for _ in range(3):
        function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / 3


def compare(positions: Points, counts: Offsets, device: torch.device) -> None:
    offsets = offsets_of(counts)
    x, ends = torch.from_numpy(positions).to(device), torch.from_numpy(offsets).to(device)
    cases: list[tuple[str, Callable[[], Tensor], Callable[[], Tensor]]] = [
        (f"kNN, k={K}", lambda: loop(positions, offsets, knn_of_tree), lambda: graphs.knn(x, ends, K, phi=1)),
        (
            f"radius {R}",
            lambda: loop(positions, offsets, radius_of_tree),
            lambda: graphs.radius(x, ends, R, phi=1),
        ),
        (
            f"ring {RMIN} to {R}",
            lambda: loop(positions, offsets, ring_of_tree),
            lambda: graphs.ring(x, ends, RMIN, R, phi=1),
        ),
    ]
    if len(counts) > 8:  # all pairs of thousands of particles are nobody's graph
        cases.append(
            (
                "fully connected",
                lambda: loop(positions, offsets, all_pairs),
                lambda: graphs.fully_connected(ends),
            )
        )
    for name, theirs, ours in cases:
        edges, made = theirs(), ours().cpu()
        keys, expected = (np.sort((e[1] * 2**32 + e[0]).numpy()) for e in (made, edges.to(torch.int64)))
        odd = len(np.setxor1d(keys, expected, assume_unique=True))
        pairs = [(seconds(theirs, device), seconds(ours, device)) for _ in range(5)]
        ratios = [a / b for a, b in pairs]
        a, b = (statistics.median(times) * 1e3 for times in zip(*pairs, strict=True))
        print(
            f"  {name:<18}{made.shape[1]:>10,}{odd:>6}{a:>10.2f} ms{b:>10.2f} ms{statistics.median(ratios):>10.1f}"
            f"{min(ratios):>8.1f}{max(ratios):>8.1f}"
        )


def share(steps: int = 200) -> None:
    """Largest over mean work of ranks, fully connected graphs, batches of 64 events a rank."""
    rng = np.random.default_rng(1)
    print(f"{'ranks':<8}{'equal numbers of events':>26}{'cuts of equal work':>22}")
    for size in (2, 8, 64, 512):
        by_number, by_work = Imbalance(), Imbalance()
        for _ in range(steps):
            counts = rng.lognormal(4.2, 0.6, 64 * size).astype(np.int64)
            work = fully_connected_work(counts)
            by_number.add(work, cuts(np.ones(len(work)), size))
            by_work.add(work, cuts(work, size))
        print(f"{size:<8}{by_number.mean:>26.3f}{by_work.mean:>22.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", type=torch.device)
    device = parser.parse_args().device
    what = f"GPU {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "ours on one thread"
    print(f"{machine_line()}, {what} (torch has {torch.get_num_threads()} threads), float32")
    rng = np.random.default_rng(0)
    equal = np.full(256, 100)
    varied = rng.lognormal(4.4, 0.6, 256).astype(np.int64) + 2
    many = np.full(8, 3000)
    print(
        f"  {'edges':<18}{'number':>10}{'odd':>6}{'loop':>13}{'ours':>13}{'ratio: median':>15}{'min':>5}{'max':>8}"
    )
    for title, counts, positions in (
        ("256 events of 100 particles, evenly spread", equal, evenly(equal)),
        ("256 events of 100 particles in two jets", equal, in_jets(equal)),
        (f"256 events of {varied.min()} to {varied.max()} particles, evenly spread", varied, evenly(varied)),
        ("8 events of 3000 particles, evenly spread over |η| < 4", many, evenly(many, 4.0)),
    ):
        print(title)
        compare(positions, counts, device)
    print("work of the busiest rank over the mean; particles an event: log-normal, median 67, σ 0.6")
    share()


if __name__ == "__main__":
    main()
