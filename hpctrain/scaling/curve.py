"""What a scaling measurement says: speed-up, efficiency and the serial fraction behind it, with their errors."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Point:
    """Throughput on so many ranks: repeated measurements of one configuration."""

    ranks: int
    samples_per_second: tuple[float, ...]
    """One figure for each epoch measured; the median is quoted, their spread is the error."""

    @property
    def rate(self) -> float:
        """Median samples per second."""
        return median(self.samples_per_second)

    @property
    def relative_spread(self) -> float:
        """Half the distance between the extremes, over the median: honest with the few repetitions one has."""
        return (max(self.samples_per_second) - min(self.samples_per_second)) / (2 * self.rate)


@dataclass(frozen=True)
class Row:
    """A point beside the smallest one measured."""

    ranks: int
    samples_per_second: float
    speed_up: float
    efficiency: float
    """Speed-up over the ratio of ranks."""
    efficiency_error: float
    serial_fraction: float | None
    """Karp and Flatt (1990): (1/speed-up − 1/p)/(1 − 1/p) with p the ratio of ranks; None at the reference
    and for weak scaling."""


def table(points: Iterable[Point], *, weak: bool = False) -> list[Row]:
    """Rows by number of ranks; no serial fraction for ``weak`` scaling, of which it says nothing. The smallest number of ranks measured is the reference, and is said to be so.

    Raises ``ValueError`` when there is no point, or two of one size.
    """
    ordered = sorted(points, key=lambda point: point.ranks)
    if not ordered or len({point.ranks for point in ordered}) < len(ordered):
        raise ValueError("a scaling curve needs points, one for each number of ranks")
    reference = ordered[0]
    return [_row(point, reference, weak=weak) for point in ordered]


def _row(point: Point, reference: Point, *, weak: bool) -> Row:
    ratio = point.ranks / reference.ranks
    speed_up = point.rate / reference.rate
    efficiency = speed_up / ratio
    error = efficiency * (point.relative_spread**2 + reference.relative_spread**2) ** 0.5
    serial = None if ratio == 1 or weak else (1 / speed_up - 1 / ratio) / (1 - 1 / ratio)
    return Row(point.ranks, point.rate, speed_up, efficiency, error if ratio > 1 else 0.0, serial)


def amdahl(serial_fraction: float, ratio: float) -> float:
    """Speed-up on ``ratio`` times the ranks when ``serial_fraction`` of the work cannot be shared (Amdahl 1967)."""
    return 1 / (serial_fraction + (1 - serial_fraction) / ratio)
