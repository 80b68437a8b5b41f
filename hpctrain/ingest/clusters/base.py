"""What a generation knows of a cluster: how many workers it has, and a Dask client to them while a block lasts."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import psutil
from pydantic import Field

from hpctrain.errors import UserError
from hpctrain.registry import nearest

ALLOWED_DEATHS = 3
"""Workers that may die over one and the same task before the run gives up."""
ALLOWED_FAILURES = 3
"""Jobs in a row that may end before a worker came of them."""
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)
SETTINGS = {
    "distributed.scheduler.allowed-failures": ALLOWED_DEATHS,
    "distributed.comm.timeouts.connect": "60s",
    # Results are a few numbers, so there is nothing to move to disk, and a worker that pauses because its memory
    # is nearly used up would never go on. One that has used it up is ended, and its task done elsewhere.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
}
"""Dask's, in the process that has the scheduler and in every worker."""

Memory = Annotated[str, Field(pattern=r"^\d+(\.\d+)?[KMGT]i?B$")]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Connection:
    """Workers while they are there."""

    client: Any
    """Dask's."""
    scheduler: Any
    """Dask's, in this process."""
    keep: Callable[[], None] = lambda: None
    """To be called often: replaces what has ended. Raises ``UserError`` when no worker can be had."""

    @property
    def workers(self) -> int:
        """Workers that are there now."""
        return len(self.scheduler.workers)


class Cluster(Protocol):
    """Starts worker processes of one thread each, and ends every one of them."""

    def check(self) -> None:
        """Raise ``UserError`` when workers cannot be started here; nothing is started or imported."""
        ...

    def workers(self, asked: int | None) -> int:
        """Worker processes for ``generate.workers``; None leaves it to the cluster."""
        ...

    def connect(self, workers: int, scratch: Path, logs: Path) -> AbstractContextManager[Connection]:
        """About ``workers`` processes, gone when the block ends, however it ends.

        Their files go to ``scratch``, what they print to ``logs``: both on a disk that they see.
        """
        ...


def require_dask() -> None:
    """Raise ``UserError`` when Dask, or what it needs to keep strangers out, is missing; imports neither."""
    require("distributed", "dask.distributed", "physics")
    require("cryptography", "cryptography", "physics")


def require(module: str, name: str, extra: str) -> None:
    """Raise ``UserError`` when a package is missing; does not import it."""
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"generating events needs {name}, which is not installed", hint=f"pip install 'hpctrain[{extra}]'"
        )


def require_interface(name: str | None) -> None:
    """Raise ``UserError`` when this machine has no such network interface."""
    known = psutil.net_if_addrs()
    if name is not None and name not in known:
        raise UserError(
            f"generate.cluster.interface: there is no network interface '{name}' here",
            hint=nearest(name, known, "there are"),
        )


@contextmanager
def dask_folder(scratch: Path) -> Iterator[Path]:
    """A folder inside ``scratch`` that only this user may enter, for Dask's files, and ``SETTINGS`` in force."""
    import dask

    with (
        tempfile.TemporaryDirectory(prefix="dask-", dir=scratch, ignore_cleanup_errors=True) as folder,
        # The scheduler has scratch files as well as the workers.
        dask.config.set({**SETTINGS, "temporary-directory": folder}),
    ):
        yield Path(folder).resolve()


def scheduler_options(host: str | None, interface: str | None) -> dict[str, Any]:
    """For a scheduler without its page of figures, which would want port 8787 even when nobody looks at it."""
    where = {"host": host} if host else {"interface": interface} if interface else {}
    return {**where, "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"}


def credentials(folder: Path) -> Any:
    """Keys in ``folder`` made for this cluster alone: who reaches a port of it without them is turned away."""
    from distributed.security import Security

    made: Any = Security.temporary()  # type: ignore[no-untyped-call]
    paths = {"cert": folder / "certificate.pem", "key": folder / "key.pem"}
    for path, text in zip(paths.values(), (made.tls_worker_cert, made.tls_worker_key), strict=True):
        path.touch(mode=0o600)
        path.write_text(text)
    roles = {
        f"tls_{role}_{what}": str(path)
        for role in ("client", "scheduler", "worker")
        for what, path in paths.items()
    }
    return Security(require_encryption=True, tls_ca_file=str(paths["cert"]), **roles)  # type: ignore[no-untyped-call]


def worker_environment(security: Any) -> dict[str, str]:
    """Environment variables that give a worker ``SETTINGS``, the keys, and one thread in every library."""
    names = {
        **SETTINGS,
        "distributed.comm.require-encryption": True,
        "distributed.comm.tls.ca-file": security.tls_ca_file,
        "distributed.comm.tls.worker.cert": security.tls_worker_cert,
        "distributed.comm.tls.worker.key": security.tls_worker_key,
    }
    return {
        **ONE_THREAD,
        **{
            "DASK_" + name.upper().replace(".", "__").replace("-", "_"): str(value)
            for name, value in names.items()
        },
    }


@contextmanager
def at_our_end(command: Sequence[str]) -> Iterator[None]:
    """Have ``command`` run when the block ends, or when this process does: killed, out of memory, however.

    A small shell waits on a pipe that only this process can write to, and that the system closes with it.
    """
    guard = subprocess.Popen(
        ["/bin/sh", "-c", 'trap "" INT TERM HUP; cat >/dev/null; "$@"', "sh", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        if guard.stdin is not None:
            guard.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            guard.wait(timeout=60)


def last_words(logs: Path) -> str:
    """The last line of the log written last: why a job ended."""
    with contextlib.suppress(OSError, IndexError):
        files = [path for path in logs.iterdir() if path.stat().st_size]
        newest = max(files, key=lambda path: path.stat().st_mtime_ns, default=None)
        if newest is not None:
            return newest.read_text(errors="replace").strip().splitlines()[-1][:300]
    return "they wrote nothing"
