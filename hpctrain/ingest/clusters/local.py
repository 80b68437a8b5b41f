"""Workers on this machine."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from hpctrain import machine
from hpctrain.config import ComponentConfig
from hpctrain.ingest.clusters.base import ALLOWED_DEATHS, ONE_THREAD, require_dask
from hpctrain.registry import register


@register("clusters")
class ThisMachine:
    """Worker processes beside the one that started them."""

    class Config(ComponentConfig):
        kind: Literal["local"] = "local"

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self) -> None:
        """Raise ``UserError`` when Dask is missing; imports nothing."""
        require_dask()

    def workers(self, asked: int | None) -> int:
        """As asked, else one per core available to this process."""
        return asked or machine.cores()

    @contextmanager
    def connect(self, workers: int, scratch: Path, logs: Path) -> Iterator[Any]:
        """A Dask client with ``workers`` processes of one thread each, gone when the block ends.

        Worker files go to a temporary folder inside ``scratch``. No dashboard, no open port beyond this
        machine, no memory limit: what a chunk needs is small and known.
        """
        import dask
        from distributed import Client, LocalCluster

        settings = {
            "distributed.scheduler.allowed-failures": ALLOWED_DEATHS,
            "distributed.nanny.pre-spawn-environ": ONE_THREAD,
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
