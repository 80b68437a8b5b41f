"""`hpctrain sweep`: what the command line asks for, and what it gets."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpctrain.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from hpctrain.pipeline import Display
    from hpctrain.stopping import Warned
    from hpctrain.sweep.directory import Sweep

EXAMPLE = "hpctrain sweep configs/sweeps/demo.yaml --jobs 2"


def add(commands: argparse._SubParsersAction[Any], count: Callable[[str], int]) -> None:
    """Add the command; ``count`` reads a number from 0 on."""
    text = "Search over keys of an experiment: many trials, each an ordinary run, on the same events."
    command = commands.add_parser(
        "sweep",
        help=text,
        description=f"{text} Trials that are done are not done again, stopped ones go on.",
        epilog=f"example: {EXAMPLE}\n\n"
        "The keys of a sweep are in docs/sweep.md. The result is a table, SWEEP/sweep.json and SWEEP/sweep.png;\n"
        "a trial is a run: hpctrain run SWEEP/trials/0007",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("target", type=Path, help="a sweep (YAML file) or the directory of one")
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key.sub=value", help="change a key of the sweep: search.trials=40"
    )  # fmt: skip
    command.add_argument(
        "--jobs", type=count, metavar="N", help="trials at once, which share the cores of this machine (1); of an array: tasks "
        "at work together (no limit)",
    )  # fmt: skip
    command.add_argument("--retry-failed", action="store_true", help="do trials that failed again")
    only = command.add_mutually_exclusive_group()
    only.add_argument("--show", action="store_true", help="only show the result of what is done")
    only.add_argument(
        "--trial", type=count, metavar="I", help="do this trial alone: what a task of an array runs"
    )
    only.add_argument(
        "--slurm-array", action="store_true", help="make the events, and write SWEEP/array.sbatch for the trials that are left"
    )  # fmt: skip
    command.add_argument(
        "--dry-run", action="store_true", help="do nothing: show the trials that are left, or the text of the script"
    )  # fmt: skip


def perform(options: argparse.Namespace, console: Console, display: Display, warned: Warned) -> int:
    """Do the command; returns the exit code. ``display`` is for the making of the events.

    Raises ``UserError``, before anything is trained, for what cannot be trained; ``Stopped``.
    """
    from hpctrain.sweep.directory import Sweep

    if options.jobs == 0:
        raise UserError("--jobs 0: nothing would be done", hint="--jobs 1 or more")
    sweep = Sweep.open(options.target, options.overrides)
    sweep.check()
    if options.show:
        return _result(sweep, console)
    if options.trial is not None:
        return _one(sweep, options, console, warned)
    if options.slurm_array:
        return _array(sweep, options, console, display, warned)
    if options.dry_run:
        return _list(sweep, options, console)
    return _here(sweep, options, console, display, warned)


def _here(
    sweep: Sweep, options: argparse.Namespace, console: Console, display: Display, warned: Warned
) -> int:
    from hpctrain.sweep.display import Watch
    from hpctrain.sweep.driver import left, prepare, search

    prepare(sweep, display, warned)
    numbers = left(sweep, retry_failed=options.retry_failed)
    if numbers:
        done = sum(trial.state == "done" for trial in sweep.trials())
        try:
            with Watch(console, sweep.config.objective, sweep.count, done) as watch:
                search(sweep, numbers, watch, warned, jobs=options.jobs or 1)
        finally:
            _write(sweep)
    return _result(sweep, console)


def _one(sweep: Sweep, options: argparse.Namespace, console: Console, warned: Warned) -> int:
    from hpctrain.sweep.display import Watch
    from hpctrain.sweep.driver import do_trial, require_prepared

    number: int = options.trial
    if number >= sweep.count:
        raise UserError(f"--trial {number}: the trials are 0 to {sweep.count - 1}")
    require_prepared(sweep, f"hpctrain sweep {shlex.quote(str(options.target))} --slurm-array")
    trial = sweep.trial(number)
    if trial is not None and trial.state == "done":
        console.print(f"✓ {number:04d}  done before", highlight=False)
        return 0
    if trial is not None and trial.state == "failed" and not options.retry_failed:
        raise UserError(f"trial {number} failed before: {trial.error}", hint="--retry-failed does it again")
    with Watch(console, sweep.config.objective, 1, 0) as watch:
        trial = do_trial(sweep, number, watch, warned)
    return 0 if trial is not None and trial.state == "done" else 2


def _array(
    sweep: Sweep, options: argparse.Namespace, console: Console, display: Display, warned: Warned
) -> int:
    from hpctrain.files import write_atomically
    from hpctrain.sweep.array import script
    from hpctrain.sweep.driver import left, prepare

    numbers = left(sweep, retry_failed=options.retry_failed)
    if not numbers:
        console.print("No trial is left to be done.")
        return _result(sweep, console)
    path = sweep.path.resolve()
    text = script(
        f"hpctrain-{sweep.config.name}", path, numbers, options.jobs, Path.cwd(),
        cpus=_cores(sweep), retry_failed=options.retry_failed,
    )  # fmt: skip
    if options.dry_run:
        print(text, end="")
        return 0
    prepare(sweep, display, warned)
    write_atomically(path / "array.sbatch", text)
    console.print(
        f"{len(numbers)} trials are left. Submit them:  sbatch {shlex.quote(str(sweep.path / 'array.sbatch'))}\n"
        f"See what they find:       hpctrain sweep {shlex.quote(str(sweep.path))} --show",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    return 0


def _cores(sweep: Sweep) -> int:
    """Of one trial: its ranks with their threads, where the launcher has such."""
    launch = sweep.base.launch
    return getattr(launch, "ranks", 1) * (getattr(launch, "threads", None) or 1)


def _list(sweep: Sweep, options: argparse.Namespace, console: Console) -> int:
    from hpctrain.sweep.driver import left
    from hpctrain.sweep.table import in_words

    for number in left(sweep, retry_failed=options.retry_failed):
        known = not sweep.search.learns or sweep.trial(number) is not None
        words = in_words(sweep.parameters(number)) if known else "chosen when it begins"
        console.print(f"{number:04d}  {words}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _write(sweep: Sweep) -> list[Any]:
    from hpctrain.sweep.table import write_result

    trials = list(sweep.trials())
    write_result(sweep, trials)
    return trials


def _result(sweep: Sweep, console: Console) -> int:
    """The table and the picture of what is there. Exit code 2 when trials were begun and none is done."""
    from hpctrain.sweep.picture import draw
    from hpctrain.sweep.table import counts, ranked, repetition_table, repetitions, table

    if not (sweep.path / "sweep.yaml").exists():
        raise UserError(f"{sweep.path} is not begun", hint="Give the command without --show")
    trials = _write(sweep)
    console.print()
    console.print(table(sweep, trials))
    console.print(counts(sweep, trials), style="dim", highlight=False)
    rows = repetitions(sweep, trials)
    if rows:
        console.print()
        console.print(repetition_table(sweep, rows))
    best = ranked(trials, sweep.config.objective.direction)
    if not best:
        return 2 if any(trial.state == "failed" for trial in trials) else 0
    draw(sweep, trials)
    console.print(
        f"\nPicture: {sweep.path / 'sweep.png'}\nAll:     {sweep.path / 'sweep.json'}\n"
        f"Go on with the best:  hpctrain run {shlex.quote(str(sweep.trial_path(best[0].number)))}",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    return 0
