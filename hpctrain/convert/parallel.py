"""Several files converted side by side, and given back in the order of the inputs."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from hpctrain.convert.one_file import FileResult, FileTask, columns_of
from hpctrain.data.columns import Columns
from hpctrain.data.schema import Fields
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError

ROWS = 1024
"""Events that a part is read back by."""


def converted_elsewhere(
    tasks: Sequence[FileTask], fields: Fields, folder: Path, workers: int, results: list[FileResult]
) -> Iterator[tuple[int, Columns, float]]:
    """(file, columns, part of the file done), file after file, each converted into a part in a process of its own.

    At most two parts a worker wait in ``folder``, which is removed at the end. An error in a worker comes up
    as it is; a worker that dies (killed, out of memory) is a ``UserError``.
    """
    ahead = 2 * workers
    waiting: dict[int, Future[FileResult]] = {}
    # A fresh interpreter: libraries with threads (HDF5, Arrow) do not survive a fork.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        for position, task in enumerate(tasks):
            for later in tasks[position : position + ahead]:
                if later.number not in waiting:
                    part = folder / f"{later.number:05d}"
                    waiting[later.number] = pool.submit(convert_part, later, fields, part)
            try:
                result = waiting[task.number].result()
            except BrokenProcessPool as error:
                raise UserError(
                    f"{task.path}: a process that converted it or a neighbour died",
                    hint="Look for the out-of-memory killer in `dmesg`; fewer workers need less memory. "
                    'A script that asks for workers needs `if __name__ == "__main__":`',
                ) from error
            part = folder / f"{task.number:05d}"
            if result.kept:
                dataset = ShardDataset.open(part)
                for start in range(0, dataset.events, ROWS):
                    stop = min(start + ROWS, dataset.events)
                    yield task.number, dataset.read_range(start, stop), stop / dataset.events
            results.append(result)
            shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def convert_part(task: FileTask, fields: Fields, folder: Path) -> FileResult:
    """Convert one file into a dataset of its own: what a worker does."""
    results: list[FileResult] = []
    with ShardWriter(folder, fields, provenance={}) as writer:
        for columns, _ in columns_of(task, results):
            writer.append(columns)
    return results[0]
