"""Reading shuffled batches: ours beside what people do with one HDF5 file, and beside reading shards in order.

Images have as many nonzero cells as the whole-detector ones (306 of 3 × 64 × 64) at random places: synthetic, for
speed alone. All files are in the page cache. Every reader gives dense float32 tensors in batches of 512.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.machine_line import machine_line
from hpctrain.data.columns import SparseRows, offsets_of
from hpctrain.data.loader import Loader
from hpctrain.data.schema import DenseField, SparseField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.data.shards import ShardDataset
from hpctrain.data.sizes import order_for
from hpctrain.machine import own_peak_bytes

SHAPE, CELLS, BATCH = (3, 64, 64), 306, 512
PIECE = 8192


def images(events: int, seed: int) -> SparseRows:
    """Random images of about ``CELLS`` cells each."""
    rng = np.random.default_rng(seed)
    size = int(np.prod(SHAPE))
    cells = np.sort(rng.integers(0, size, (events, CELLS)), axis=1)
    kept = np.ones(cells.shape, dtype=bool)
    kept[:, 1:] = cells[:, 1:] != cells[:, :-1]
    values = rng.exponential(5.0, int(kept.sum())).astype(np.float32)
    return SparseRows(offsets_of(kept.sum(axis=1)), cells[kept].astype(np.uint16), values)


def write_shards(folder: Path, events: int) -> Path:
    fields = {
        "image": SparseField(shape=SHAPE),
        "label": DenseField(dtype="int64"),
        "weight": DenseField(dtype="float64"),
    }
    with ShardWriter(folder, fields, provenance={"label": "synthetic images for benchmarks"}) as writer:
        for start in range(0, events, PIECE):
            n = min(PIECE, events - start)
            writer.append(
                {"image": images(n, start), "label": np.arange(start, start + n) % 2, "weight": np.ones(n)}
            )
    return folder


def write_gzip(path: Path, events: int) -> Path:
    """What the field's files look like: one dense dataset, a chunk an image, gzip."""
    with h5py.File(path, "w") as file:
        data = file.create_dataset("image", (events, *SHAPE), "f4", chunks=(1, *SHAPE), compression="gzip")
        for start in range(0, events, 1024):
            n = min(1024, events - start)
            data[start : start + n] = images(n, start).dense(SHAPE)
        file["label"] = np.arange(events) % 2
    return path


class OneFile(Dataset[tuple[torch.Tensor, int]]):
    """The usual map-style dataset over one file, opened in each worker."""

    def __init__(self, path: Path, events: int) -> None:
        self.path, self.events = path, events
        self.file: h5py.File | None = None

    def __len__(self) -> int:
        return self.events

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        if self.file is None:
            self.file = h5py.File(self.path)
        return torch.from_numpy(self.file["image"][row]), int(self.file["label"][row])


def random_reads(path: Path, events: int) -> Iterator[torch.Tensor]:
    with h5py.File(path) as file:
        data = file["image"]
        rows = np.random.default_rng(0).permutation(events)
        for start in range(0, events, BATCH):
            yield torch.from_numpy(np.stack([data[row] for row in rows[start : start + BATCH].tolist()]))


def data_loader(path: Path, events: int) -> Iterator[torch.Tensor]:
    for image, _ in DataLoader(OneFile(path, events), batch_size=BATCH, shuffle=True, num_workers=2):
        yield image


def in_order(folder: Path) -> Iterator[torch.Tensor]:
    """The same shards straight through with h5py, unchecked, made dense in one buffer that is used again."""
    size = int(np.prod(SHAPE))
    buffer = torch.empty(BATCH * size)
    for path in sorted(folder.glob("*.h5")):
        with h5py.File(path) as file:
            offsets = file["image/offsets"][:]
            for start in range(0, len(offsets) - 1, BATCH):
                stop = min(start + BATCH, len(offsets) - 1)
                first, last = offsets[start], offsets[stop]
                cells = torch.from_numpy(file["image/indices"][first:last].astype(np.int64))
                row = torch.repeat_interleave(
                    torch.arange(stop - start), torch.from_numpy(np.diff(offsets[start : stop + 1]))
                )
                dense = buffer[: (stop - start) * size].zero_()
                dense.scatter_(0, row * size + cells, torch.from_numpy(file["image/values"][first:last]))
                file["label"][start:stop], file["weight"][start:stop]
                yield dense.view(-1, *SHAPE)


def shuffled(folder: Path, rank: int = 0, size: int = 1, epoch: int = 0) -> Iterator[torch.Tensor]:
    dataset = ShardDataset.open(folder)
    order = order_for(dataset.events, dataset.row_bytes, BATCH * size, 1)
    for batch in Loader(dataset, rank=rank, size=size).epoch(order, epoch):
        yield batch["image"]


def rate(batches: Callable[[], Iterator[torch.Tensor]]) -> float:
    """Images a second."""
    started, seen = time.perf_counter(), 0
    for image in batches():
        seen += len(image)
    return seen / (time.perf_counter() - started)


def _rank(folder: Path, rank: int, size: int, barrier: object, answers: object) -> None:
    torch.set_num_threads(1)
    barrier.wait()  # type: ignore[attr-defined]
    started = time.perf_counter()
    seen = sum(map(len, shuffled(folder, rank, size)))
    answers.put((seen, time.perf_counter() - started))  # type: ignore[attr-defined]


def ranks_rate(folder: Path, size: int) -> float:
    """Images a second of ``size`` processes that share every global batch."""
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(size), context.Queue()
    processes = [context.Process(target=_rank, args=(folder, r, size, barrier, answers)) for r in range(size)]
    for process in processes:
        process.start()
    found = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    return sum(seen for seen, _ in found) / max(seconds for _, seconds in found)


def _memory(folder: Path, answers: object) -> None:
    torch.zeros(1)
    before = own_peak_bytes()
    seen = sum(map(len, shuffled(folder)))
    answers.put((seen, (own_peak_bytes() - before) / 2**20))  # type: ignore[attr-defined]


def memory(folder: Path) -> tuple[int, float]:
    """(images seen, MiB of peak memory above the process with torch) of an epoch."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=_memory, args=(folder, answers))
    process.start()
    found: tuple[int, float] = answers.get()
    process.join()
    return found


def compare(name: str, ours: Callable[[], float], other: Callable[[], float], rounds: int) -> None:
    """One line: median rates and ratio of runs taken in turn."""
    pairs = [(ours(), other()) for _ in range(rounds)]
    ratios = [a / b for a, b in pairs]
    a, b = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    print(
        f"{name:<52}{a:>11,.0f}{b:>11,.0f}{statistics.median(ratios):>9.2f}{min(ratios):>8.2f}{max(ratios):>8.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=400_000, help="images in the shards")
    parser.add_argument("--gzip-events", type=int, default=8192, help="images in the one gzip file")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine_line())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shards = write_shards(folder / "shards", options.events)
        small = write_shards(folder / "small", 100_000)
        gzip = write_gzip(folder / "one.h5", options.gzip_events)
        print(
            f"{'images/s: ours, then the other':<52}{'ours':>11}{'other':>11}{'ratio':>9}{'min':>8}{'max':>8}"
        )
        ours = lambda: rate(lambda: shuffled(small))
        n = options.gzip_events
        compare(
            "beside h5py, random rows of a gzip file",
            ours,
            lambda: rate(lambda: random_reads(gzip, n)),
            options.rounds,
        )
        compare(
            "beside DataLoader, 2 workers, the same file",
            ours,
            lambda: rate(lambda: data_loader(gzip, n)),
            options.rounds,
        )
        compare(
            "beside the same shards in order, h5py, unchecked",
            ours,
            lambda: rate(lambda: in_order(small)),
            options.rounds,
        )
        compare(
            "two ranks beside one", lambda: ranks_rate(small, 2), lambda: ranks_rate(small, 1), options.rounds
        )
        seen, peak = memory(shards)
        print(f"memory: an epoch of {seen:,} images takes {peak:,.0f} MiB above torch")


if __name__ == "__main__":
    main()
