"""The steps of a run: in order, each done once for the same inputs, each a process (or ranks) of its own.

The parent (`hpctrain run`, or a single step's command) decides what is to be done, starts the step through the
launcher and watches; ``hpctrain.worker`` is what each started process does.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hpctrain.config import Experiment
from hpctrain.errors import UserError
from hpctrain.files import read_json, write_json
from hpctrain.launch.base import Launcher
from hpctrain.run import RunDirectory


@dataclass(frozen=True)
class Step:
    """One step: which sections of the configuration it depends on, what it needs and what it leaves."""

    name: str
    title: str
    sections: tuple[str, ...]
    """Of the experiment; the first names the component that does the step."""
    after: tuple[str, ...]
    """Steps whose results it reads."""
    outputs: tuple[str, ...]
    """Files and folders of the run directory that are its alone."""
    parallel: bool = False
    """Works on all ranks of the launcher; otherwise one process."""


STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step("generate", "Generate events", ("generate",), (), ("data",)),
        Step("train", "Train", ("training", "task"), ("generate",), ("checkpoints",), parallel=True),
        Step("evaluate", "Evaluate", ("evaluate",), ("train",), ("evaluation",)),
        Step("compress", "Prune and quantise", ("compress",), ("train",), ("compressed",), parallel=True),
        Step("firmware", "Emit firmware", ("firmware",), ("compress",), ("firmware",)),
        Step("report", "Write the report", ("report",), (), ("report.html", "figures")),
    )
}
"""By name, in the order of a run."""


class Display(Protocol):
    """What the user sees while steps run."""

    def skipped(self, step: Step, record: dict[str, Any]) -> None: ...

    def started(self, step: Step, ranks: int, log: Path) -> None: ...

    def progress(self, record: dict[str, Any]) -> None: ...

    def finished(self, step: Step, record: dict[str, Any]) -> None: ...


def fingerprint(name: str, experiment: Experiment, run: RunDirectory) -> str:
    """What the result of a step follows from: seed, sections, and the same of the steps before it.

    The report shows whatever is there, so it follows from every other step that is finished.
    """
    step = STEPS[name]
    parts: list[Any] = [name, experiment.seed]
    for section in step.sections:
        config = getattr(experiment, section)
        parts.append(config.model_dump(mode="json", exclude=set(config.speed_keys)))
    parts += [fingerprint(before, experiment, run) for before in step.after]
    if name == "report":
        parts += [run.step_record(other) for other in STEPS if other != name]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def open_run(experiment: Experiment, steps: Sequence[str], *, force: bool) -> RunDirectory:
    """The run directory of an experiment, new or gone on with, its configuration brought up to date.

    Raises ``UserError`` when steps that are finished (or begun) there had other inputs, unless ``force`` and they
    are among ``steps`` or follow from them.
    """
    run = RunDirectory(experiment.output / experiment.name)
    if run.config_path.exists():
        redone = set(steps) if force else set()
        redone |= {name for name in STEPS if _follows(name, redone)}
        before = Experiment.load(run.config_path)
        for name in STEPS:
            if name == "report" or name in redone:
                continue
            state = run.step_record(name) or _begun(run, name)
            if state and state["fingerprint"] != fingerprint(name, experiment, run):
                changes = "; ".join(_changes(before, experiment)) or "the steps before it were done anew"
                raise UserError(
                    f"{run.path} holds another configuration: step '{name}' was done with other inputs ({changes})",
                    hint=f"Give name=NEW for another run, or `hpctrain {name} {run.path} … --force` to do it again",
                )
    elif run.path.exists() and any(run.path.iterdir()) and {p.name for p in run.path.iterdir()} != {".lock"}:
        raise UserError(f"{run.path} exists and is no run directory", hint="Give name=NEW or output=DIR")
    return RunDirectory.create(experiment)


def perform(
    run: RunDirectory, names: Sequence[str], launcher: Launcher, display: Display, *, force: bool = False
) -> None:
    """Do the steps named, in order; a step finished with the same inputs is passed over unless ``force``."""
    for name in names:
        step = STEPS[name]
        inputs = fingerprint(name, run.experiment, run)
        record = run.step_record(name)
        if record and not force and record["fingerprint"] == inputs and _complete(run, step):
            display.skipped(step, record)
            continue
        _require(run, step)
        _clear(run, step, inputs, force=force)
        _run_step(run, step, inputs, launcher, display)


def _require(run: RunDirectory, step: Step) -> None:
    for name in step.after:
        record = run.step_record(name)
        if record is None or not _complete(run, STEPS[name]):
            raise UserError(
                f"'{step.name}' needs the results of '{name}', which is not done in {run.path}",
                hint=f"`hpctrain {name} {run.path}`, or `hpctrain run {run.path}` for everything",
            )
        if record["fingerprint"] != fingerprint(name, run.experiment, run):
            raise UserError(
                f"'{name}' in {run.path} was done with other inputs than '{step.name}' would follow from",
                hint=f"`hpctrain {name} {run.path} --force`",
            )


def _complete(run: RunDirectory, step: Step) -> bool:
    return all((run.path / output).exists() for output in step.outputs[:1])


def _follows(name: str, redone: set[str]) -> bool:
    return any(before in redone or _follows(before, redone) for before in STEPS[name].after)


def _begun(run: RunDirectory, name: str) -> dict[str, Any] | None:
    """What an unfinished step was begun with."""
    record: dict[str, Any] | None = read_json(run.steps / f"{name}.begun")
    return record


def _clear(run: RunDirectory, step: Step, inputs: str, *, force: bool) -> None:
    """Remove what an earlier run of the step left, unless it was interrupted with the same inputs and goes on."""
    begun = _begun(run, step.name)
    goes_on = not force and begun is not None and begun["fingerprint"] == inputs
    run.forget_step(step.name)
    for name in STEPS:
        if _follows(name, {step.name}):
            run.forget_step(name)
    if not goes_on:
        for output in step.outputs:
            path = run.path / output
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    write_json(run.steps / f"{step.name}.begun", {"fingerprint": inputs})


def _run_step(run: RunDirectory, step: Step, inputs: str, launcher: Launcher, display: Display) -> None:
    log = run.logs / f"{step.name}.log"
    for stale in (log, run.progress_path(step.name), *run.logs.glob(f"{step.name}.*.json")):
        stale.unlink(missing_ok=True)
    started = time.time()
    clock = time.monotonic()
    display.started(step, launcher.ranks if step.parallel else 1, log)
    job = launcher.start(["worker", step.name, str(run.path)], log, parallel=step.parallel)
    try:
        while (code := job.poll()) is None:
            _show_progress(run, step, display)
            time.sleep(0.1)
    except BaseException:
        job.stop()
        raise
    if code != 0:
        raise _failure(run, step, job.obituary(), log)
    result = read_json(run.logs / f"{step.name}.result.json")
    if result is None:
        raise UserError(f"{step.name}: the process ended without a result", hint=f"See {log}")
    record = {
        "fingerprint": inputs,
        "started": started,
        "wall_s": time.monotonic() - clock,
        **result,
    }
    run.finish_step(step.name, record)
    (run.steps / f"{step.name}.begun").unlink(missing_ok=True)
    display.finished(step, record)


def _show_progress(run: RunDirectory, step: Step, display: Display) -> None:
    try:
        record = read_json(run.progress_path(step.name))
    except UserError:
        return
    if record is not None:
        display.progress(record)


def _failure(run: RunDirectory, step: Step, obituary: str, log: Path) -> UserError:
    """What a rank said before it ended; else how it ended."""
    errors = [read_json(path) for path in sorted(run.logs.glob(f"{step.name}.rank-*.error.json"))]
    told = [error for error in errors if error["user"]]
    if told:
        return UserError(f"{step.name}: {told[0]['message']}", hint=told[0]["hint"])
    again = f"`hpctrain run {run.path}` goes on from what is whole"
    if errors:
        first = errors[0]
        return UserError(
            f"{step.name}: internal error on rank {first['rank']}: {first['message']}",
            hint=f"The traceback is in {log}; please report it. {again}",
        )
    return UserError(f"{step.name}: {obituary}; nothing finished is lost", hint=f"See {log}. {again}")


def _changes(before: Experiment, after: Experiment) -> list[str]:
    """``key: old → new`` of every key that differs, launch and tracking left out."""
    old, new = (
        _flat(e.model_dump(mode="json", exclude={"launch", "tracking", "output", "name"}))
        for e in (before, after)
    )
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return [f"{key}: {old.get(key, 'absent')} → {new.get(key, 'absent')}" for key in keys]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {
            k: v
            for name, sub in value.items()
            for k, v in _flat(sub, f"{prefix}.{name}" if prefix else name).items()
        }
    return {prefix: value}
