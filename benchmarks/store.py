"""Fetching events from the memory of all ranks, beside reading them from shards in the page cache.

    mpiexec -n 2 python -m benchmarks.store

The same synthetic images as in ``benchmarks.loading``. Every rank reads its share of an epoch's blocks of 256 events,
in the order of training: from disk (checked against their checksums), then from its peers, in turn.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.loading import BATCH, write_shards
from benchmarks.machine_line import machine_line
from hpctrain.config import ComponentConfig
from hpctrain.data.columns import nbytes
from hpctrain.data.loader import Loader
from hpctrain.data.memory.store import MemoryStore
from hpctrain.data.order import Order
from hpctrain.data.shards import ShardDataset
from hpctrain.data.windows import Source
from hpctrain.parallel.communicator import Communicator, connect
from hpctrain.parallel.mpi import MpiCommunicator


def blocks(source: Source, order: Order, world: Communicator) -> float:
    """Bytes a second, of all ranks together."""
    parts = [
        piece.window for k in range(order.batches) for piece in order.share_pieces(k, world.rank, world.size)
    ]
    ranges = order.ranges(0, list(dict.fromkeys(parts)))
    world.barrier()
    started = time.perf_counter()
    size = sum(nbytes(source.read_range(*r)) for r in ranges)
    seconds = max(world.gather(time.perf_counter() - started))
    return sum(world.gather(size)) / seconds


def epoch(source: Source, order: Order, world: Communicator) -> float:
    """Dense images a second out of the loader, of all ranks together."""
    world.barrier()
    started = time.perf_counter()
    seen = sum(
        len(batch["row"]) for batch in Loader(source, rank=world.rank, size=world.size).epoch(order, 0)
    )
    seconds = max(world.gather(time.perf_counter() - started))
    return sum(world.gather(seen)) / seconds


def resident() -> dict[str, float]:
    """MB of this process: Pss counts a page that k processes share as a k-th."""
    lines = (line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return {words[0].rstrip(":"): int(words[1]) / 1e3 for words in lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    engine: ComponentConfig = MpiCommunicator.Config()
    world = connect(engine)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(world.gather(scratch)[0]) / "shards"
        if world.rank == 0:
            print(machine_line())
            write_shards(folder, options.events)
        world.barrier()
        disk = ShardDataset.open(folder)
        before = resident()
        started = time.perf_counter()
        store = MemoryStore.fill(disk, world)
        filled, after = time.perf_counter() - started, resident()
        order = Order(options.events, BATCH * world.size, 1, window=16384)
        figures = []
        for _ in range(options.rounds):
            figures.append([f(source, order, world) for f in (blocks, epoch) for source in (disk, store)])
        if world.rank == 0:
            print(f"{world.size} ranks, {options.events:,} images, filled in {filled:.2f} s")
            print(
                f"rank 0 keeps {store.own_bytes / 1e6:.0f} MB; filling it took {after['Pss'] - before['Pss']:.0f} MB, "
                f"at the end it has {resident()['Pss']:.0f} MB (Rss {resident()['Rss']:.0f} MB)"
            )
            for column, name, unit in ((0, "blocks of 256 events", 1e6), (2, "loader, dense images", 1)):
                a, b = (statistics.median(f[column + k] for f in figures) / unit for k in (0, 1))
                ratios = [f[column + 1] / f[column] for f in figures]
                print(
                    f"{name:<24} disk {a:>10,.0f}  memory {b:>10,.0f} {'MB/s' if unit > 1 else 'images/s'}  "
                    f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                    flush=True,
                )
        world.barrier()
    world.close()


if __name__ == "__main__":
    main()
