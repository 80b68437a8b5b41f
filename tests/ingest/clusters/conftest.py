"""A Slurm of our own: a controller and some nodes, all on this machine, for as long as the tests last."""

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo", "scontrol")


class Slurm:
    """Real daemons of Debian's slurm-wlm and munge in a folder, on ports of their own; needs root.

    ``partitions`` gives each partition's options as slurm.conf has them; the first is the default.
    """

    def __init__(
        self,
        folder: Path,
        *,
        nodes: Sequence[str] = ("node1", "node2"),
        cpus: int = 2,
        memory_mb: int = 4000,
        partitions: Mapping[str, str] | None = None,
        task_plugin: str = "task/none",
    ) -> None:
        self.folder = folder
        self.nodes = nodes
        self.cpus = cpus
        self.memory_mb = memory_mb
        self.task_plugin = task_plugin
        self.partitions = partitions or {"main": "MaxTime=INFINITE"}
        self._daemons: list[int] = []

    @property
    def environment(self) -> dict[str, str]:
        """What makes sbatch and its like speak to this Slurm."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def __call__(self, *command: str) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def jobs(self, name: str | None = None) -> dict[str, str]:
        """Jobs that wait or run: number → state."""
        only = [f"--name={name}"] if name else []
        lines = self("squeue", "--noheader", "--format=%i %T", *only).splitlines()
        return dict(line.split() for line in lines)

    def cancel_all(self, within_s: float = 30.0) -> None:
        """Cancel every job and wait until it is gone. Raises ``RuntimeError`` when one stays."""
        self("scancel", f"--user={getpass.getuser()}")
        until = time.monotonic() + within_s
        while jobs := self.jobs():
            if time.monotonic() > until:
                raise RuntimeError(f"jobs stay: {jobs}")
            time.sleep(0.05)

    def start(self) -> None:
        """Start all daemons and wait until every node is idle."""
        with ExitStack() as failing:
            failing.callback(self.stop)
            for name in ("state", "spool", "munge"):
                (self.folder / name).mkdir()
            key = self.folder / "munge" / "key"
            key.write_bytes(secrets.token_bytes(1024))
            key.chmod(0o400)
            munge = [
                f"--{what}={self.folder / 'munge' / what}" for what in ("pid-file", "log-file", "seed-file")
            ]
            # --force: the folder is ours alone, which munged thinks too strict for a socket.
            self._run("munged", "--force", f"--key-file={key}", f"--socket={self._socket}", *munge)
            (self.folder / "slurm.conf").write_text(self._configuration())
            self._run("slurmctld")
            for node in self.nodes:
                (self.folder / "spool" / node).mkdir()
                self._run("slurmd", "-N", node)
            self._wait_for_nodes()
            failing.pop_all()

    def stop(self) -> None:
        """End every job and every daemon, and wait until they are gone."""
        with suppress(RuntimeError):
            self.cancel_all()
        pids = [int(path.read_text()) for path in self._pid_files() if path.read_text().strip()]
        for signum, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signum)
            until = time.monotonic() + patience
            while time.monotonic() < until and any(Path(f"/proc/{pid}").exists() for pid in pids):
                time.sleep(0.05)

    def _pid_files(self) -> list[Path]:
        return [*self.folder.glob("slurm*.pid"), *self.folder.glob("munge/pid-file")]

    @property
    def _socket(self) -> Path:
        return self.folder / "munge" / "socket"

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in self.folder.glob("*.log"))
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}\n{logs}")

    def _wait_for_nodes(self) -> None:
        until = time.monotonic() + 30
        while len(set(self("sinfo", "--Node", "--noheader", "--states=idle", "--format=%N").split())) < len(
            self.nodes
        ):
            if time.monotonic() > until:
                raise RuntimeError(f"nodes do not come up: {self('sinfo', '--Node', '--long')}")
            time.sleep(0.1)

    def _configuration(self) -> str:
        host = socket.gethostname().partition(".")[0]
        controller, *ports = _free_ports(1 + len(self.nodes))
        at = self.folder
        options = {
            "ClusterName": "test",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmctldPort": controller,
            "SlurmUser": "root",
            "AuthInfo": f"socket={self._socket}",
            "StateSaveLocation": at / "state",
            "SlurmdSpoolDir": at / "spool" / "%n",
            "TmpFS": at / "spool" / "%n",
            "SlurmctldPidFile": at / "slurmctld.pid",
            "SlurmdPidFile": at / "slurmd-%n.pid",
            "SlurmctldLogFile": at / "slurmctld.log",
            "SlurmdLogFile": at / "slurmd-%n.log",
            "JobCompType": "jobcomp/filetxt",
            "JobCompLoc": at / "jobs",
            # No cgroups, no systemd, no prolog: what a container has is enough.
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": self.task_plugin,
            "JobAcctGatherType": "jobacct_gather/none",
            "MpiDefault": "none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core",
            "SlurmdParameters": "config_overrides",
            "ReturnToService": 2,
            "KillWait": 2,
            "PreemptType": "preempt/partition_prio",
            "PreemptMode": "REQUEUE",
            "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,sched_min_interval=100000,bf_interval=1",
        }
        lines = [f"{key}={value}" for key, value in options.items()]
        lines += [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={self.cpus} "
            f"RealMemory={self.memory_mb} State=UNKNOWN"
            for node, port in zip(self.nodes, ports, strict=True)
        ]
        for number, (name, rules) in enumerate(self.partitions.items()):
            default = "YES" if number == 0 else "NO"
            lines.append(f"PartitionName={name} Nodes=ALL Default={default} State=UP {rules}")
        return "\n".join(lines) + "\n"


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Slurm]:
    """Two nodes of two CPUs. Fails, and does not skip, where Slurm cannot run: its tests are part of the suite."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.fail(f"no {', '.join(missing)}: apt-get install slurm-wlm munge (see .ci/run)")
    if os.geteuid() != 0:
        pytest.fail("slurmd needs root: run these tests in a container")
    # Not pytest's folder: a socket's path has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
        cluster = Slurm(Path(folder))
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def slurm(slurm_cluster: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """The Slurm of the session; commands started in the test speak to it. A test's jobs end with it."""
    for name, value in slurm_cluster.environment.items():
        monkeypatch.setenv(name, value)
    yield slurm_cluster
    slurm_cluster.cancel_all()
