"""What a generation knows of a cluster: how many workers it has, and a Dask client to them while a block lasts."""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from hpctrain.errors import UserError

ALLOWED_DEATHS = 3
"""Workers that may die over one and the same task before the run gives up."""

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)


class Cluster(Protocol):
    """Starts worker processes of one thread each, and ends every one of them."""

    def check(self) -> None:
        """Raise ``UserError`` when workers cannot be started here; nothing is started or imported."""
        ...

    def workers(self, asked: int | None) -> int:
        """Worker processes for ``generate.workers``; None leaves it to the cluster."""
        ...

    def connect(self, workers: int, scratch: Path, logs: Path) -> AbstractContextManager[Any]:
        """A Dask client to about ``workers`` processes, gone when the block ends, however it ends.

        Worker files go to ``scratch``, what workers print to ``logs``: both on a disk that they see.
        """
        ...


def require_dask() -> None:
    """Raise ``UserError`` when Dask is missing; does not import it."""
    require("distributed", "dask.distributed", "physics")


def require(module: str, name: str, extra: str) -> None:
    """Raise ``UserError`` when a package is missing; does not import it."""
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"generating events needs {name}, which is not installed", hint=f"pip install 'hpctrain[{extra}]'"
        )
