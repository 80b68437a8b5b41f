"""The run directory: the whole record of an experiment, and all that later steps need.

runs/NAME/
  config.yaml        the resolved configuration
  environment.json   machine and versions
  metrics.jsonl      metrics of every step
  steps/STEP.json    what each finished step did, with which inputs, how long, how much memory
  logs/              what each step printed
  profile/           traces of a few training steps, when asked for
  tensorboard/       event files, when asked for
  data/ checkpoints/ evaluation/ compressed/ firmware/ figures/
  summary.json       the headline figures of every finished step
  report.html
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hpctrain import machine
from hpctrain.config import Experiment
from hpctrain.errors import InUse, UserError
from hpctrain.files import as_user_error, read_json, write_atomically, write_json
from hpctrain.track import Sink, Tracker, sinks


class RunDirectory:
    """One run on disk."""

    def __init__(self, path: Path, experiment: Experiment | None = None) -> None:
        self.path = path
        self.profile = False
        """Whether a trace of a few steps of training is asked for; of this command, not of the run."""
        self._experiment = experiment

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """A run directory that exists. Raises ``UserError`` when it is none."""
        run = cls(path)
        if not run.config_path.is_file():
            what = "has no config.yaml" if path.is_dir() else "does not exist"
            raise UserError(f"{path} {what}", hint="Start a run with `hpctrain run CONFIG.yaml`")
        return run

    @classmethod
    def create(cls, experiment: Experiment) -> "RunDirectory":
        """The run directory ``output/name`` of an experiment, written down."""
        run = cls(experiment.output / experiment.name, experiment)
        run.record()
        return run

    def record(self) -> None:
        """Write down the configuration and the machine, before a step is done with them."""
        write_atomically(self.config_path, self.experiment.to_yaml())
        write_json(self.path / "environment.json", machine.describe())
        try:
            for folder in (self.logs, self.steps):
                folder.mkdir(exist_ok=True)
            for torn in self.path.rglob(".*.tmp"):  # of writers that were killed
                torn.unlink(missing_ok=True)
        except OSError as error:
            raise as_user_error(error, self.path) from error

    @property
    def experiment(self) -> Experiment:
        """The configuration of this run."""
        if self._experiment is None:
            self._experiment = Experiment.load(self.config_path)
        return self._experiment

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def report_path(self) -> Path:
        return self.path / "report.html"

    @property
    def summary_path(self) -> Path:
        return self.path / "summary.json"

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation"

    @property
    def compressed(self) -> Path:
        return self.path / "compressed"

    @property
    def firmware(self) -> Path:
        return self.path / "firmware"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def traces(self) -> Path:
        return self.path / "profile"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def steps(self) -> Path:
        return self.path / "steps"

    def progress_path(self, step: str) -> Path:
        """Where the tracker of a step says how far it is."""
        return self.logs / f"{step}.progress"

    def stop_path(self, step: str) -> Path:
        """What hpctrain writes to have the ranks of a step stop; holds the reason."""
        return self.logs / f"{step}.stop"

    def stopped_path(self, step: str) -> Path:
        """Where a step that stopped as asked says why and after which step of training (JSON)."""
        return self.logs / f"{step}.stopped.json"

    def hang_path(self, step: str) -> Path:
        """Where a rank says that others do not come any more (JSON)."""
        return self.logs / f"{step}.hang.json"

    def tracker(self, step: str, *, active: bool = True) -> Tracker:
        """The tracker of a step: JSON lines, and what else the experiment asks for."""
        others: list[Sink] = []
        if active:
            experiment = self.experiment
            others = sinks(
                experiment.tracking, experiment.name, self.path, experiment.model_dump(mode="json")
            )
        return Tracker(step, self.metrics_path, self.progress_path(step), active=active, sinks=others)

    def step_record(self, step: str) -> dict[str, Any] | None:
        """What a finished step left (see ``finish_step``), None when it has not finished."""
        record: dict[str, Any] | None = read_json(self.steps / f"{step}.json")
        return record

    def finish_step(self, step: str, record: dict[str, Any]) -> None:
        """Record a finished step and bring ``summary.json`` up to date."""
        write_json(self.steps / f"{step}.json", {"step": step, **record})
        write_json(self.summary_path, self.summary())

    def summary(self) -> dict[str, Any]:
        """Headline figures of every finished step, by step."""
        records = [read_json(path) for path in sorted(self.steps.glob("*.json"))]
        return {record["step"]: record["summary"] for record in records}

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second hpctrain out of this directory; released by the system when the process ends.

        Raises ``InUse`` when there is one.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise as_user_error(error, self.path) from error
        try:
            if not _flock(descriptor, fcntl.LOCK_EX):
                owner = os.read(descriptor, 64).decode() or "?"
                raise InUse(
                    f"{self.path} is in use by another hpctrain (process {owner})",
                    hint="Wait for it, or start another run with name=NEW",
                )
            with contextlib.suppress(OSError):  # who holds it is a courtesy
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def hold_as_rank(self) -> None:
        """Called by every rank: until it ends, no other hpctrain starts a step here, whatever became of its parent."""
        descriptor = os.open(self.path / ".ranks", os.O_CREAT | os.O_RDWR, 0o644)
        _flock(descriptor, fcntl.LOCK_SH)

    def wait_for_ranks(self, patience_s: float = 30.0) -> None:
        """Wait until the ranks of an earlier hpctrain have ended. Raises ``UserError`` when they do not."""
        try:
            descriptor = os.open(self.path / ".ranks", os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise as_user_error(error, self.path / ".ranks") from error
        try:
            deadline = time.monotonic() + patience_s
            while not _flock(descriptor, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise UserError(
                        f"ranks of an earlier hpctrain still work in {self.path}",
                        hint="End them (`pgrep -fa 'hpctrain worker'`), then give the command again",
                    )
                time.sleep(0.2)
        finally:
            os.close(descriptor)


def _flock(descriptor: int, kind: int) -> bool:
    """Take a lock without waiting; a file system that has no locks is taken at its word."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}:
            raise
    return True
