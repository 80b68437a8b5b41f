"""Setting keys in a YAML file that somebody wrote: everything else in it, comments too, stays as it is."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from hpctrain.config import apply_override
from hpctrain.errors import UserError


def set_keys(text: str, values: Mapping[str, Any], source: str) -> str:
    """``text`` with ``section.key`` = value for each of ``values`` (numbers, words, truth values).

    Raises ``UserError`` where the file's form does not allow it (aliases): nothing is guessed.
    """
    expected = _unshared(yaml.safe_load(text)) or {}
    changed = text
    for key, value in values.items():
        section, _, name = key.partition(".")
        changed = _set(changed, section, name, value)
        apply_override(expected, f"{key}={json.dumps(value)}")
    if yaml.safe_load(changed) != expected:
        keys = " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())
        raise UserError(f"{source} cannot be changed without losing its form", hint=f"Set by hand: {keys}")
    return changed


def _unshared(value: Any) -> Any:
    """A copy in which what an alias repeats is there twice."""
    if isinstance(value, dict):
        return {key: _unshared(one) for key, one in value.items()}
    return [_unshared(one) for one in value] if isinstance(value, list) else value


def _set(text: str, section: str, name: str, value: Any) -> str:
    said = json.dumps(value)
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        return text
    inside = _value_of(root, section)
    if inside is None:
        if root.flow_style:
            return _insert(text, root.start_mark.index + 1, f"{section}: {{{name}: {said}}}", root)
        return f"{text.rstrip()}\n{section}:\n  {name}: {said}\n"
    if isinstance(inside, yaml.ScalarNode):  # just a kind, or nothing
        kind = f"kind: {inside.value}, " if inside.value not in {"", "null", "~"} else ""
        return _replace(text, inside, f"{{{kind}{name}: {said}}}")
    if not isinstance(inside, yaml.MappingNode):
        return text
    old = _value_of(inside, name)
    if old is not None:
        return _replace(text, old, said)
    if inside.flow_style:
        return _insert(text, inside.start_mark.index + 1, f"{name}: {said}", inside)
    last = inside.value[0][0]  # before the first key, at its depth
    return (
        text[: last.start_mark.index]
        + f"{name}: {said}\n{' ' * last.start_mark.column}"
        + text[last.start_mark.index :]
    )


def _value_of(node: yaml.MappingNode, name: str) -> yaml.Node | None:
    found: yaml.Node | None = next((value for key, value in node.value if key.value == name), None)
    return found


def _replace(text: str, node: yaml.Node, said: str) -> str:
    start, end = node.start_mark.index, node.end_mark.index
    space = " " if start and text[start - 1] == ":" else ""
    return text[:start] + space + said + text[end:]


def _insert(text: str, place: int, said: str, node: yaml.MappingNode) -> str:
    return text[:place] + said + (", " if node.value else "") + text[place:]
