"""Watching over the ranks of one step: requests to stop, ranks that die or hang, and what is said of their end."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpctrain import stopping
from hpctrain.errors import InternalError, LostRank, Stopped, UserError
from hpctrain.files import read_json, write_atomically
from hpctrain.launch.base import Job
from hpctrain.run import RunDirectory
from hpctrain.steps import Step


def clear(run: RunDirectory, step: Step, log: Path) -> None:
    """Remove what the processes of an earlier attempt said of themselves."""
    said = [pattern for suffix in ("json", "beat") for pattern in run.logs.glob(f"{step.name}.*.{suffix}")]
    for stale in (log, run.progress_path(step.name), run.stop_path(step.name), *said):
        stale.unlink(missing_ok=True)


def supervise(
    run: RunDirectory,
    step: Step,
    job: Job,
    log: Path,
    warned: stopping.Warned,
    show: Callable[[dict[str, Any]], None],
    look: Callable[[], None] = lambda: None,
) -> None:
    """Wait until every rank has succeeded; ``show`` is told of their progress, ``look`` is called again and again.

    Raises ``Stopped`` when they stopped because a signal came (to them or to us), ``LostRank`` when one was killed
    or hangs, else the error that a rank left. However it ends, no process of the job is left.
    """
    try:
        code = _wait(run, step, job, warned, show, look)
        look()
    except BaseException:
        job.stop()
        raise
    if code != 0:
        error = _failure(run, step, job, code, log)
        if warned.signals and isinstance(error, LostRank):  # all of the job was being ended, mpiexec too
            raise stopped(step, "at once", f"{warned.signals[0]} to hpctrain") from error
        raise error


def stopped(step: Step, where: str, reason: str) -> Stopped:
    """The one line of a step that stopped because it was asked to."""
    return Stopped(
        f"{step.name} stopped {where} ({reason}); the same command (without --force) goes on from there"
    )


def _wait(
    run: RunDirectory,
    step: Step,
    job: Job,
    warned: stopping.Warned,
    show: Callable[[dict[str, Any]], None],
    look: Callable[[], None],
) -> int:
    asked = False
    while (code := job.poll()) is None:
        signals = warned.signals
        if signals and not asked and step.stops_when_asked(run.experiment):
            write_atomically(run.stop_path(step.name), f"{signals[0]} to hpctrain")
            asked = True
        elif len(signals) > asked:
            raise stopped(step, "at once", f"{' and '.join(signals)} to hpctrain")
        _require_no_hang(run, step)
        _show_progress(run, step, show)
        look()
        time.sleep(0.1)
    return code


def _require_no_hang(run: RunDirectory, step: Step) -> None:
    try:
        note = read_json(run.hang_path(step.name))
    except UserError:  # never seen; a file system without whole renames
        return
    if note is not None:
        raise LostRank(f"{step.name}: {note['message']}", hint=_again(run))


def _show_progress(run: RunDirectory, step: Step, show: Callable[[dict[str, Any]], None]) -> None:
    try:
        record = read_json(run.progress_path(step.name))
    except UserError:
        return
    if record is not None:
        show(record)


def _again(run: RunDirectory) -> str:
    return f"`hpctrain run {run.path}` goes on from what is whole"


def _failure(run: RunDirectory, step: Step, job: Job, code: int, log: Path) -> UserError | Stopped:
    """That it stopped as asked; what a rank said of itself; who was lost; else an error of ours; else how it ended."""
    mark = read_json(run.stopped_path(step.name))
    if mark is not None:
        return stopped(step, f"after {mark['step']} steps", mark["reason"])
    _require_no_hang(run, step)
    killer = job.killed_by()
    if code == stopping.GO_ON_LATER or killer in stopping.STOP_SIGNALS:
        reason = "a rank was told to end" if killer is None else f"{signal.Signals(killer).name} to a rank"
        return stopped(step, "at once", reason)
    texts = [path.read_text().strip() for path in sorted(run.logs.glob(f"{step.name}.rank-*.error.json"))]
    errors = [json.loads(text) for text in texts if text]
    told = [error for error in errors if error["user"]]
    if told:
        return UserError(f"{step.name}: {told[0]['message']}", hint=told[0]["hint"])
    if errors and killer is None:
        first = errors[0]
        return InternalError(
            f"{step.name}: internal error on rank {first['rank']}: {first['message']}",
            hint=f"The traceback is in {log}; please report it. {_again(run)}",
        )
    return LostRank(
        f"{step.name}: {job.obituary()}; nothing finished is lost", hint=f"See {log}. {_again(run)}"
    )
