"""Doing the trials of a sweep: the events once, then trial after trial or several at once; each an ordinary run."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, Protocol

from hpctrain import machine
from hpctrain.config import Experiment
from hpctrain.errors import InUse, Stopped, UserError
from hpctrain.launch.base import Launcher
from hpctrain.pipeline import Display, perform
from hpctrain.run import RunDirectory
from hpctrain.steps import STEPS, complete, open_run
from hpctrain.stopping import Warned
from hpctrain.sweep.directory import Sweep, Trial

HOPELESS = 3
"""So many trials that fail, and none that does not, end a sweep: what is wrong is wrong with all of them."""


_ASKING = threading.Lock()
"""Threads of this process ask a search one after the other; other processes are the search's own business."""


class Watcher(Protocol):
    """What the user sees while trials run; called from several threads."""

    def began(self, number: int, parameters: Mapping[str, Any]) -> Display: ...

    def ended(self, trial: Trial) -> None: ...

    def passed_over(self, number: int, why: str) -> None: ...


def prepare(sweep: Sweep, display: Display, warned: Warned) -> None:
    """Write down what is searched, and make the events that all trials read, unless that is done.

    Raises ``UserError`` when the directory is something else's, or its events are other ones.
    """
    steps = ["generate"] if sweep.shares_events else []
    launcher: Launcher = sweep.base.launch.build()
    launcher.check(parallel=True)
    with sweep.run.lock():
        run = open_run(sweep.path, sweep.base, steps, force=False)
        if not run.config_path.exists():
            run.record()
        sweep.record()
        perform(run, steps, launcher, display, warned=warned)


def require_prepared(sweep: Sweep, command: str) -> None:
    """Raise ``UserError`` when a trial cannot begin by itself: ``command`` is what prepares it."""
    made = sweep.run.step_record("generate") is not None and complete(sweep.run, STEPS["generate"])
    if not (sweep.path / "sweep.yaml").exists() or (sweep.shares_events and not made):
        raise UserError(
            f"the events that the trials of {sweep.path} read are not there yet",
            hint=f"`{command}` makes them",
        )


def left(sweep: Sweep, *, retry_failed: bool) -> list[int]:
    """Numbers of the trials that are to be done, or gone on with."""
    known = {trial.number: trial.state for trial in sweep.trials()}
    passed = {"done"} if retry_failed else {"done", "failed"}
    return [number for number in range(sweep.count) if known.get(number) not in passed]


def search(sweep: Sweep, numbers: Sequence[int], watcher: Watcher, warned: Warned, *, jobs: int = 1) -> None:
    """Do these trials, ``jobs`` at a time, which share the cores; a trial that fails is written down and left.

    Raises ``Stopped`` when a stop signal came, ``UserError`` when going on makes no sense. What was finished stays.
    """
    jobs = max(1, min(jobs, len(numbers)))
    queue = _Queue(numbers)
    failures: list[Trial] = []

    def work() -> None:
        for number in queue:
            if warned.signals:
                return
            trial = do_trial(sweep, number, watcher, warned, share=jobs)
            if trial is not None and trial.state == "failed":
                failures.append(trial)
                if len(failures) >= HOPELESS and not any(t.state == "done" for t in sweep.trials()):
                    raise UserError(
                        f"{len(failures)} trials failed and none was done; the last: {trial.error}",
                        hint="Mend it, then give --retry-failed",
                    )

    pool = ThreadPoolExecutor(jobs)
    workers = [pool.submit(work) for _ in range(jobs)]
    try:
        wait(workers, return_when=FIRST_EXCEPTION)
        errors = [error for worker in workers if worker.done() and (error := worker.exception()) is not None]
        if errors and not warned.signals:
            warned.signals.append("the end of another trial")
    except BaseException:
        warned.signals += ["Ctrl-C", "Ctrl-C"]  # ends each trial at once
        raise
    finally:
        pool.shutdown()
    mistakes = [error for error in errors if not isinstance(error, Stopped)]
    if mistakes:
        raise mistakes[0]
    if errors or warned.signals:
        done = sum(trial.state == "done" for trial in sweep.trials())
        reason = str(errors[0]).partition(";")[0] if errors else f"{warned.signals[0]} to hpctrain"
        raise Stopped(
            f"sweep stopped with {done} of {sweep.count} trials done ({reason}); the same command goes on"
        )


def do_trial(sweep: Sweep, number: int, watcher: Watcher, warned: Warned, *, share: int = 1) -> Trial | None:
    """Do one trial, or go on with it, as one of ``share`` at once on this machine; None when another process has it.

    A failure is written down and told, not raised. Raises ``Stopped``.
    """
    path = sweep.trial_path(number)
    with contextlib.ExitStack() as held:
        with _ASKING:
            try:
                held.enter_context(RunDirectory(path).lock())
            except InUse as error:
                watcher.passed_over(number, error.message)
                return None
            parameters = sweep.parameters(number)
            sweep.begin(number, parameters)
        display = watcher.began(number, parameters)
        try:
            experiment = sweep.experiment(number, parameters)
            run = open_run(path, experiment, sweep.steps, force=False)
            perform(run, sweep.steps, _launcher(experiment, share), display, warned=warned)
        except UserError as error:
            sweep.fail(number, str(error))
    with _ASKING:
        sweep.learn()
    trial = sweep.trial(number)
    if trial is not None:
        watcher.ended(trial)
    return trial


def _launcher(experiment: Experiment, share: int) -> Launcher:
    """The launcher of a trial that has only its share of the cores, unless its threads are given."""
    config = experiment.launch
    if share > 1 and getattr(config, "threads", 0) is None:
        threads = max(1, machine.cores() // (share * getattr(config, "ranks", 1)))
        config = config.model_copy(update={"threads": threads})
    launcher: Launcher = config.build()
    return launcher


class _Queue:
    """Numbers that threads take one after the other."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = iter(numbers)
        self._lock = threading.Lock()

    def __iter__(self) -> _Queue:
        return self

    def __next__(self) -> int:
        with self._lock:
            return next(self._numbers)
