"""The schema of an experiment: YAML → frozen, validated models; components chosen by ``kind``.

A section of an experiment is a component: a class with its own small ``Config``. Its room owns the fields and
their documentation; this file only knows where each component stands.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError
from pydantic_core import PydanticCustomError

from hpctrain import registry
from hpctrain.errors import UserError
from hpctrain.section import Section, describe, read_yaml


class ComponentConfig(Section):
    """Base of the ``Config`` that a component owns; ``kind`` is its name in the YAML."""

    owner: ClassVar[type]
    """The component class, set when it is registered."""
    speed_keys: ClassVar[frozenset[str]] = frozenset()
    """Fields that change how fast the result comes, not the result: a finished step stays finished."""
    kind: str

    def build(self, *args: Any, **kwargs: Any) -> Any:
        """The component this configures: ``owner(self, *args, **kwargs)``."""
        return type(self).owner(self, *args, **kwargs)


AnyComponent = SerializeAsAny[ComponentConfig]
"""A component's configuration of whatever kind, written out with all its fields."""


def component(group: str, default: str | None = None) -> BeforeValidator:
    """Marks a field that holds the ``Config`` of one component of ``group``.

    In YAML the field is a mapping with ``kind`` (``default`` when absent), or just the kind:

        model: Annotated[SerializeAsAny[ComponentConfig], component("models")]
    """

    def choose(value: Any) -> Any:
        if isinstance(value, ComponentConfig):
            return value
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, Mapping):
            raise PydanticCustomError(
                "not_a_section", "expected a mapping with 'kind', got {got}", {"got": repr(value)}
            )
        kind = value.get("kind", default)
        if not isinstance(kind, str):
            known = ", ".join(registry.kinds(group))
            raise PydanticCustomError("no_kind", "needs 'kind', one of {known}", {"known": known})
        try:
            owner = registry.find(group, kind)
        except UserError as error:
            raise PydanticCustomError("unknown_kind", "{text}", {"text": str(error)}) from error
        return owner.Config.model_validate({**value, "kind": kind})

    return BeforeValidator(choose)


def section(group: str, default: str) -> Any:
    """Default of a section that may be left out of the YAML: the component ``default`` as it comes."""
    return Field(
        default_factory=lambda: registry.find(group, default).Config(),
        json_schema_extra={"group": group, "default": default},  # for the page that lists every key
    )


class TrackingConfig(Section):
    """Where metrics go beside ``metrics.jsonl``."""

    wandb: bool = False
    """Also log to Weights & Biases (needs the extra ``tracking``)."""
    wandb_mode: Literal["offline", "online"] = "offline"
    """``offline`` keeps the record in the run directory (``wandb sync`` sends it later)."""
    tensorboard: bool = False
    """Also write event files for TensorBoard, into ``tensorboard/`` of the run directory (extra ``tracking``)."""
    project: str = "hpctrain"
    """Project name at Weights & Biases."""


class Experiment(Section):
    """One experiment: what is generated, learned, compressed and emitted."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the run; its directory is ``output/name``."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    """Everything random follows from it."""
    output: Path = Path("runs")
    """Folder that holds the run directories."""
    site: str | None = None
    """Where this runs: one of ``configs/sites/`` or of your own in ``~/.config/hpctrain/sites/``, or the path of such a
    file. None: nothing is known of it. It changes where things are put, not the result."""
    generate: Annotated[AnyComponent, component("ingest", "pythia_whole_detector")] = section(
        "ingest", "pythia_whole_detector"
    )
    """Where events come from."""
    data: Annotated[AnyComponent, component("data", "shards")] = section("data", "shards")
    """How they are read in training: the order of samples, and where their bytes come from."""
    task: Annotated[AnyComponent, component("tasks", "image_classification")] = section(
        "tasks", "image_classification"
    )
    """What is learned, with its model."""
    training: Annotated[AnyComponent, component("training", "data_parallel")] = section(
        "training", "data_parallel"
    )
    """The loop: epochs, batches, optimiser."""
    evaluate: Annotated[AnyComponent, component("evaluate", "classifier")] = section("evaluate", "classifier")
    """What is measured on held-out events, and against which baselines."""
    compress: Annotated[AnyComponent, component("compress", "prune_quantise")] = section(
        "compress", "prune_quantise"
    )
    """Pruning and quantisation."""
    firmware: Annotated[AnyComponent, component("firmware", "hls4ml")] = section("firmware", "hls4ml")
    """The firmware project and its verification."""
    report: Annotated[AnyComponent, component("report", "html")] = section("report", "html")
    """The page of the run."""
    launch: Annotated[AnyComponent, component("launch", "local")] = section("launch", "local")
    """Where ranks come from. It changes the speed of a run, not its result."""
    tracking: TrackingConfig = TrackingConfig()
    """Where metrics go beside ``metrics.jsonl``."""

    @classmethod
    def load(cls, path: Path, overrides: Sequence[str] = ()) -> Self:
        """Read a YAML file and apply ``key.sub=value`` overrides. Raises ``UserError``."""
        return cls.from_mapping(read_yaml(path), overrides, source=str(path))

    @classmethod
    def from_mapping(cls, data: Any, overrides: Sequence[str] = (), source: str = "configuration") -> Self:
        """Validate a mapping as read from YAML; ``source`` names it in errors."""
        if not isinstance(data, Mapping):
            raise UserError(f"{source}: expected 'key: value' lines, found {type(data).__name__}")
        merged: dict[str, Any] = copy.deepcopy(dict(data))
        # Kinds first: another kind starts from its own defaults, then takes the keys given for it.
        for override in sorted(overrides, key=lambda text: not text.partition("=")[0].endswith("kind")):
            apply_override(merged, override)
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            raise UserError(f"{source}: {describe(error)}") from error

    def to_yaml(self) -> str:
        """The resolved configuration: every key, defaults included."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set ``a.b.c=value`` in nested mappings (numbers index lists); the value is parsed as YAML."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UserError(f"override {override!r} is not of the form key.sub=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"override {override!r}: the value is not valid YAML", hint="Quote it") from error
    set_key(data, key, value, f"override {override!r}")


def set_key(data: dict[str, Any], key: str, value: Any, source: str) -> None:
    """Set the dotted ``key`` in nested mappings (numbers index lists); ``source`` says in errors who asks for it."""
    *parents, last = key.split(".")
    here: Any = data
    for depth, name in enumerate(parents):
        if isinstance(here, list):
            here = here[_index(here, name, source)]
            continue
        if not isinstance(here, dict):
            raise UserError(f"{source}: {'.'.join(parents[:depth])} is a value, not a section")
        if isinstance(here.get(name), str):  # a section given as just its kind
            here[name] = {"kind": here[name]}
        elif here.get(name) is None:
            here[name] = {}
        elif isinstance(here[name], tuple):
            here[name] = list(here[name])
        elif not isinstance(here[name], dict | list):
            raise UserError(f"{source}: {'.'.join(parents[: depth + 1])} is a value, not a section")
        here = here[name]
    if isinstance(here, list):
        here[_index(here, last, source)] = value
    elif isinstance(here, dict):
        if last == "kind" and here.get("kind", value) != value:
            here.clear()  # the keys of the other kind go with it
        here[last] = value
    else:
        raise UserError(f"{source}: {'.'.join(parents)} is a value, not a section")


def _index(items: list[Any], name: str, source: str) -> int:
    if not (name.isascii() and name.isdigit()) or int(name) >= len(items):
        raise UserError(f"{source}: {name!r} is not one of the positions 0 to {len(items) - 1}")
    return int(name)
