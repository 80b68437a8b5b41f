"""Doing the steps of a run: in order, each once for the same inputs, each a process (or ranks) of its own.

The parent (`hpctrain run`, or a single step's command) decides what is to be done, starts the step through the
launcher and watches; ``hpctrain.worker`` is what each started process does.
"""

import shutil
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from hpctrain import machine
from hpctrain.data.curation.staging import folders
from hpctrain.errors import InternalError, LostRank, Stopped, UserError
from hpctrain.files import read_json, write_json
from hpctrain.launch.base import Launcher
from hpctrain.run import RunDirectory
from hpctrain.steps import STEPS, Step, begun, complete, fingerprint, follows
from hpctrain.stopping import Warned
from hpctrain.supervision import clear, stopped, supervise
from hpctrain.track import Follower, require_sinks


class Display(Protocol):
    """What the user sees while steps run."""

    def skipped(self, step: Step, record: dict[str, Any]) -> None: ...

    def started(self, step: Step, ranks: int, log: Path) -> None: ...

    def progress(self, record: dict[str, Any]) -> None: ...

    def warned(self, text: str) -> None: ...

    def finished(self, step: Step, record: dict[str, Any]) -> None: ...

    def restarted(self, step: Step, reason: str, attempt: int, attempts: int) -> None: ...


def perform(
    run: RunDirectory,
    names: Sequence[str],
    launcher: Launcher,
    display: Display,
    *,
    force: bool = False,
    max_restarts: int = 0,
    warned: Warned | None = None,
) -> None:
    """Do the steps named, in order; a step finished with the same inputs is passed over unless ``force``.

    What cannot start is refused before anything is touched. What a step left before is kept aside until the step
    has succeeded, and put back when the same step, done again, fails. A step that loses a rank (killed, hung) goes
    on from what is whole, ``max_restarts`` times. Raises ``Stopped`` when a stop signal came, to a rank or to
    ``warned``.
    """
    warned = warned or Warned()
    for name in names:
        step = STEPS[name]
        inputs = fingerprint(name, run.experiment, run)
        record = run.step_record(name)
        if record and not force and record["fingerprint"] == inputs and complete(run, step):
            display.skipped(step, record)
            if run.profile and run.traces.name in step.outputs:
                display.warned(f"{name} is done, so there is nothing to profile; --force does it again")
            continue
        if warned.signals:
            raise stopped(step, "before it began", f"{warned.signals[0]} to hpctrain")
        _require(run, step)
        launcher.check(parallel=step.parallel)
        owner = getattr(run.experiment, step.sections[0]).build()
        check = getattr(owner, "check", None)
        if check is not None:
            check()
        _refuse_own(run, step, owner)
        if step.parallel:
            folders(run.experiment)  # of a site that there is
        require_sinks(run.experiment.tracking)
        run.wait_for_ranks()
        run.record()
        earlier = _Earlier(run, step)
        unfinished = begun(run, name)
        write_json(run.steps / f"{name}.begun", {"fingerprint": inputs})
        if force or unfinished is None or unfinished["fingerprint"] != inputs:
            earlier.set_aside()
        try:
            for attempt in count(1):
                try:
                    _run_step(run, step, inputs, launcher, display, warned)
                    break
                except LostRank as error:
                    if attempt > max_restarts:
                        raise
                    display.restarted(step, error.message, attempt, max_restarts)
                    run.wait_for_ranks()
        except Stopped:  # what is new stays, to be gone on from
            raise
        except BaseException:
            if record is not None and record["fingerprint"] == inputs:
                earlier.put_back()
            raise
        earlier.drop()


def _require(run: RunDirectory, step: Step) -> None:
    for name in step.after:
        record = run.step_record(name)
        if record is None or not complete(run, STEPS[name]):
            raise UserError(
                f"'{step.name}' needs the results of '{name}', which is not done in {run.path}",
                hint=f"`hpctrain {name} {run.path}`, or `hpctrain run {run.path}` for everything",
            )
        if record["fingerprint"] != fingerprint(name, run.experiment, run):
            raise UserError(
                f"'{name}' in {run.path} was done with other inputs than '{step.name}' would follow from",
                hint=f"`hpctrain {name} {run.path} --force`",
            )


def _refuse_own(run: RunDirectory, step: Step, owner: Any) -> None:
    """What a step reads from outside the run must not be what it is about to replace."""
    reads: Sequence[Path] = owner.reads() if hasattr(owner, "reads") else ()
    for path in reads:
        for output in step.outputs:
            if path.resolve().is_relative_to((run.path / output).resolve()):
                raise UserError(
                    f"{path} is in {run.path / output}, which '{step.name}' of this run writes itself",
                    hint="Give name=NEW for a run that reads them, or move them elsewhere first",
                )


class _Earlier:
    """What an earlier run of a step left, and what followed from it: outputs and records."""

    def __init__(self, run: RunDirectory, step: Step) -> None:
        self.run = run
        self.step = step
        self.folder = run.path / ".before" / step.name
        # The report shows every step, so it goes with each of them.
        following = [name for name in STEPS if name in {step.name, "report"} or follows(name, {step.name})]
        outputs = [output for name in following for output in STEPS[name].outputs]
        self.names = [*outputs, *(f"steps/{name}.json" for name in following)]

    def set_aside(self) -> None:
        """Move it away; from here on the step and what follows are not done."""
        self.drop()
        for name in self.names:
            _move(self.run.path / name, self.folder / name)
        write_json(self.run.summary_path, self.run.summary())

    def put_back(self) -> None:
        """Bring it back in place of what a failed attempt left."""
        if not self.folder.exists():
            return
        for name in self.names:
            if (self.folder / name).exists():
                _remove(self.run.path / name)
                _move(self.folder / name, self.run.path / name)
        (self.run.steps / f"{self.step.name}.begun").unlink(missing_ok=True)
        write_json(self.run.summary_path, self.run.summary())
        self.drop()

    def drop(self) -> None:
        """Delete it."""
        _remove(self.folder)
        if self.folder.parent.exists() and not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()


def _move(source: Path, target: Path) -> None:
    if source.exists() or source.is_symlink():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _run_step(
    run: RunDirectory, step: Step, inputs: str, launcher: Launcher, display: Display, warned: Warned
) -> None:
    log = run.logs / f"{step.name}.log"
    clear(run, step, log)
    started = time.time()
    clock = time.monotonic()
    ranks = launcher.ranks if step.parallel else 1
    display.started(step, ranks, log)
    follower = Follower(run.metrics_path)
    words = ["worker", step.name, str(run.path), *(["--profile"] if run.profile else [])]
    job = launcher.start(words, log, parallel=step.parallel)
    supervise(run, step, job, log, warned, display.progress, lambda: _show_warnings(follower, display))
    result = read_json(run.logs / f"{step.name}.result.json")
    if result is None:
        raise InternalError(f"{step.name}: the process ended without a result", hint=f"See {log}")
    record = {
        "fingerprint": inputs,
        "started": started,
        "wall_s": time.monotonic() - clock,
        "ranks": ranks,
        "machine": machine.describe(),
        **result,
    }
    run.finish_step(step.name, record)
    (run.steps / f"{step.name}.begun").unlink(missing_ok=True)
    display.finished(step, record)


def _show_warnings(follower: Follower, display: Display) -> None:
    for line in follower.new():
        if line.get("event") == "warning":
            display.warned(str(line.get("text")))
