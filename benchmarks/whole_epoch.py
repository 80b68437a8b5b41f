"""One pass of training over a dataset far larger than a window, with the memory of every rank watched.

The dataset is assembled from the training events of a run, each turned by a random angle and mirrored at random,
again and again: as many bytes and cells as that many events, made for load and not for physics.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks.machine_line import machine_line
from hpctrain.data.columns import Columns, SparseRows
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.data.shards import ShardDataset
from hpctrain.track import read_metrics


def turned(images: SparseRows, shape: tuple[int, ...], rng: np.random.Generator) -> SparseRows:
    """Each image rolled by a random number of φ cells, half of them mirrored in η."""
    channel, eta, phi = np.unravel_index(images.indices.astype(np.int64), shape)
    row = images.row_of_value()
    phi = (phi + rng.integers(0, shape[2], len(images))[row]) % shape[2]
    eta = np.where((rng.random(len(images)) < 0.5)[row], shape[1] - 1 - eta, eta)
    cell = np.ravel_multi_index((channel, eta, phi), shape)
    order = np.lexsort((cell, row))
    return SparseRows(images.offsets, cell[order].astype(images.indices.dtype), images.values[order])


def assemble(source: ShardDataset, folder: Path, events: int) -> None:
    """``events`` events made of those of ``source``."""
    label = f"{source.provenance.get('label')}; events turned and repeated for load, not for physics"
    rng = np.random.default_rng(1)
    with ShardWriter(folder, source.fields, provenance={"label": label}, scale=source.scale) as writer:
        left = events
        while left:
            columns: Columns = source.read_range(0, min(left, source.events))
            columns["image"] = turned(columns["image"], source.fields["image"].shape, rng)  # type: ignore[arg-type]
            writer.append(columns)
            left -= len(columns["image"])


def watch(command: list[str]) -> list[tuple[float, list[int]]]:
    """(seconds, bytes of every rank) while ``command`` runs, once a second."""
    started, seen = time.monotonic(), []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            sizes = []
            for child in psutil.Process(process.pid).children(recursive=True):
                try:
                    if "worker" in child.cmdline() and child.name().startswith("python"):
                        sizes.append(child.memory_info().rss)
                except psutil.Error:
                    continue
            seen.append((time.monotonic() - started, sorted(sizes)))
            time.sleep(1.0)
        if process.returncode:
            sys.exit(process.returncode)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "run", type=Path, nargs="?", default=Path("runs/demo"), help="a run that holds shards"
    )
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("overrides", nargs="*", help="keys of the experiment, key.sub=value")
    options = parser.parse_args()
    if not (options.run / "data" / "train" / "dataset.json").exists():
        print(f"whole_epoch: no shards in {options.run} (make demo writes them); nothing measured")
        return
    print(machine_line())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for split in ("train", "validation", "test"):
            source = ShardDataset.open(options.run / "data" / split)
            assemble(source, folder / "data" / split, options.events if split == "train" else source.events)
        (folder / "epoch.yaml").write_text("name: epoch\n")
        command = [sys.executable, "-m", "hpctrain"]
        settings = [
            f"output={folder}", "generate.kind=shards", f"generate.path={folder / 'data'}", "training.epochs=1",
            "training.global_batch_size=256", f"launch.ranks={options.ranks}", *options.overrides,
        ]  # fmt: skip
        for step in ("generate", "train"):
            seen = watch([*command, step, str(folder / "epoch.yaml"), *settings])
        epoch = next(r for r in read_metrics(folder / "epoch" / "metrics.jsonl") if r["event"] == "epoch")
        print(
            f"{options.events:,} events, {options.ranks} ranks: {epoch['samples_per_second']:,.0f} events/s"
        )
        # The first seconds load libraries and windows; from then on memory should not rise.
        sizes = [max(s) / 2**20 for t, s in seen if len(s) == options.ranks]
        for part in (0.25, 0.5, 0.75, 0.98):
            print(
                f"largest rank after {part:4.0%} of the time: {sizes[int(part * (len(sizes) - 1))]:,.0f} MiB"
            )


if __name__ == "__main__":
    main()
