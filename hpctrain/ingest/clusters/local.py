"""Workers on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from hpctrain import machine
from hpctrain.config import ComponentConfig
from hpctrain.ingest.clusters.base import (
    ONE_THREAD,
    Connection,
    Memory,
    credentials,
    dask_folder,
    require_dask,
    scheduler_options,
)
from hpctrain.registry import register


@register("clusters")
class ThisMachine:
    """Worker processes beside the one that started them."""

    class Config(ComponentConfig):
        kind: Literal["local"] = "local"
        memory: Memory | None = None
        """Most memory of each worker, such as ``1GB``: one that needs more is ended and its task done again;
        None sets no limit."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self) -> None:
        """Raise ``UserError`` when a package is missing; imports nothing."""
        require_dask()

    def workers(self, asked: int | None) -> int:
        """As asked, else one per core available to this process."""
        return asked or machine.cores()

    @contextmanager
    def connect(self, workers: int, scratch: Path, logs: Path) -> Iterator[Connection]:
        """``workers`` processes of one thread each. No port is open beyond this machine."""
        from distributed import Client, LocalCluster

        with (
            _environment(ONE_THREAD),
            dask_folder(scratch) as folder,
            LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                security=credentials(folder),
                protocol="tls://",
                host="127.0.0.1",
                dashboard_address=None,
                scheduler_kwargs=scheduler_options("127.0.0.1", None),
                local_directory=str(folder),
                memory_limit=self.config.memory or 0,
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,  # type: ignore[no-untyped-call]
        ):
            yield Connection(client, cluster.scheduler)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables for processes started in the block. Dask's own way sets them when the libraries are loaded already,
    or not at all where the launcher has set them for this process."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
