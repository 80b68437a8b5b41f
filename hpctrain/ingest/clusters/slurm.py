"""Workers in Slurm jobs, submitted with dask-jobqueue; the scheduler runs where hpctrain runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt

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
from hpctrain.registry import register

JOB_NAME = "hpctrain-"
"""How the names of all jobs begin; the rest is one cluster's."""


def _clock(value: Any) -> Any:
    """YAML takes 02:00:00 without quotes for 7200."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value // 3600:02d}:{value // 60 % 60:02d}:{value % 60:02d}"
    return value


Walltime = Annotated[str, BeforeValidator(_clock), Field(pattern=r"^(\d+-)?\d{1,3}(:\d{2}){1,2}$")]


@register("clusters")
class SlurmJobs:
    """Jobs of one or more workers each; one that ends (time limit, preemption, a lost node) is replaced."""

    class Config(ComponentConfig):
        kind: Literal["slurm"] = "slurm"
        partition: str | None = None
        """Queue to submit to; None leaves it to Slurm, like the account."""
        account: str | None = None
        """Account that the time is charged to."""
        walltime: Walltime = "01:00:00"
        """Time limit of a job as Slurm writes it (or in seconds), longer than the longest task. A job that reaches it is
        replaced; short ones start sooner."""
        jobs: PositiveInt = 1
        """Jobs to submit; ``generate.workers``, where it is given, is the number of workers in all instead."""
        processes: PositiveInt = 1
        """Workers of a job, which runs on one node: as many as a node has cores, when whole nodes are given out."""
        cores: PositiveInt | None = None
        """CPUs to ask for; None asks for one for each worker."""
        memory: Memory = "2GB"
        """Of each worker; a job asks for ``processes`` times as much. A worker that needs more is ended and its task
        done again."""
        interface: str | None = None
        """Network by which workers reach hpctrain, as ``ip address`` calls it (ib0, hsn0); None takes the one that
        leads outside."""
        extra: tuple[str, ...] = ()
        """More directives of the job, such as ``--qos=debug`` or ``--constraint=cpu``."""
        skip: tuple[str, ...] = ()
        """Directives to leave out because the site refuses them: every one that contains such a text, say ``--mem``."""
        prologue: tuple[str, ...] = ()
        """Shell lines before the workers start, such as ``module load python``."""
        death_timeout_s: Seconds = 60.0
        """A worker that cannot reach hpctrain for so long ends, and its job with it."""
        check_s: Seconds = 15.0
        """Time between two looks at the queue."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self) -> None:
        """Raise ``UserError`` when a package or Slurm is missing; imports nothing."""
        require_dask()
        require("dask_jobqueue", "dask-jobqueue", "cluster")
        require_interface(self.config.interface)
        for command in ("sbatch", "squeue", "scancel"):
            if shutil.which(command) is None:
                raise UserError(
                    f"generate.cluster is slurm, but there is no {command} here",
                    hint="Start hpctrain on a login or compute node of the cluster, or set generate.cluster=local",
                )

    def workers(self, asked: int | None) -> int:
        """As asked, else as many as ``jobs`` have."""
        return asked or self.config.jobs * self.config.processes

    @contextmanager
    def connect(self, workers: int, scratch: Path, logs: Path) -> Iterator[Connection]:
        """As many jobs as ``workers`` need. All are cancelled when the block ends or this process does."""
        from distributed import Client

        logs = logs.resolve() / "workers"
        if re.search(r"\s", f"{scratch.resolve()}{logs}"):
            raise UserError(
                f"{scratch.resolve()} has a space in its name, which job scripts cannot take",
                hint="output=FOLDER without spaces",
            )
        name = JOB_NAME + uuid.uuid4().hex[:12]
        with (
            dask_folder(scratch) as folder,
            self._cluster(name, folder, logs) as cluster,
            at_our_end(["scancel", "--quiet", f"--name={name}"]),
            Client(cluster) as client,  # type: ignore[no-untyped-call]
        ):
            jobs = _Jobs(self.config, cluster, -(-workers // self.config.processes), name, logs)
            try:
                jobs.submit()
                yield Connection(client, cluster.scheduler, jobs.keep)
            finally:
                jobs.let_go()

    def _cluster(self, name: str, folder: Path, logs: Path) -> Any:
        from dask_jobqueue import SLURMCluster  # type: ignore[attr-defined]

        config = self.config
        size = re.match(r"[\d.]+", config.memory)
        amount = float(size[0] if size else 0) * config.processes
        security = credentials(folder)
        variables = [f"export {key}={value}" for key, value in worker_environment(security).items()]
        return SLURMCluster(
            job_name=name,
            queue=config.partition,
            account=config.account,
            walltime=config.walltime,
            processes=config.processes,
            cores=config.processes,  # one thread a worker
            job_cpu=config.cores or config.processes,
            memory=f"{amount:.12g}{config.memory[size.end() if size else 0 :]}",
            interface=config.interface,
            scheduler_options=scheduler_options(None, config.interface),
            security=security,
            local_directory=str(folder),
            log_directory=str(logs),
            death_timeout=config.death_timeout_s,
            worker_extra_args=["--no-dashboard"],
            job_extra_directives=list(config.extra),
            job_directives_skip=list(config.skip),
            job_script_prologue=[*config.prologue, *variables],
            silence_logs="critical",
        )


class _Jobs:
    """Keeps a number of jobs in the queue."""

    def __init__(self, config: SlurmJobs.Config, cluster: Any, wanted: int, name: str, logs: Path) -> None:
        self.config = config
        self.cluster = cluster
        self.wanted = wanted
        self.name = name
        self.logs = logs
        self._arrived: set[str] = set()
        self._failed = 0
        self._look = time.monotonic()

    def submit(self) -> None:
        """Bring the jobs to the number wanted. Raises ``UserError`` with what sbatch says when it refuses them."""

        async def submitted() -> None:
            # What cluster.scale does, but what goes wrong is raised here and not in the background.
            while len(self.cluster.worker_spec) < self.wanted:
                self.cluster.worker_spec.update(self.cluster.new_worker_spec())
            await self.cluster

        try:
            self.cluster.sync(submitted)
        except RuntimeError as error:
            said = str(error).partition("stderr:")[2].strip() or str(error)
            raise UserError(
                f"Slurm refuses the jobs: {' '.join(said.split())[:500]}",
                hint="See the keys of generate.cluster (docs/generation.md); `sinfo` lists partitions",
            ) from error

    def keep(self) -> None:
        """Replace the jobs that have ended. Raises ``UserError`` when jobs end before their workers come."""
        for worker in list(self.cluster.scheduler.workers.values()):
            # "NAME" or, with several workers a job, "NAME-0", "NAME-1" …
            self._arrived.update({str(worker.name), str(worker.name).rpartition("-")[0]})
        if time.monotonic() < self._look + self.config.check_s:
            return
        self._look = time.monotonic()
        waiting = self._queue()
        if waiting is None:
            return
        ended = [name for name, job in self.cluster.workers.items() if job.job_id not in waiting]
        if not ended:
            return
        came = self._arrived.intersection(ended)
        self._arrived -= came  # the next job may have the name
        self._failed = 0 if came else self._failed + len(ended)
        if self._failed >= ALLOWED_FAILURES:
            raise UserError(
                f"{self._failed} Slurm jobs ended before their workers came: {last_words(self.logs)}",
                hint=f"See {self.logs}; finished parts are kept: the same command goes on from them",
            )
        self.let_go(ended)
        self.cluster.sync(self.cluster.scale_down, ended)
        try:
            self.submit()
        except UserError:
            # The controller may be away for a while; what runs goes on.
            self._failed += 1
            if self._failed >= ALLOWED_FAILURES:
                raise

    def let_go(self, names: Iterable[str] | None = None) -> None:
        """Have Dask take jobs (all) for closed: it would cancel them one by one, and we do it at once by their name."""
        from distributed import Status

        for name in list(self.cluster.workers) if names is None else names:
            job = self.cluster.workers[name]
            job.job_id, job.status = None, Status.closed

    def _queue(self) -> set[str] | None:
        """Numbers of our jobs that wait or run; None when Slurm does not answer."""
        try:
            done = subprocess.run(
                ["squeue", "--noheader", "--format=%A", f"--name={self.name}"],
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return set(done.stdout.split())
