"""Writes docs/configuration.md from the schema itself: `python docs/make_configuration.py`."""

import json
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from hpctrain import registry
from hpctrain.config import Experiment
from hpctrain.section import Section

HEAD = """# Every key of an experiment

Written by `python docs/make_configuration.py` from the schema; do not edit. An experiment is a YAML file; only `name`
must be given. On the command line a key is `section.key=value` (`training.optimizer.learning_rate=1e-3`), the value in
YAML. A section with `kind` is a component: the kinds listed are built in, more arrive through entry points
([models.md](models.md#a-model-of-your-own)).
"""


def default_of(field: Any) -> str:
    if field.default is not PydanticUndefined:
        value = field.default
    elif field.default_factory is not None:
        value = field.default_factory()
    else:
        return "required"
    if isinstance(value, Section):
        return "see below"
    if any(hasattr(item, "model_dump") for item in (value if isinstance(value, tuple | list) else [value])):
        return "see below"
    plain = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    return f"`{json.dumps(plain)}`"


def table(model: type[Section]) -> list[str]:
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        if name == "kind":
            continue
        extra = field.json_schema_extra
        default = (
            f"kind `{extra['default']}`"
            if isinstance(extra, dict) and "default" in extra
            else default_of(field)
        )
        meaning = " ".join((field.description or "").split()).replace("|", "\\|").replace("``", "`")
        lines.append(f"| `{name}` | {default} | {meaning} |")
    return lines if len(lines) > 2 else ["No keys beside `kind`."]


def nested(model: type[Section]) -> list[tuple[str, type[Section]]]:
    """Plain sections (not components) inside a model, with the key that holds them."""
    found = []
    for name, field in model.model_fields.items():
        stack: list[Any] = [field.annotation]
        while stack:
            item = stack.pop()
            stack += getattr(item, "__args__", ())
            if isinstance(item, type) and issubclass(item, Section) and item.__name__ != "ComponentConfig":
                found.append((name, item))
    return found


def describe(title: str, model: type[Section], depth: int) -> list[str]:
    lines = [f"{'#' * depth} {title}", "", *table(model), ""]
    for name, inner in nested(model):
        said = " ".join((inner.__doc__ or "").split())
        lines += [f"**Each `{name}`**" + (f" ({said})" if said else ""), "", *table(inner), ""]
    return lines


def page() -> str:
    """The whole page."""
    lines = [HEAD, *describe("Top level", Experiment, 2)]
    for group in registry.GROUPS:
        lines += [f"## {group}", ""]
        for kind in registry.kinds(group):
            component = registry.find(group, kind)
            if not component.__module__.startswith("hpctrain."):
                continue  # installed by somebody else
            lines += describe(f"`kind: {kind}`", component.Config, 3)
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("configuration.md").write_text(page())
