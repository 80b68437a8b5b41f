"""The directory of a sweep: the run directory of its experiment, which has the events, and one below for each trial.

runs/SWEEP/
  sweep.yaml              the resolved sweep
  config.yaml data/ …     the experiment, of which only the events are made
  trials/0007/            an ordinary run directory, reading runs/SWEEP/data
  trials/0007.json        its parameters, and the one line of its failure
  sweep.json sweep.png    the result
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from hpctrain.config import Experiment
from hpctrain.errors import UserError
from hpctrain.files import read_json, write_atomically, write_json
from hpctrain.registry import nearest
from hpctrain.run import RunDirectory
from hpctrain.steps import STEPS, complete, differences, follows
from hpctrain.sweep.config import SweepConfig, changed, read_sweep
from hpctrain.sweep.searches.base import Past, Search, Told

SPEED = frozenset({"trials"})
"""Keys of a search that may differ in a sweep that has trials."""


@dataclass(frozen=True)
class Trial:
    """One trial that was at least begun."""

    number: int
    parameters: dict[str, Any]
    state: Literal["done", "failed", "begun"]
    """``begun``: stopped, killed, or at work now; the same command goes on with it."""
    value: float | None = None
    """Of the objective, when done."""
    error: str = ""
    """The one line of a failure."""
    seconds: float | None = None
    """Wall time of its finished steps, without the reading of the events."""


class Sweep:
    """One sweep on disk."""

    def __init__(self, path: Path, config: SweepConfig) -> None:
        self.path = path
        self.config = config
        self.base = Experiment.from_mapping(config.base, source=f"{path}: base")
        self.search: Search = config.search.build()

    @classmethod
    def open(cls, target: Path, overrides: Sequence[str] = ()) -> Sweep:
        """The sweep of a file, or of its directory; nothing is written. Raises ``UserError``."""
        file = target / "sweep.yaml" if target.is_dir() else target
        if target.is_dir() and not file.is_file():
            raise UserError(
                f"{target} has no sweep.yaml", hint="Start a sweep with `hpctrain sweep FILE.yaml`"
            )
        config = read_sweep(file, overrides)
        if target.is_dir():
            return cls(target, config)  # which may have been moved since it was made
        return cls(Experiment.from_mapping(config.base).output / config.name, config)

    def check(self) -> None:
        """Raise ``UserError`` for whatever of this sweep cannot be trained; nothing is written."""
        self.search.check(self.config.parameters)
        first = {key: axis.probes()[0] for key, axis in self.config.parameters.items()}
        for key, axis in self.config.parameters.items():
            for value in axis.probes():
                self._require(first | {key: value}, f"parameters.{key} = {value!r}")
        if not self.search.learns:
            for number in range(self.count):
                self._require(
                    self.search.parameters(self.config.parameters, number, self._past()), f"trial {number}"
                )
        self._refuse_other()

    def _require(self, parameters: Mapping[str, Any], what: str) -> None:
        self.experiment(0, parameters, f"sweep '{self.config.name}', {what}")

    def _refuse_other(self) -> None:
        """A sweep that has trials must be the one that this is."""
        file = self.path / "sweep.yaml"
        if not file.exists() or not any((self.path / "trials").glob("*.json")):
            return
        cure = f"Give name: NEW, or delete {self.path / 'trials'} to begin anew"
        try:
            before = Sweep(self.path, read_sweep(file))
        except UserError as error:
            raise UserError(f"{file} cannot be read any more: {error.message}", hint=cure) from error
        learnt = self.search.learns and any(trial.state == "done" for trial in before.trials())
        changes = differences(before._identity(learnt), self._identity(learnt))
        if changes:
            raise UserError(f"{self.path} has trials of another sweep ({'; '.join(changes)})", hint=cure)

    def _identity(self, learnt: bool) -> dict[str, Any]:
        """What trials follow from."""
        sections = dict.fromkeys(section for step in self.steps for section in STEPS[step].sections)
        configs = {name: getattr(self.base, name) for name in sections}
        search = self.config.search
        dumped = self.config.model_dump(mode="json")
        return {
            "base": {"seed": self.base.seed}
            | {name: c.model_dump(mode="json", exclude=set(c.speed_keys)) for name, c in configs.items()},
            "search": search.model_dump(mode="json", exclude=set(SPEED)),
            "parameters": dumped["parameters"],
        } | ({"objective": dumped["objective"]} if learnt else {})

    def record(self) -> None:
        """Write down what is searched."""
        dumped = self.config.model_dump(mode="json")
        write_atomically(
            self.path / "sweep.yaml", yaml.safe_dump(dumped, sort_keys=False, allow_unicode=True)
        )

    @property
    def run(self) -> RunDirectory:
        """The run whose events the trials read."""
        return RunDirectory(self.path, self.base)

    @property
    def count(self) -> int:
        """How many trials there are to be."""
        return self.search.count(self.config.parameters)

    @property
    def steps(self) -> tuple[str, ...]:
        """Those that each trial does: the one of the objective, and those it follows from."""
        last = self.config.objective.step
        return tuple(name for name in STEPS if name == last or (follows(last, {name}) and name != "report"))

    @cached_property
    def shares_events(self) -> bool:
        """Whether all trials read the same events; not when a key of their generation is swept."""
        return not any(key.partition(".")[0] == "generate" for key in self.config.parameters)

    def trial_path(self, number: int) -> Path:
        return self.path / "trials" / f"{number:04d}"

    def experiment(self, number: int, parameters: Mapping[str, Any], source: str = "") -> Experiment:
        """The experiment of one trial. Raises ``UserError`` when its parameters are refused."""
        source = source or f"sweep '{self.config.name}', trial {number}"
        data = changed(self.base.model_dump(mode="json"), parameters, source)
        path = self.trial_path(number)
        data |= {"name": path.name, "output": str(path.parent)}
        if self.shares_events:
            data["generate"] = {"kind": "shards", "path": str(self.run.data.resolve())}
        return Experiment.from_mapping(data, source=source)

    def parameters(self, number: int) -> dict[str, Any]:
        """Those of a trial: as it was begun with, else as the search has them."""
        record = self._record(number)
        if record is not None:
            return dict(record["parameters"])
        return self.search.parameters(self.config.parameters, number, self._past())

    def begin(self, number: int, parameters: Mapping[str, Any]) -> None:
        """Write down that a trial begins."""
        self._write(number, {"number": number, "parameters": parameters})

    def fail(self, number: int, error: str) -> None:
        """Write down why a trial failed."""
        self._write(number, {**(self._record(number) or {}), "error": error})

    def learn(self) -> None:
        """Tell the search what has ended."""
        if self.search.learns:
            self.search.learn(self.config.parameters, self._past())

    def trial(self, number: int) -> Trial | None:
        """What became of a trial, None when it was not begun. Raises ``UserError`` when it lacks the objective."""
        record = self._record(number)
        if record is None:
            return None
        parameters = dict(record["parameters"])
        run = RunDirectory(self.trial_path(number))
        records = {step: run.step_record(step) for step in self.steps}
        wall = [
            r["wall_s"]
            for step, r in records.items()
            if r and not (step == "generate" and self.shares_events)
        ]
        seconds = sum(wall) if wall else None
        last = records[self.config.objective.step]
        if last is not None and complete(run, STEPS[self.config.objective.step]):
            value = self._value(run, last["summary"])
            if value is not None:
                return Trial(number, parameters, "done", value, seconds=seconds)
            error = f"{self.config.objective.metric} is no finite number"
            return Trial(number, parameters, "failed", error=error, seconds=seconds)
        if record.get("error"):
            return Trial(number, parameters, "failed", error=record["error"], seconds=seconds)
        return Trial(number, parameters, "begun", seconds=seconds)

    def trials(self) -> Iterator[Trial]:
        """Every trial that was begun, in order."""
        numbers = sorted(int(p.stem) for p in (self.path / "trials").glob("*.json") if p.stem.isdigit())
        for number in numbers:
            trial = self.trial(number)
            if trial is not None:
                yield trial

    def _past(self) -> Past:
        told = [
            Told(trial.number, trial.parameters, trial.value)
            for trial in (self.trials() if self.search.learns else ())
            if trial.state != "begun"
        ]
        return Past(told, self.config.objective.direction, self.path)

    def _value(self, run: RunDirectory, summary: Mapping[str, Any]) -> float | None:
        value: Any = summary
        metric = self.config.objective.metric
        for part in metric.split(".")[1:]:
            value = value.get(part, ...) if isinstance(value, Mapping) else ...
        if isinstance(value, Mapping):  # a figure with its error
            value = value.get("value", ...)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            known = sorted(_numbers(summary, self.config.objective.step))
            raise UserError(
                f"objective.metric: the summary of {run.path} has no number '{metric}'",
                hint=nearest(metric, known, "there are"),
            )
        return float(value) if math.isfinite(value) else None

    def _record(self, number: int) -> dict[str, Any] | None:
        path = self._record_path(number)
        record: dict[str, Any] | None = read_json(path, hint="Delete it: the trial is then begun anew")
        if record is not None and not (
            isinstance(record, dict) and isinstance(record.get("parameters"), dict)
        ):
            raise UserError(f"{path} is no record of a trial", hint="Delete it: the trial is then begun anew")
        return record

    def _write(self, number: int, record: Mapping[str, Any]) -> None:
        write_json(self._record_path(number), record)

    def _record_path(self, number: int) -> Path:
        return self.path / "trials" / f"{number:04d}.json"


def _numbers(summary: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in summary.items():
        name = f"{prefix}.{key}"
        if isinstance(value, Mapping):
            yield from [name] if isinstance(value.get("value"), int | float) else _numbers(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name
