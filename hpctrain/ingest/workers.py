"""Spreads tasks over the workers of a cluster with Dask, a bounded number of them at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from hpctrain.errors import UserError
from hpctrain.ingest.clusters.base import ALLOWED_DEATHS, Cluster

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2
"""Tasks submitted for each worker: one being done and one waiting there, so that none is idle."""
POLL_S = 0.02
WATCH_S = 1.0


def run_tasks(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    cluster: Cluster,
    workers: int | None,
    scratch: Path,
    logs: Path,
    name: Callable[[Item], str] = str,
    watch: Callable[[int], None] = lambda workers: None,
) -> Iterator[Result]:
    """``function`` of every item, each once, in the order in which they finish.

    No more than ``AHEAD`` tasks a worker are with the scheduler, however many items there are. A task
    whose worker dies (killed, out of memory, out of time) is done again by another one; when the same
    task has lost ``ALLOWED_DEATHS`` workers more than once over, a ``UserError`` names it. An error
    raised by the task itself comes up as it is. ``watch`` hears every second how many workers there are.
    """
    if not items:
        return
    from distributed import KilledWorker, as_completed

    count = min(cluster.workers(workers), len(items))
    waiting = iter(items)
    with cluster.connect(count, scratch, logs) as connection:
        # Results are fetched as they come, in the background: a fetch may have to wait for a task to be done again.
        running = as_completed(loop=connection.client.loop, with_results=True)  # type: ignore[no-untyped-call]
        names: dict[str, str] = {}

        def submit(room: int) -> None:
            for _, item in zip(range(room), waiting, strict=False):
                future = connection.client.submit(_boxed, function, item, pure=False)
                names[future.key] = name(item)
                running.add(future)  # type: ignore[no-untyped-call]

        submit(AHEAD * count)
        told = -math.inf
        while not running.is_empty():  # type: ignore[no-untyped-call]
            connection.keep()
            if time.monotonic() > told + WATCH_S:
                told = time.monotonic()
                watch(connection.workers)
            done = running.next_batch(block=False)  # type: ignore[no-untyped-call]
            if not done:
                time.sleep(POLL_S)
            for future, result in done:
                who = names.pop(future.key)
                # Not by the future's status: that changes when the worker dies after the result has come.
                if not isinstance(result, list):
                    error = result[1] if isinstance(result, tuple) else result
                    if not isinstance(error, KilledWorker):
                        raise error
                    raise UserError(
                        f"{who}: {ALLOWED_DEATHS + 1} workers died over this task",
                        hint="Look for the out-of-memory killer in `dmesg`, and at the memory and time that the "
                        "workers have (generate.cluster). Finished parts are kept: the same command goes on from them",
                    ) from error
                future.release()
                submit(1)
                yield result[0]


def _boxed(function: Callable[[Item], Result], item: Item) -> list[Result]:
    """The result in a list: what else comes back, an exception and its traceback in a tuple, is an error."""
    return [function(item)]
