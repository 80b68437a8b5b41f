"""Spreads chunks over the cores of this machine with Dask, and lets nothing of it stay behind."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hpctrain.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

ALLOWED_DEATHS = 3
"""Workers that may die over one and the same task before the run gives up."""

_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)


def require_dask() -> None:
    """Raise ``UserError`` when Dask is missing; does not import it."""
    if importlib.util.find_spec("distributed") is None:
        raise UserError(
            "generating events needs dask.distributed, which is not installed",
            hint="pip install 'hpctrain[physics]'",
        )


@contextmanager
def local_cluster(workers: int, scratch: Path) -> Iterator[Any]:
    """A Dask client with ``workers`` processes of one thread each, gone when the block ends.

    Worker files go to a temporary folder inside ``scratch``. No dashboard, no open port beyond this
    machine, no memory limit: what a chunk needs is small and known.
    """
    import dask
    from distributed import Client, LocalCluster

    settings = {
        "distributed.scheduler.allowed-failures": ALLOWED_DEATHS,
        "distributed.nanny.pre-spawn-environ": _ONE_THREAD,
        "distributed.comm.timeouts.connect": "60s",
    }
    with (
        tempfile.TemporaryDirectory(prefix="dask-", dir=scratch) as folder,
        # The scheduler has scratch files as well as the workers.
        dask.config.set({**settings, "temporary-directory": folder}),
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            # Without this the scheduler's page of figures would want port 8787, dashboard or not.
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
            local_directory=folder,
            memory_limit=0,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):
        yield client


def run_tasks(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    scratch: Path,
    name: Callable[[Item], str] = str,
) -> Iterator[Result]:
    """``function`` of every item, in the order in which they finish.

    A task whose worker dies (killed, out of memory) is done again by another one; when the same task
    has lost ``ALLOWED_DEATHS`` workers more than once over, a ``UserError`` names it. An error raised
    by the task itself comes up as it is.
    """
    require_dask()
    from distributed import KilledWorker, as_completed

    with local_cluster(min(workers, len(items)), scratch) as client:
        futures = [client.submit(function, item, pure=False) for item in items]
        names = {future.key: name(item) for future, item in zip(futures, items, strict=True)}
        for future in as_completed(futures):  # type: ignore[no-untyped-call]
            try:
                yield future.result()
            except KilledWorker as error:
                raise UserError(
                    f"{names[future.key]}: {ALLOWED_DEATHS + 1} workers died over this task",
                    hint="Look for the out-of-memory killer in `dmesg`; fewer generate.workers need less "
                    "memory. Finished parts are kept: the same command goes on from them",
                ) from error
            future.release()
