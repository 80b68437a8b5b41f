"""``hpctrain data …``: datasets looked at, checked, joined, split, converted and staged. Thin: the work is in data/."""

import argparse
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpctrain.data_options import COMMANDS
from hpctrain.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from hpctrain.data.shards import ShardDataset

Progress = Callable[[int, int], None]


def perform(options: argparse.Namespace) -> int:
    """Do the command; returns the exit code. Raises ``UserError``."""
    command: Callable[[argparse.Namespace], int] = globals()[f"_{options.data_command}"]
    return command(options)


def _inspect(options: argparse.Namespace) -> int:
    from hpctrain.data.shards import ShardDataset
    from hpctrain.report.dataset_tables import describe

    if options.picture is not None and options.picture.suffix.lower() != ".png":
        name = options.picture.with_suffix(".png") if options.picture.name else "FILE.png"
        raise UserError(f"--picture {options.picture}: only PNG is written", hint=f"Name it {name}")
    datasets = [ShardDataset.open(directory) for directory in datasets_in(options.directory)]
    console = _console()
    for number, dataset in enumerate(datasets):
        if number:
            console.print()
        for part in describe(dataset, options.events):
            console.print(part, highlight=False, soft_wrap=isinstance(part, str))
    if not options.no_picture and datasets[0].events:
        _draw(datasets[0], options, console)
    return 0


def _draw(dataset: "ShardDataset", options: argparse.Namespace, console: "Console") -> None:
    from hpctrain.report.dataset_display import draw_dataset

    path = options.picture or Path(f"{dataset.directory.resolve().name}.png")
    with _bar("Drawing") as progress:
        progress(0, 1)
        what = draw_dataset(dataset, path, options.rows)
    console.print(f"\nPicture of {what}: {path}", highlight=False, markup=False, soft_wrap=True)


def _verify(options: argparse.Namespace) -> int:
    from hpctrain.data.curation.verify import verify
    from hpctrain.data.schema import DatasetInfo
    from hpctrain.report.dataset_tables import counted, problem_table, size

    console = _console()
    problems = []
    for directory in [d for given in options.directories for d in datasets_in(given)]:
        with _bar(f"Verifying {directory}") as progress:
            found = verify(directory, progress)
        problems += found
        if found:
            console.print(f"✗ {directory}: {counted(len(found), 'problem')}", markup=False, highlight=False)
        else:
            info = DatasetInfo.read(directory)
            console.print(
                f"✓ {directory}: {counted(info.events, 'event')} in {counted(len(info.shards), 'shard')}, "
                f"{size(sum(shard.bytes for shard in info.shards))}, whole",
                markup=False, highlight=False, soft_wrap=True,
            )  # fmt: skip
    if problems:
        console.print(problem_table(problems))
    return 1 if problems else 0


def _merge(options: argparse.Namespace) -> int:
    from hpctrain.data.curation.merge import merge
    from hpctrain.report.dataset_tables import counted

    differ: list[str] = []
    parts = [dataset_at(part) for part in options.parts]
    with _bar("Joining") as progress:
        info = merge(parts, options.output, copy=options.copy, progress=progress, warn=differ.append)
    _tell_written(options.output, info, f"{counted(len(parts), 'part')} joined")
    if differ:
        _console().print(
            f"! Scale constants that differ are left out: {'; '.join(differ)}. `hpctrain data split` computes them "
            "anew, from the training events",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
    return 0


def _split(options: argparse.Namespace) -> int:
    from hpctrain.data.curation.splitting import Plan, split
    from hpctrain.report.dataset_tables import missing_classes, split_table

    plan = Plan(tuple(options.fractions), options.by, options.stratify, options.seed)
    with _bar("Splitting") as progress:
        contents = split(
            dataset_at(options.directory), options.output, plan,
            memory=options.memory * 2**20, compression=options.compression, progress=progress,
        )  # fmt: skip
    console = _console()
    console.print(split_table(contents))
    for line in missing_classes(contents):
        console.print(f"! {line}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"Written: {options.output}. Use it: generate: {{kind: shards, path: {_in_yaml(options.output)}}}",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    return 0


def _convert(options: argparse.Namespace) -> int:
    from hpctrain import registry
    from hpctrain.convert.driver import convert, read_config

    words = [*options.inputs, *options.overrides]
    if options.help:
        _explain_kinds(options.parser, options.kind)
        return 0
    if options.kind is None:
        raise UserError(
            "no kind of files is given", hint=f"Kinds are {', '.join(registry.kinds('converters'))}"
        )
    settings = [word for word in words if _is_setting(word)]
    config = read_config(options.kind, settings)
    if options.output is None:
        raise UserError("no --output is given", hint="--output DIR, a new directory")
    files = [Path(word) for word in words if not _is_setting(word)]
    with _bar(f"Converting {options.kind}") as progress:
        info = convert(
            config, files, options.output,
            workers=options.workers, compression=options.compression,
            progress=lambda done, total, events: progress(done, total),
        )  # fmt: skip
    _tell_written(options.output, info, str(info.provenance.get("label", "")))
    return 0


def _is_setting(word: str) -> bool:
    """``key.sub=value`` and not a file whose name has a = in it."""
    return re.match(r"[A-Za-z_][A-Za-z0-9_.]*=", word) is not None and not Path(word).exists()


def _explain_kinds(parser: argparse.ArgumentParser, kind: str | None) -> None:
    from hpctrain import registry
    from hpctrain.report.dataset_tables import explain_component

    if kind is not None:
        print("\n".join(explain_component(registry.find("converters", kind), kind)))
        return
    parser.print_help()
    print("\nkinds (their keys: hpctrain data convert KIND --help):")
    for name in registry.kinds("converters"):
        text = (registry.find("converters", name).__doc__ or "").strip().split("\n")[0]
        print(f"  {name:<14} {text}")


def _stage(options: argparse.Namespace) -> int:
    from hpctrain.data.curation.staging import stage
    from hpctrain.parallel.communicator import SingleCommunicator
    from hpctrain.site import load_site

    candidates = [*options.to, *(load_site(options.site).node_local if options.site else ())]
    if not candidates:
        told = (
            f"the site {options.site} has no node-local folder"
            if options.site
            else "no folder to stage to is given"
        )
        raise UserError(told, hint="--to FOLDER …, or --site NAME for those that a site has")
    for directory in datasets_in(options.directory):
        with _bar(f"Staging {directory}") as progress:
            place = stage(directory, candidates, SingleCommunicator(), progress)
        print(place)
    return 0


def datasets_in(directory: Path) -> list[Path]:
    """The directory when it is a dataset (or meant to be one), else those in it: train first, then by name."""
    if not os.path.isdir(directory):  # noqa: PTH112 - never raises, whatever the name
        raise UserError(f"no directory {directory}", hint="Name the directory that holds dataset.json")
    try:
        if (directory / "dataset.json").exists():
            return [directory]
    except OSError as error:
        raise UserError(
            f"cannot read {directory}: {error.strerror}", hint="Check the folder and its permissions"
        ) from error
    order = {"train": 0, "validation": 1, "test": 2}
    inside = sorted(directory.glob("*/dataset.json"), key=lambda p: (order.get(p.parent.name, 3), p))
    return [path.parent for path in inside] or [directory]


def dataset_at(directory: Path) -> Path:
    """The directory, where one dataset is meant and not several in a folder. Raises ``UserError``."""
    inside = datasets_in(directory)
    if inside != [directory]:
        names = ", ".join(str(path) for path in inside[:3]) + (", …" if len(inside) > 3 else "")
        raise UserError(f"{directory} is no dataset; in it are {names}", hint="Name one of them")
    return directory


def _in_yaml(path: Path) -> str:
    """A path as it can be written into YAML, also between braces."""
    plain = re.fullmatch(r"[\w./~+-]*\w", str(path), re.ASCII)
    return str(path) if plain else json.dumps(str(path), ensure_ascii=False)


def _tell_written(directory: Path, info: Any, what: str) -> None:
    from hpctrain.report.dataset_tables import counted, size

    total = size(sum(shard.bytes for shard in info.shards))
    _console().print(
        f"✓ {directory}: {counted(info.events, 'event')} in {counted(len(info.shards), 'shard')}, {total}; {what}\n"
        f"Look at it: hpctrain data inspect {shlex.quote(str(directory))}",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip


def _console() -> "Console":
    from rich.console import Console

    # Where there is no terminal nobody knows the width: tables in files and pipes are not folded for a narrow one.
    return Console(width=None if sys.stdout.isatty() else 160)


@contextmanager
def _bar(title: str) -> Iterator[Progress]:
    """A live bar on a terminal (stderr, so that results can be piped), nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(24), TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as live:
        task = live.add_task(title, total=None)
        yield lambda done, total: live.update(task, completed=done, total=total)


def did_you_mean(words: Sequence[str]) -> None:
    """Raise ``UserError`` for a command after ``data`` that does not exist."""
    from hpctrain.registry import nearest

    if words and words[0] not in COMMANDS:
        raise UserError(
            f"unknown command 'data {words[0]}'", hint=nearest(words[0], COMMANDS, "commands are")
        )
