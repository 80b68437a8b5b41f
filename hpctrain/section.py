"""A part of a configuration, and the YAML it is read from: frozen, strict about its keys, clear about mistakes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from hpctrain import registry
from hpctrain.errors import UserError


class Section(BaseModel):
    """A part of the configuration: frozen, and strict about the names of its keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    raise PydanticCustomError(
                        "unknown_key",
                        "unknown key '{key}'; {hint}",
                        {
                            "key": str(key),
                            "hint": registry.nearest(str(key), cls.model_fields, "known keys are"),
                        },
                    )
        return data


class _Loader(yaml.SafeLoader):
    """Safe loader that refuses a key given twice (YAML would silently keep the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} stands twice", key_node.start_mark
                )
            seen.add(str(key) if not isinstance(key, str | int | float) else key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Parse a YAML file. Raises ``UserError`` naming file, line and what is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        near = registry.nearest(
            path.name, [p.name for p in path.parent.glob("*.y*ml")] or ["none"], "there are"
        )
        raise UserError(f"no configuration file {path}", hint=f"In {path.parent}: {near}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise UserError(f"{where}: not valid YAML: {error.problem or error.context}") from error
    except RecursionError as error:
        raise UserError(f"{path}: not valid YAML: nested too deeply") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error


def describe(error: ValidationError) -> str:
    """What is wrong in which key, in one line."""
    lines = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"])
        text = item["msg"]
        if item["type"] not in {"unknown_key", "unknown_kind", "no_kind", "not_a_section", "missing"}:
            text = f"{text} (got {item['input']!r})"
        lines.append(f"{where}: {text}" if where else text)
    return "; ".join(lines)
