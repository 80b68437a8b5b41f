"""Components by name: a class registered under (group, kind), built in or brought by an entry point.

Built-in components are found by importing the modules of their room, so adding one is adding a file. A user's
own arrives through an entry point of the group ``hpctrain.<group>`` whose name is the kind:

    [options.entry_points]
    hpctrain.models =
        my_network = my_package.network:MyNetwork
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from hpctrain.errors import UserError

T = TypeVar("T")

GROUPS: dict[str, str] = {
    "ingest": "hpctrain.ingest",
    "converters": "hpctrain.convert",
    "clusters": "hpctrain.ingest.clusters",
    "data": "hpctrain.data",
    "models": "hpctrain.models",
    "tasks": "hpctrain.tasks",
    "training": "hpctrain.training",
    "optimizers": "hpctrain.training",
    "schedules": "hpctrain.training",
    "gradients": "hpctrain.parallel",
    "evaluate": "hpctrain.evaluate",
    "compress": "hpctrain.compress",
    "firmware": "hpctrain.firmware",
    "report": "hpctrain.report",
    "launch": "hpctrain.launch",
    "engines": "hpctrain.parallel",
    "searches": "hpctrain.sweep.searches",
}
"""Group of components → the room (package) whose modules hold the built-in ones."""

_components: dict[str, dict[str, type]] = {group: {} for group in GROUPS}


def register(group: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: make the class known as ``cls.Config.kind`` in ``group``.

    The class owns a ``Config`` (see ``hpctrain.config.ComponentConfig``) whose ``kind`` has a default.
    """
    if group not in GROUPS:
        raise ValueError(f"no component group {group!r}; groups are {', '.join(GROUPS)}")

    def enter(cls: type[T]) -> type[T]:
        kind = cls.Config.model_fields["kind"].default  # type: ignore[attr-defined]
        known = _components[group].get(kind)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"{group}: kind {kind!r} is both {known.__module__} and {cls.__module__}")
        _components[group][kind] = cls
        cls.Config.owner = cls  # type: ignore[attr-defined]
        return cls

    return enter


def find(group: str, kind: str) -> Any:
    """The component class called ``kind``. Raises ``UserError`` with the nearest right name."""
    _import_room(GROUPS[group])
    if kind not in _components[group]:
        plugin = _plugins(group).get(kind)
        if plugin is None:
            raise UserError(
                f"unknown {group} kind {kind!r}", hint=nearest(kind, kinds(group), "known kinds are")
            )
        _load(group, kind, plugin)
    return _components[group][kind]


def kinds(group: str) -> list[str]:
    """Every kind of the group, built in or installed, sorted."""
    _import_room(GROUPS[group])
    return sorted({*_components[group], *_plugins(group)})


def nearest(word: str, words: Iterable[str], otherwise: str = "known are") -> str:
    """``did you mean 'x'?`` when a word is near enough, else the list of all."""
    words = list(words)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"{otherwise} {', '.join(sorted(words))}"


@cache
def _import_room(package: str) -> None:
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")


def _plugins(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"hpctrain.{group}")}


def _load(group: str, kind: str, point: EntryPoint) -> None:
    try:
        cls = point.load()
    except Exception as error:
        raise UserError(
            f"{group} kind {kind!r} ({point.value}) cannot be imported: {type(error).__name__}: {error}",
            hint="Mend or uninstall the package that brings it",
        ) from error
    declared = getattr(getattr(cls, "Config", None), "model_fields", {}).get("kind")
    if declared is None or declared.default != kind:
        raise UserError(
            f"{group} entry point {kind!r} ({point.value}) has no Config with kind {kind!r}",
            hint="Name the entry point after the kind of its Config",
        )
    register(group)(cls)
