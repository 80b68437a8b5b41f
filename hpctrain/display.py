"""What the user sees while steps run: a live bar on a terminal, a quiet line now and then elsewhere."""

import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from hpctrain.steps import Step

QUIET_S = 20.0
"""Seconds between two progress lines where there is no terminal."""


class Terminal:
    """Implements ``pipeline.Display`` on a rich console."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Progress | None = None
        self._bar: TaskID | None = None
        self._step = ""
        self._last_line = 0.0

    def skipped(self, step: Step, record: dict[str, Any]) -> None:
        self.console.print(
            f"[dim]✓ {step.title:<20} done before, same inputs  {_headline(record)}[/dim]", highlight=False
        )

    def started(self, step: Step, ranks: int, log: Path) -> None:
        title = f"{step.title} on {ranks} ranks" if ranks > 1 else step.title
        self._step, self._last_line = title, time.monotonic()
        if self.console.is_terminal:
            self._live = Progress(
                SpinnerColumn(), TextColumn("{task.description:<28}"), BarColumn(24),
                TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn(), TimeRemainingColumn(),
                TextColumn("[dim]{task.fields[note]}[/dim]"), console=self.console, transient=True,
            )  # fmt: skip
            self._live.start()
            self._bar = self._live.add_task(title, total=None, note="")
        else:
            self.console.print(f"… {title} (log: {escape(str(log))})", highlight=False, soft_wrap=True)

    def progress(self, record: dict[str, Any]) -> None:
        values = {k: v for k, v in record.items() if k not in {"step", "done", "total", "unit"}}
        note = f"{_count(record['done'])}/{_count(record['total'])} {record['unit']}  " + "  ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items()
        )
        note = escape(note)
        if self._live is not None and self._bar is not None:
            self._live.update(self._bar, completed=record["done"], total=record["total"], note=note)
        elif time.monotonic() - self._last_line > QUIET_S:
            self._last_line = time.monotonic()
            self.console.print(f"    {note}", highlight=False, soft_wrap=True)

    def warned(self, text: str) -> None:
        self.console.print(f"[yellow]![/yellow] {escape(text)}", highlight=False, soft_wrap=True)

    def finished(self, step: Step, record: dict[str, Any]) -> None:
        self._close()
        memory = record["peak_memory_bytes"] / 2**30
        self.console.print(
            f"[green]✓[/green] {step.title:<20} {record['wall_s']:6.1f} s {memory:5.2f} GiB  {_headline(record)}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip

    def restarted(self, step: Step, reason: str, attempt: int, attempts: int) -> None:
        self._close()
        self.console.print(
            f"[yellow]↻[/yellow] {escape(reason)}: going on by itself ({attempt} of {attempts})",
            highlight=False, soft_wrap=True,
        )  # fmt: skip

    def _close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = self._bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()


def _headline(record: dict[str, Any]) -> str:
    return escape(str(record["summary"].get("headline", "")))


def _count(number: float) -> str:
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:,.1f}"
