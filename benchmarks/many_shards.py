"""Random blocks of a dataset of many small shards: what opening a shard, and reading from one, costs.

Events are of 100 cells of an image, some 10 particles, a label and a weight: synthetic, for speed alone. All files
are in the page cache. Blocks of 256 events are read at random places, as the windows of an order do.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks.machine_line import machine_line
from hpctrain.data.columns import Columns, RaggedRows, SparseRows, nbytes, offsets_of
from hpctrain.data.schema import DenseField, RaggedField, SparseField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.data.shards import ShardDataset

SHAPE, CELLS, BLOCK = (3, 64, 64), 100, 256
FIELDS = {
    "image": SparseField(shape=SHAPE),
    "particles": RaggedField(shape=(3,)),
    "label": DenseField(dtype="int64"),
    "weight": DenseField(dtype="float64"),
}


def events(count: int) -> Columns:
    """Random ones."""
    rng = np.random.default_rng(1)
    cells = (np.arange(CELLS) * 100 + rng.integers(0, 100, (count, CELLS))).astype(np.uint16)
    items = rng.integers(0, 20, count)
    return {
        "image": SparseRows(
            offsets_of(np.full(count, CELLS)), cells.ravel(), rng.random(cells.size).astype(np.float32)
        ),
        "particles": RaggedRows(offsets_of(items), rng.random((int(items.sum()), 3)).astype(np.float32)),
        "label": np.arange(count) % 2,
        "weight": np.ones(count),
    }


def write(folder: Path, shards: int, each: int) -> None:
    some = events(each)
    provenance = {"label": "synthetic events for benchmarks"}
    with ShardWriter(folder, FIELDS, provenance=provenance, events_per_shard=each) as writer:
        for _ in range(shards):
            writer.append(some)


def milliseconds(dataset: ShardDataset, starts: list[int], names: list[str] | None = None) -> float:
    """A block."""
    began = time.perf_counter()
    for start in starts:
        dataset.read_range(start, start + BLOCK, names)
    return (time.perf_counter() - began) / len(starts) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--events", type=int, default=1024, help="in each shard")
    parser.add_argument("--blocks", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "d"
        write(folder, options.shards, options.events)
        total = options.shards * options.events
        rng = np.random.default_rng(1)
        starts = (rng.integers(0, total // BLOCK, options.blocks) * BLOCK).tolist()
        print(machine_line())
        size = nbytes(ShardDataset.open(folder).read_range(0, BLOCK)) / 1e3
        print(f"{options.shards} shards of {options.events} events; blocks of {BLOCK} events, {size:.0f} kB")
        figures = []
        for _ in range(options.rounds):
            began = time.perf_counter()
            dataset = ShardDataset.open(folder)
            opened = (time.perf_counter() - began) * 1e3
            began = time.perf_counter()
            for start in range(0, 200 * options.events, options.events):
                dataset.read_range(start, start + 1, ["label"])
            shard = (time.perf_counter() - began) / 200 * 1e3
            dataset = ShardDataset.open(folder)
            figures.append(
                (
                    opened,
                    shard,
                    milliseconds(dataset, starts),
                    milliseconds(dataset, starts),
                    milliseconds(dataset, starts, ["label"]),
                    milliseconds(dataset, list(range(0, 1000 * BLOCK, BLOCK))),
                )
            )
        words = (
            "opening the dataset", "opening a shard and one label of it",
            "a random block, first pass", "… second pass", "… label alone", "a block, in order",
        )  # fmt: skip
        for word, values in zip(words, zip(*figures, strict=True), strict=True):
            print(
                f"{word:<36} {statistics.median(values):8.3f} ms ({min(values):.3f} to {max(values):.3f})",
                flush=True,
            )
        print(f"resident memory {psutil.Process().memory_info().rss / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
