"""The steps of a run: what each depends on, needs and leaves, and whether a run directory may take an experiment."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpctrain.config import Experiment
from hpctrain.errors import UserError
from hpctrain.files import read_json
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

    def stops_when_asked(self, experiment: Experiment) -> bool:
        """Whether its component looks for a request to stop itself, and leaves what it can go on from."""
        return bool(getattr(getattr(experiment, self.sections[0]).owner, "stops_when_asked", False))


STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step("generate", "Generate events", ("generate",), (), ("data",)),
        Step(
            "train",
            "Train",
            ("training", "task", "data"),
            ("generate",),
            ("checkpoints", "profile"),
            parallel=True,
        ),
        Step("evaluate", "Evaluate", ("evaluate",), ("train",), ("evaluation",)),
        Step("compress", "Prune and quantise", ("compress",), ("train",), ("compressed",), parallel=True),
        Step("firmware", "Emit firmware", ("firmware",), ("compress",), ("firmware",)),
        Step("report", "Write the report", ("report",), (), ("report.html", "figures")),
    )
}
"""By name, in the order of a run."""


def fingerprint(name: str, experiment: Experiment, run: RunDirectory) -> str:
    """What the result of a step follows from: seed, sections, and the same of the steps before it.

    The report shows whatever is there, so it follows from every other step that is finished.
    """
    step = STEPS[name]
    parts: list[Any] = [name, experiment.seed]
    for section in step.sections:
        config = getattr(experiment, section)
        parts.append(config.model_dump(mode="json", exclude=set(config.speed_keys)))
    inputs = getattr(getattr(experiment, step.sections[0]).build(), "inputs", None)
    if inputs is not None:  # what the component reads from outside the run
        parts.append(inputs())
    parts += [fingerprint(before, experiment, run) for before in step.after]
    if name == "report":
        parts += [run.step_record(other) for other in STEPS if other != name]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def follows(name: str, others: set[str]) -> bool:
    """Whether the step reads, directly or not, what one of ``others`` leaves."""
    return any(before in others or follows(before, others) for before in STEPS[name].after)


def begun(run: RunDirectory, name: str) -> dict[str, Any] | None:
    """What an unfinished step was begun with."""
    record: dict[str, Any] | None = read_json(run.steps / f"{name}.begun")
    return record


def complete(run: RunDirectory, step: Step) -> bool:
    """Whether the main output of a step is there."""
    return (run.path / step.outputs[0]).exists()


def open_run(path: Path, experiment: Experiment, steps: Sequence[str], *, force: bool) -> RunDirectory:
    """The run directory ``path``, new or gone on with, for an experiment; nothing is written yet.

    Raises ``UserError`` when steps that are finished (or begun) there had other inputs, unless ``force`` and they
    are among ``steps`` or follow from them.
    """
    run = RunDirectory(path, experiment)
    if not run.config_path.exists():
        if path.exists() and {item.name for item in path.iterdir()} - {".lock", ".ranks"}:
            raise UserError(f"{path} exists and is no run directory", hint="Give name=NEW or output=DIR")
        return run
    redone = set(steps) if force else set()
    redone |= {name for name in STEPS if follows(name, redone)}
    if redone == set(STEPS) - {"report"} or redone == set(STEPS):
        return run
    needed = {name for name in STEPS if name in steps or any(follows(step, {name}) for step in steps)}
    for name in STEPS:
        state = run.step_record(name) or begun(run, name)
        if name == "report" or name in redone or state is None:
            continue
        if state["fingerprint"] == fingerprint(name, experiment, run):
            continue
        try:
            before = Experiment.load(run.config_path)
        except UserError as error:
            changes = f"which cannot be read any more: {error}"
        else:
            changes = "; ".join(_changes(name, before, experiment))
        if changes:
            raise UserError(
                f"{path} holds another configuration: step '{name}' was done with other inputs ({changes})",
                hint=f"Give name=NEW for another run, or `hpctrain {name} {path} … --force` to do it again",
            )
        if name in needed:
            raise UserError(
                f"{path}: step '{name}' was done by another version of hpctrain, which had other settings",
                hint=f"`hpctrain {name} {path} --force` does it again",
            )
    return run


def _changes(name: str, before: Experiment, after: Experiment) -> list[str]:
    """``key: old → new`` of every key that differs and that the step follows from."""
    steps = [step for step in STEPS.values() if step.name == name or follows(name, {step.name})]
    sections = {"seed", *(section for step in steps for section in step.sections)}
    return differences(*(e.model_dump(mode="json", include=sections) for e in (before, after)))


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """``key: old → new`` of every dotted key in which two configurations (as JSON) differ."""
    old, new = _flat(before), _flat(after)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    # Another kind has other keys: its name says it all.
    kinds = [key.removesuffix("kind") for key in keys if key.endswith(".kind") or key == "kind"]
    keys = [k for k in keys if not any(k.startswith(kind) and k != kind + "kind" for kind in kinds)]
    return [f"{key}: {_shown(old, key)} → {_shown(new, key)}" for key in keys]


def _shown(values: dict[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else "absent"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {
            k: v
            for name, sub in value.items()
            for k, v in _flat(sub, f"{prefix}.{name}" if prefix else name).items()
        }
    return {prefix: value}
