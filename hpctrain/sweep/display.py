"""What the user sees of a sweep: a bar for the whole and one for each trial at work; a line for each that ends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from hpctrain.steps import Step
from hpctrain.sweep.config import Objective
from hpctrain.sweep.directory import Trial
from hpctrain.sweep.table import in_words, shown


class Watch:
    """Implements ``driver.Watcher`` on a rich console, from several threads."""

    def __init__(self, console: Console, objective: Objective, total: int, done: int) -> None:
        self.console = console
        self.objective = objective
        self._live = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(24), TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(), TextColumn("[dim]{task.fields[note]}[/dim]"),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._all = self._live.add_task("Trials", total=total, completed=done, note=f"{done} of {total}")
        self._total = total
        self._done = done
        self._bars: dict[int, TaskID] = {}

    def began(self, number: int, parameters: Mapping[str, Any]) -> TrialView:
        """A trial begins, or goes on."""
        words = in_words(parameters)
        bar = self._live.add_task(f"{number:04d}", total=None, note=words)
        self._bars[number] = bar
        if not self.console.is_terminal:
            self.line(f"… {number:04d}  {words}")
        return TrialView(self, number, bar, words)

    def ended(self, trial: Trial) -> None:
        """A trial is done, or failed."""
        self._live.remove_task(self._bars.pop(trial.number))
        words = in_words(trial.parameters)
        if trial.state == "failed":
            self.line(f"[red]✗[/red] {trial.number:04d}  {escape(words)}  {escape(trial.error)}", markup=True)
            return
        self._done += 1
        self._live.update(self._all, completed=self._done, note=f"{self._done} of {self._total}")
        seconds = "" if trial.seconds is None else f"{trial.seconds:.1f} s  "
        figure = f"{self.objective.short} {shown(trial.value, 5)}"
        self.line(
            f"[green]✓[/green] {trial.number:04d}  {escape(words)}  {seconds}{escape(figure)}", markup=True
        )

    def passed_over(self, number: int, why: str) -> None:
        """Another process has it."""
        self.line(f"– {number:04d}  {why}")

    def line(self, text: str, *, markup: bool = False) -> None:
        """A line that stays."""
        self._live.console.print(text, highlight=False, soft_wrap=True, markup=markup)

    def progress(self, bar: TaskID, done: float, total: float, note: str) -> None:
        """How far a trial is."""
        self._live.update(bar, completed=done, total=total, note=note)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()


class TrialView:
    """Implements ``pipeline.Display`` for one trial: its bar, and a line for what the user should know."""

    def __init__(self, watch: Watch, number: int, bar: TaskID, words: str) -> None:
        self.watch = watch
        self.number = number
        self.bar = bar
        self.words = words
        self._step = ""

    def skipped(self, step: Step, record: dict[str, Any]) -> None:
        """Nothing: its line has the result."""

    def started(self, step: Step, ranks: int, log: Path) -> None:
        self._step = step.title

    def progress(self, record: dict[str, Any]) -> None:
        self.watch.progress(self.bar, record["done"], record["total"], f"{self._step}  {self.words}")

    def warned(self, text: str) -> None:
        self.watch.line(f"! {self.number:04d}  {text}")

    def finished(self, step: Step, record: dict[str, Any]) -> None:
        """Nothing: its line has the result."""

    def restarted(self, step: Step, reason: str, attempt: int, attempts: int) -> None:
        self.watch.line(f"↻ {self.number:04d}  {reason}: going on by itself ({attempt} of {attempts})")
