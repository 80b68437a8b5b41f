"""The schema of a sweep: which experiment, what of it is changed, how it is searched, and what is best."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from hpctrain.config import AnyComponent, Experiment, apply_override, component, section, set_key
from hpctrain.errors import UserError
from hpctrain.registry import nearest
from hpctrain.section import Section, describe, read_yaml
from hpctrain.steps import STEPS
from hpctrain.sweep.space import Axis

OWN_KEYS = frozenset({"name", "output"})
"""Keys of an experiment that a sweep sets itself, for each trial."""


class Objective(Section):
    """What is best."""

    metric: str = "train.validation_auc"
    """``STEP.key`` as it stands in ``summary.json`` of a run: trials do the steps to that one. Without a step it is
    one of ``train``."""
    direction: Literal["maximise", "minimise"] = "maximise"
    """Whether more is better."""

    @field_validator("metric")
    @classmethod
    def _check(cls, metric: str) -> str:
        step, dot, key = metric.partition(".")
        if not dot:
            step, key = "train", metric
        if step not in STEPS or step == "report" or not key:
            hint = nearest(step, [name for name in STEPS if name != "report"], "steps are")
            raise PydanticCustomError(
                "metric", "{step} is no step; {hint}", {"step": repr(step), "hint": hint}
            )
        return f"{step}.{key}"

    @property
    def step(self) -> str:
        """The step whose summary has it."""
        return self.metric.partition(".")[0]

    @property
    def short(self) -> str:
        """Its name in tables and pictures."""
        words = self.metric.partition(".")[2].removesuffix(".value").replace("_", " ").replace(".", " ")
        return " ".join("AUC" if word == "auc" else word for word in words.split())


class SweepConfig(Section):
    """One sweep."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the sweep; its directory is beside those of runs, ``output`` of the experiment."""
    base: Path | dict[str, Any]
    """The experiment: a file, relative to this one, or written out here."""
    changes: dict[str, Any] = Field(default_factory=dict)
    """Dotted keys of the experiment that have another value in every trial (fewer epochs, say)."""
    search: Annotated[AnyComponent, component("searches", "random")] = section("searches", "random")
    """How parameters are chosen: ``grid``, ``random``, ``optuna``."""
    parameters: Annotated[dict[str, Axis], Field(min_length=1)]
    """Dotted key of the experiment → a list of values, or ``{low, high, log, int}``."""
    objective: Objective = Objective()
    """What is best."""

    @field_validator("parameters", "changes")
    @classmethod
    def _not_ours(cls, keys: dict[str, Any]) -> dict[str, Any]:
        for key in keys:
            if key.partition(".")[0] in OWN_KEYS:
                raise PydanticCustomError("own", "'{key}' is set by the sweep itself", {"key": key})
        return keys


def read_sweep(path: Path, overrides: Sequence[str] = ()) -> SweepConfig:
    """A sweep with its experiment written out in ``base``. Raises ``UserError`` that names the file and the key."""
    data = read_yaml(path)
    if not isinstance(data, Mapping):
        raise UserError(f"{path}: expected 'key: value' lines, found {type(data).__name__}")
    merged: dict[str, Any] = copy.deepcopy(dict(data))
    for override in sorted(overrides, key=lambda text: not text.partition("=")[0].endswith("kind")):
        apply_override(merged, override)
    try:
        config = SweepConfig.model_validate(merged)
    except ValidationError as error:
        raise UserError(f"{path}: {describe(error)}") from error
    return config.model_copy(update={"base": _base(config, path), "changes": {}})


def _base(config: SweepConfig, path: Path) -> dict[str, Any]:
    if isinstance(config.base, Path):
        file = path.parent / config.base
        experiment = Experiment.load(file)
    else:
        file = path
        experiment = Experiment.from_mapping({"name": config.name, **config.base}, source=f"{path}: base")
    data = experiment.model_dump(mode="json")
    with_changes = changed(data, _flat(config.changes), f"{path}: changes")
    source = f"{path}: changes of {file}"
    return Experiment.from_mapping({**with_changes, "name": config.name}, source=source).model_dump(
        mode="json"
    )


def changed(data: Mapping[str, Any], values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A copy of an experiment as JSON with other values for dotted keys.

    Whole sections come before keys in them, and kinds before the other keys: another kind has its own defaults.
    """
    copied: dict[str, Any] = copy.deepcopy(dict(data))
    for key in sorted(values, key=lambda k: (k.count("."), not k.endswith("kind"))):
        set_key(copied, key, copy.deepcopy(values[key]), source)
    return copied


def _flat(changes: Mapping[str, Any]) -> dict[str, Any]:
    """``changes.training.epochs=2`` on the command line makes nested mappings of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in changes.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": v for inner, v in _flat(value).items()}
        else:
            flat[key] = value
    return flat
