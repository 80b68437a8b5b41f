"""Workers as the ranks of an MPI program that hpctrain starts itself (dask-mpi): inside a batch job of any scheduler."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from hpctrain import machine
from hpctrain.config import ComponentConfig
from hpctrain.errors import UserError
from hpctrain.ingest.clusters.base import (
    ALLOWED_FAILURES,
    Connection,
    Memory,
    Seconds,
    at_our_end,
    credentials,
    dask_folder,
    last_words,
    require,
    require_dask,
    require_interface,
    scheduler_options,
    worker_environment,
)
from hpctrain.launch.local import mpiexec
from hpctrain.registry import register

PATIENCE_S = 4.0
"""For ranks to end by themselves when the scheduler has gone; one that waits for a new worker would not."""
_END = """
kill -TERM -GROUP || exit
for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 0.25; kill -0 -GROUP || exit; done
kill -KILL -GROUP
"""


@register("clusters")
class MpiRanks:
    """One worker a rank. A worker that dies is replaced by its rank; when a rank dies, MPI ends all, and they are
    started again."""

    class Config(ComponentConfig):
        kind: Literal["mpi"] = "mpi"
        command: str | None = None
        """What starts the ranks, ``{workers}`` of them: ``srun -n {workers} --mpi=pmi2``, say. None is ``mpiexec -n
        {workers}`` of the MPI beside this Python, which knows the nodes of a batch job."""
        memory: Memory | None = None
        """Most memory of each worker, such as ``1GB``: one that needs more is ended and its task done again;
        None sets no limit."""
        interface: str | None = None
        """Network by which workers reach hpctrain, as ``ip address`` calls it (ib0, hsn0); None takes the one that
        leads outside."""
        death_timeout_s: Seconds = 60.0
        """A worker that cannot reach hpctrain for so long ends."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self) -> None:
        """Raise ``UserError`` when a package or what starts the ranks is missing; imports nothing."""
        require_dask()
        require("dask_mpi", "dask-mpi", "cluster")
        require("mpi4py", "mpi4py", "cluster")
        require_interface(self.config.interface)
        program = self._start(1)[0]
        if shutil.which(program) is None:
            raise UserError(
                f"generate.cluster.command: there is no {program} here",
                hint="Load the site's MPI module, or set generate.cluster=local",
            )

    def workers(self, asked: int | None) -> int:
        """As asked, else one for each task of the Slurm job that this is in, else one a core."""
        return asked or int(os.environ.get("SLURM_NTASKS", "0")) or machine.cores()

    def _start(self, workers: int) -> list[str]:
        if self.config.command is not None:
            return shlex.split(self.config.command.replace("{workers}", str(workers)))
        try:
            return [mpiexec(), "-n", str(workers)]
        except UserError as error:
            raise UserError(
                "generate.cluster is mpi, but there is no mpiexec here",
                hint="pip install 'hpctrain[mpi]', load the site's MPI module, or set generate.cluster.command",
            ) from error

    @contextmanager
    def connect(self, workers: int, scratch: Path, logs: Path) -> Iterator[Connection]:
        """``workers`` ranks. All end when the block does or this process does."""
        from distributed import Client, Scheduler, SpecCluster

        config = self.config
        with dask_folder(scratch) as folder:
            security = credentials(folder)
            options = {
                **scheduler_options(None, config.interface),
                "protocol": "tls://",
                "security": security,
            }
            command = [
                *self._start(workers),
                *(sys.executable, "-m", "dask_mpi.cli"),
                "{scheduler}",
                *("--no-scheduler", "--nthreads", "1", "--memory-limit", config.memory or "0"),
                *("--protocol", "tls://", "--local-directory", str(folder)),
                *(("--interface", config.interface) if config.interface else ()),
                *("--worker-options", f'{{"death_timeout": {config.death_timeout_s}}}'),
            ]
            program = _Program(command, worker_environment(security), logs / "workers")
            with (
                contextlib.closing(program),
                SpecCluster(  # type: ignore[no-untyped-call]
                    scheduler={"cls": Scheduler, "options": options},
                    security=security,
                    silence_logs="critical",
                ) as cluster,
                Client(cluster) as client,  # type: ignore[no-untyped-call]
            ):
                program.scheduler = cluster.scheduler
                program.start()
                yield Connection(client, cluster.scheduler, program.keep)


class _Program:
    """The MPI program: started, started again when it ends too soon, and ended."""

    def __init__(self, command: list[str], environment: dict[str, str], logs: Path) -> None:
        self.command = command
        self.environment = environment
        self.logs = logs
        self.scheduler: Any = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard = ExitStack()
        self._starts = 0
        self._came = False
        self._failed = 0

    def start(self) -> None:
        """Start all ranks. They end with this process, whatever ends it."""
        self._came = False
        self._starts += 1
        self.logs.mkdir(parents=True, exist_ok=True)
        command = [word.replace("{scheduler}", self.scheduler.address) for word in self.command]
        with (self.logs / f"mpi-{self._starts}.log").open("wb") as log:
            self._process = subprocess.Popen(
                # A rank of the next attempt must not be taken for one of the last that is still being missed.
                [*command, "--name", f"mpi-{self._starts}"],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = _END.replace("GROUP", str(self._process.pid))
        self._guard.enter_context(at_our_end(["/bin/sh", "-c", end]))

    def keep(self) -> None:
        """Start the ranks again when they have ended. Raises ``UserError`` when no worker ever comes of them."""
        self._came = self._came or bool(self.scheduler.workers)
        if self._process is None or self._process.poll() is None:
            return
        self._failed = 0 if self._came else self._failed + 1
        if self._failed >= ALLOWED_FAILURES:
            raise UserError(
                f"{shlex.join(self.command[:3])} … ended with code {self._process.returncode} "
                f"{self._failed} times before a worker came: {last_words(self.logs)}",
                hint=f"See {self.logs} and generate.cluster.command",
            )
        self._end()
        self.start()

    def close(self) -> None:
        """Wait for the ranks, which end when the scheduler has; end them if they do not."""
        if self._process is not None and self._starts:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=PATIENCE_S)
            self._end()

    def _end(self) -> None:
        """Nothing of the program stays."""
        if self._process is not None:
            for signum in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signum)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(timeout=5)
        self._guard.close()
