"""What was measured: one setting's rates, all of them on disk as they come, and the table a user reads."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from hpctrain import machine
from hpctrain.files import write_json
from hpctrain.tuning.settings import Setting


@dataclass(frozen=True)
class Measurement:
    """One setting, as real ranks ran it."""

    setting: Setting
    rates: tuple[float, ...] = ()
    """Samples a second of all ranks together, one figure for each stretch of steps; none when it failed."""
    first_step_s: float = 0.0
    """With compilation, where there is one."""
    peak_memory_bytes: int = 0
    """Of the largest rank."""
    error: str = ""

    @property
    def rate(self) -> float:
        """Median of the rates; 0 when it failed."""
        return median(self.rates) if self.rates else 0.0

    @property
    def low(self) -> float:
        return min(self.rates, default=0.0)

    @property
    def high(self) -> float:
        return max(self.rates, default=0.0)

    def with_more(self, other: "Measurement") -> "Measurement":
        """Both measurements of the setting together; a failure of either is one."""
        if self.error or other.error:
            return self if self.error else other
        return Measurement(
            self.setting, self.rates + other.rates, max(self.first_step_s, other.first_step_s),
            max(self.peak_memory_bytes, other.peak_memory_bytes),
        )  # fmt: skip

    def clearly_faster_than(self, other: "Measurement") -> bool:
        """Whether no stretch of the other was as fast as the median of this, nor any of this as slow as its median."""
        return bool(self.rates) and self.rate > other.high and self.low > other.rate


def ranked(found: Iterable[Measurement]) -> list[Measurement]:
    """Fastest first, failures last."""
    return sorted(found, key=lambda one: -one.rate)


def record(path: Path, found: Sequence[Measurement], about: dict[str, Any]) -> None:
    """Write everything measured so far, whole."""
    rows = [{**asdict(one), "samples_per_second": one.rate} for one in ranked(found)]
    write_json(path, {**about, "machine": machine.describe(), "measurements": rows})


def table(found: Sequence[Measurement], current: Setting, best: Setting | None) -> Table:
    """Everything measured, fastest first; speed beside that of ``current``."""
    rows = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("", "ranks × threads of each", "samples/s", "min–max", "× now", "GiB"):
        rows.add_column(title, justify="left" if title[:5] in {"", "ranks"} else "right", no_wrap=True)
    reference = next((one.rate for one in found if one.setting == current), 0.0)
    for one in ranked(found):
        mark = "[green]→[/green]" if one.setting == best else ("·" if one.setting == current else "")
        if one.error:
            rows.add_row(mark, str(one.setting), "failed", "", "", "")
            continue
        beside = f"{one.rate / reference:.2f}" if reference else ""
        memory = f"{one.peak_memory_bytes / 2**30:.2f}"
        rows.add_row(
            mark, str(one.setting), f"{one.rate:,.0f}", f"{one.low:,.0f}–{one.high:,.0f}", beside, memory
        )
    return rows
