"""The result of a sweep: the trials, best first, as a table and as ``sweep.json``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from hpctrain.files import write_json
from hpctrain.sweep.directory import Sweep, Trial
from hpctrain.sweep.space import label

SHOWN = 20
"""Trials in the table; ``sweep.json`` has them all."""
SEED = "seed"
"""Swept, it is no setting but a repetition."""


def ranked(trials: Iterable[Trial], direction: str) -> list[Trial]:
    """Those that are done, best first; equal ones in the order of their numbers."""
    sign = -1 if direction == "maximise" else 1
    return sorted(
        (trial for trial in trials if trial.state == "done"),
        key=lambda t: (sign * (t.value if t.value is not None else math.inf), t.number),
    )


def table(sweep: Sweep, trials: Sequence[Trial]) -> Table:
    """The best trials, best first."""
    best = ranked(trials, sweep.config.objective.direction)
    names = short_names(sweep.config.parameters)
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("trial", sweep.config.objective.short, *names.values(), "seconds"):
        drawn.add_column(escape(title), justify="right")
    for number, trial in enumerate(best[:SHOWN]):
        cells = [f"{trial.number:04d}", shown(trial.value, 5)]
        cells += [shown(trial.parameters.get(key)) for key in names]
        cells.append("" if trial.seconds is None else f"{trial.seconds:.1f}")
        drawn.add_row(*map(escape, cells), style="bold green" if number == 0 else None)
    return drawn


def counts(sweep: Sweep, trials: Sequence[Trial]) -> str:
    """What became of the trials, in a line."""
    done = sum(trial.state == "done" for trial in trials)
    failed = sum(trial.state == "failed" for trial in trials)
    parts = [f"{done} of {max(sweep.count, len(trials))} trials done"]
    if failed:
        parts.append(f"{failed} failed (--retry-failed does them again)")
    if done > SHOWN:
        parts.append(f"the best {SHOWN} are shown")
    return "; ".join(parts)


def repetitions(sweep: Sweep, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Where the seed is swept: mean and standard error of each setting over its seeds, best mean first, else nothing.

    The standard error is that of the mean, from the spread over n ≥ 2 seeds; it says what one more training with
    another seed changes, not what other events would.
    """
    if SEED not in sweep.config.parameters or len(sweep.config.parameters) == 1:
        return []
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.state == "done":
            setting = {key: value for key, value in trial.parameters.items() if key != SEED}
            groups.setdefault(label(setting), []).append(trial)
    rows = [_mean(group) for group in groups.values()]
    sign = -1 if sweep.config.objective.direction == "maximise" else 1
    return sorted(rows, key=lambda row: sign * row["value"])


def _mean(group: Sequence[Trial]) -> dict[str, Any]:
    values = [trial.value for trial in group if trial.value is not None]
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / max(1, len(values) - 1))
    return {
        "parameters": {key: value for key, value in group[0].parameters.items() if key != SEED},
        "value": mean,
        "error": spread / math.sqrt(len(values)) if len(values) > 1 else None,
        "seeds": len(values),
        "trials": [trial.number for trial in group],
    }


def repetition_table(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> Table:
    """The settings, best mean first."""
    from hpctrain.report.numbers import with_error

    names = short_names([key for key in sweep.config.parameters if key != SEED])
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("seeds", f"mean {sweep.config.objective.short}", *names.values()):
        drawn.add_column(escape(title), justify="right")
    for number, row in enumerate(rows[:SHOWN]):
        cells = [str(row["seeds"]), with_error(row["value"], row["error"])]
        cells += [shown(row["parameters"].get(key)) for key in names]
        drawn.add_row(*map(escape, cells), style="bold green" if number == 0 else None)
    return drawn


def write_result(sweep: Sweep, trials: Sequence[Trial]) -> None:
    """Write ``sweep.json``: every trial that was begun, and the best."""
    objective = sweep.config.objective
    best = ranked(trials, objective.direction)
    document = {
        "name": sweep.config.name,
        "objective": objective.model_dump(mode="json"),
        "search": sweep.config.search.model_dump(mode="json"),
        "parameters": sweep.config.model_dump(mode="json")["parameters"],
        "seed": sweep.base.seed,
        "trials_wanted": sweep.count,
        "best": best[0].number if best else None,
        "trials": [_entry(sweep, trial) for trial in trials],
    }
    rows = repetitions(sweep, trials)
    write_json(sweep.path / "sweep.json", document | ({"means_over_seeds": rows} if rows else {}))


def _entry(sweep: Sweep, trial: Trial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "run": str(sweep.trial_path(trial.number).relative_to(sweep.path)),
        "state": trial.state,
        "value": trial.value,
        "parameters": trial.parameters,
        "seconds": trial.seconds,
        **({"error": trial.error} if trial.error else {}),
    }


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Dotted key → its last words, as many as tell it from the others.

    >>> short_names(["training.optimizer.learning_rate", "task.kind", "task.model.kind"])
    {'training.optimizer.learning_rate': 'learning rate', 'task.kind': 'task kind', 'task.model.kind': 'model kind'}
    """
    keys = list(keys)
    names = {}
    for key in keys:
        words = key.split(".")
        for number in range(1, len(words) + 1):
            end = words[-number:]
            if sum(other.split(".")[-number:] == end for other in keys) == 1:
                break
        names[key] = " ".join(end).replace("_", " ")
    return names


def shown(value: Any, digits: int = 4) -> str:
    """A value in a table: numbers to ``digits`` significant digits.

    >>> shown(0.00123456), shown(64), shown([8, 16]), shown("sgd"), shown(None)
    ('0.001235', '64', '[8, 16]', 'sgd', '–')
    """
    if value is None:
        return "–"
    return f"{value:.{digits}g}" if isinstance(value, float) else label(value)


def in_words(parameters: Mapping[str, Any]) -> str:
    """Parameters in one line."""
    names = short_names(parameters)
    return ", ".join(f"{names[key]} {shown(value)}" for key, value in parameters.items())
