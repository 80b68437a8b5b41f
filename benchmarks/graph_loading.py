"""Shuffled batches of graphs: ours beside PyTorch Geometric's DataLoader over a list in memory, the same content.

Graphs have 20 to 80 nodes of 3 features and the edges to the 8 nearest of each: random points, for speed alone. Both
give a ``torch_geometric.data.Batch`` with x, edge_index, y, batch and ptr, in batches of 256.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_geometric.loader import DataLoader

from benchmarks.loading import compare
from benchmarks.machine_line import machine_line
from hpctrain.data.columns import RaggedRows, offsets_of
from hpctrain.data.graphs import edge_offsets, knn
from hpctrain.data.graphs.pyg import graphs_of, to_pyg
from hpctrain.data.loader import Loader
from hpctrain.data.schema import DenseField, RaggedField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.data.shards import ShardDataset
from hpctrain.data.sizes import order_for

BATCH, NEIGHBOURS = 256, 8
FIELDS = {
    "particles": RaggedField(shape=(3,)),
    "edge_index": RaggedField(shape=(2,), dtype="int16"),
    "label": DenseField(dtype="int64"),
}


def events(count: int, seed: int) -> Any:
    """Columns of ``count`` graphs."""
    rng = np.random.default_rng(seed)
    offsets = offsets_of(rng.integers(20, 81, count))
    points = rng.normal(size=(offsets[-1], 3)).astype(np.float32)
    nodes = torch.from_numpy(offsets)
    edges = knn(torch.from_numpy(points), nodes, NEIGHBOURS, phi=None)
    places = edge_offsets(edges, nodes)
    own = edges.T - nodes[:-1].repeat_interleave(places.diff())[:, None]
    return {
        "particles": RaggedRows(offsets, points),
        "edge_index": RaggedRows(places.numpy(), np.ascontiguousarray(own.numpy().astype(np.int16))),
        "label": rng.integers(0, 2, count),
    }


def ours(dataset: ShardDataset, loader: Loader, epoch: int) -> Iterator[Any]:
    order = order_for(dataset.events, dataset.row_bytes, BATCH, 1)
    for batch in loader.epoch(order, epoch):
        yield to_pyg(batch, "particles")


def rate(batches: Iterator[Any], count: int) -> float:
    """Graphs a second."""
    started = time.perf_counter()
    seen = sum(batch.num_graphs for batch in batches)
    if seen != count:
        raise RuntimeError(f"{seen} of {count} graphs")
    return seen / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine_line())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "shards"
        with ShardWriter(folder, FIELDS, provenance={"label": "random points for benchmarks"}) as writer:
            for start in range(0, options.graphs, 5000):
                writer.append(events(min(5000, options.graphs - start), start))
        dataset = ShardDataset.open(folder)
        loader = Loader(dataset)
        memory = graphs_of(dataset.read_range(0, dataset.events), "particles")
        for graph in memory:
            graph.edge_index = graph.edge_index.long()  # as PyTorch Geometric needs it
        in_list = DataLoader(memory, batch_size=BATCH, shuffle=True)
        print(
            f"{'graphs/s: ours, then the other':<52}{'ours':>11}{'other':>11}{'ratio':>9}{'min':>8}{'max':>8}"
        )
        for name, fresh in (
            ("beside PyG DataLoader, shards held in memory", False),
            ("… shards read anew every epoch", True),
        ):
            compare(
                name,
                lambda fresh=fresh: rate(
                    ours(dataset, Loader(dataset) if fresh else loader, 0), options.graphs
                ),  # type: ignore[misc]
                lambda: rate(iter(in_list), options.graphs),
                options.rounds,
            )


if __name__ == "__main__":
    main()
