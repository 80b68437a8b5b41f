"""Ranks on this machine: one process, ``mpiexec`` of the MPI beside this Python, or processes we start ourselves."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import psutil
from pydantic import NonNegativeInt, PositiveInt

from hpctrain import stopping, topology
from hpctrain.cgroups import write_list
from hpctrain.config import AnyComponent, ComponentConfig, component, section
from hpctrain.errors import UserError
from hpctrain.launch.base import Job
from hpctrain.launch.binding import LEAVE_TO_US, Bind, Wish
from hpctrain.registry import register

_PATIENCE_S = 8.0
"""How long processes may take to end when told to."""
RANK_LINE = "rank {rank} is process {pid}"
"""What every rank prints first."""
_END_LINE = "rank {rank} ended with {code}"
_REAPER = (
    '"$@"; code=$?; [ $code -eq 0 ] || '
    f'echo "{_END_LINE.format(rank="${PMI_RANK:-$OMPI_COMM_WORLD_RANK}", code="$code")}"; exit $code'
)
"""Between mpiexec and each rank: who ended first, and how, is known to its parent alone. mpiexec kills the others at once,
and names any of them when they have not all met."""
STARTED_RANKS = "HPCTRAIN_STARTED_RANKS"
"""Tells each rank how many were started: one that sees fewer does not understand its launcher."""


@register("launch")
class LocalLauncher:
    """Starts the ranks of a step on this machine."""

    class Config(ComponentConfig):
        kind: Literal["local"] = "local"
        ranks: PositiveInt = 1
        """Processes that train together."""
        threads: PositiveInt | None = None
        """Threads of each rank; None takes one for each of its cores."""
        bind: Bind = "auto"
        """Whether each rank keeps to cores of its own: ``auto`` where it helps and nobody (Slurm, mpiexec) has bound it,
        ``cores`` always, ``none`` never. See docs/launch.md."""
        hyperthreads: bool = False
        """Compute on every hardware thread of a core; otherwise on one, and the others are for what runs beside."""
        spare_cores: NonNegativeInt = 0
        """Cores of the machine left to the operating system (2 of the 68 of Knights Landing)."""
        engine: Annotated[AnyComponent, component("engines", "mpi")] = section("engines", "mpi")
        """How ranks talk to each other: ``mpi`` (started by mpiexec) or ``gloo`` (needs nothing beside torch)."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.ranks = config.ranks
        self.engine = config.engine

    def check(self, *, parallel: bool) -> None:
        """Raise ``UserError`` when mpiexec is needed and absent, or no core is left."""
        if parallel and self.ranks > 1 and self.engine.kind == "mpi":
            mpiexec()
        self._wish(self.ranks if parallel else 1, parallel=parallel)

    def _wish(self, ranks: int, *, parallel: bool) -> Wish:
        """What each rank is told of its place. Raises ``UserError`` when no core is left for them."""
        config, here = self.config, topology.here()
        if config.spare_cores >= len(here.cores):
            raise UserError(
                f"launch.spare_cores={config.spare_cores} leaves none of the {len(here.cores)} cores here",
                hint="Give fewer",
            )
        return Wish(
            # A single process starts others (simulation, compilers), which must not end up on its first core.
            bind=config.bind if parallel else "none",
            threads=config.threads,
            hyperthreads=config.hyperthreads,
            spare_cores=config.spare_cores,
            ranks=ranks,
            cpus=write_list(here.cpus),
        )

    def start(self, arguments: list[str], log: Path, *, parallel: bool) -> Job:
        """Start the step. Raises ``UserError`` when mpiexec is needed and absent."""
        ranks = self.ranks if parallel else 1
        environment = {
            **({} if self.config.bind == "none" else LEAVE_TO_US),
            **os.environ,
            **self._wish(ranks, parallel=parallel).to_environment(),
            "HPCTRAIN_PARENT": str(os.getpid()),
            STARTED_RANKS: str(ranks),
            "PYTHONUNBUFFERED": "1",
        }
        command = [sys.executable, "-m", "hpctrain", *arguments]
        since = log.stat().st_size if log.exists() else 0
        if ranks > 1 and self.engine.kind == "mpi":
            command = [mpiexec(), "-n", str(ranks), *reaped(command)]
        if ranks == 1 or self.engine.kind == "mpi":
            return Processes([_spawn(command, environment, log)], log, since=since)
        meeting = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            "HPCTRAIN_WORLD_SIZE": str(ranks),
        }
        return Processes(
            [
                _spawn(
                    command,
                    {**environment, **meeting, "HPCTRAIN_RANK": str(r), "HPCTRAIN_LOCAL_RANK": str(r)},
                    log,
                )
                for r in range(ranks)
            ],
            log,
            since=since,
        )


class Processes:
    """Processes that live and die together: when one fails, the others are stopped."""

    def __init__(self, processes: list[subprocess.Popen[bytes]], log: Path, *, since: int = 0) -> None:
        self.processes = processes
        self.log = log
        self._failed: int | None = None
        self._leaving_since: float | None = None
        self._ended: tuple[int, int] | None = None
        """The first rank of mpiexec that failed, and its exit code as a shell has it."""
        self._stopped = False
        self._read = self._since = since
        """The log before this is of earlier jobs."""

    def poll(self) -> int | None:
        if self._failed is None and self._ended is None:
            self._look_for_an_end()
        codes = [process.poll() for process in self.processes]
        if self._failed is None and stopping.GO_ON_LATER in [*codes, self._ended and self._ended[1]]:
            return self._leaving(codes)
        if self._ended is not None:
            self._stop_once()
            return self._ended[1]
        # The one that was killed comes first: the others failed because of it.
        failed = sorted((rank for rank, code in enumerate(codes) if code), key=lambda rank: codes[rank] > 0)  # type: ignore[operator]
        if failed and self._failed is None:
            self._failed = failed[0]
            self._stop_once()
        if self._failed is not None:
            return self.processes[self._failed].returncode
        return None if None in codes else 0

    def _look_for_an_end(self) -> None:
        """Read on in the log for the word of a reaper."""
        with contextlib.suppress(OSError), self.log.open("rb") as stream:
            stream.seek(max(self._since, self._read - 100))
            text = stream.read()
            self._read = stream.tell()
            found = re.search((_END_LINE.format(rank=r"(\d+)", code=r"(\d+)") + "\n").encode(), text)
            self._ended = (int(found[1]), int(found[2])) if found else None

    def _stop_once(self) -> None:
        if not self._stopped:
            self._stopped = True
            self.stop()

    def _leaving(self, codes: list[int | None]) -> int | None:
        """Ranks that stop together end one after the other; the rest of a rank that ended alone is stopped."""
        self._leaving_since = self._leaving_since or time.monotonic()
        if None in codes and time.monotonic() - self._leaving_since < _PATIENCE_S:
            return None
        self._stop_once()
        return stopping.GO_ON_LATER

    def stop(self) -> None:
        # A rank asked once stops at its next step; asked again, it ends at once.
        deadline = time.monotonic() + _PATIENCE_S
        while self._members() and time.monotonic() < deadline:
            self._signal(signal.SIGTERM)
            time.sleep(0.2)
        self._signal(signal.SIGKILL)
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE_S)

    def _members(self) -> list[int]:
        """Every living process of the sessions we started; mpiexec puts each rank into a group of its own."""
        sessions = {process.pid for process in self.processes}
        for process in self.processes:
            process.poll()
        found = []
        for pid in psutil.pids():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getsid(pid) in sessions and _lives(pid):
                    found.append(pid)
        return found

    def _signal(self, signum: signal.Signals) -> None:
        for pid in self._members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    def _first(self) -> tuple[int, int | None]:
        """The rank that failed first, and its exit code; negative: the signal that killed it."""
        if self._ended is not None:
            rank, code = self._ended
            return rank, (128 - code if code > 128 else code)
        rank = self._failed or 0
        return rank, self.processes[rank].returncode

    def killed_by(self) -> int | None:
        _, code = self._first()
        return -code if code is not None and code < 0 else None

    def obituary(self) -> str:
        rank, code = self._first()
        who = f"rank {rank}" if len(self.processes) > 1 or self._ended is not None else "the process"
        if code is not None and code < 0:
            return f"{who} was killed by signal {-code} ({signal.Signals(-code).name})"
        return f"{who} ended with exit code {code}"


def reaped(command: list[str]) -> list[str]:
    """``command`` under a shell that writes into the log how it failed, and as which rank."""
    return ["sh", "-c", _REAPER, "sh", *command]


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def mpiexec() -> str:
    """The mpiexec installed beside this Python, else the first on the PATH. Raises ``UserError``."""
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        raise UserError(
            "launch.ranks > 1 with the mpi engine needs mpiexec, and there is none",
            hint="pip install 'hpctrain[mpi]', or set launch.engine=gloo",
        )
    return found


def _spawn(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output, stopping.held_back():
        # A session of its own: we find mpiexec, its proxies and the ranks by it, and Ctrl-C reaches only us.
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
