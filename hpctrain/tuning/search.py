"""In which order settings are measured: ranks first, then what else there is, then the best few again.

Every measurement costs a start of all ranks, so the grid is not gone through: the number of ranks is climbed
(throughput has one hill over it), the rest is changed one thing at a time at the top. The survivors are measured again
in turn, as in successive halving (Jamieson, Talwalkar 2016), because the fastest of many noisy figures is partly luck.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from hpctrain.topology import Topology
from hpctrain.tuning.measurement import Measurement, ranked
from hpctrain.tuning.settings import Setting, variants

Measure = Callable[[Setting], Measurement]
"""Measures a setting for a stretch; raises ``TimeIsUp`` when there is none left."""
FINALISTS = 3


class TimeIsUp(Exception):
    """The budget is spent; what was measured counts."""


class Search:
    """Remembers what was measured; ``tell`` hears of each new or better known measurement."""

    def __init__(self, measure: Measure, tell: Callable[[Measurement], None] = lambda one: None) -> None:
        self.found: dict[Setting, Measurement] = {}
        self._measure = measure
        self._tell = tell

    def run(self, current: Setting, layouts: Sequence[Setting], topology: Topology, *, bf16: bool) -> None:
        """Measure until the search ends or the time is up."""
        try:
            self._try(current)
            self._climb(current, layouts)
            best = self._best()
            for setting in variants(best, topology, bf16=bf16):
                self._try(setting)
            self._combine(best)
            for _ in range(2):
                best_few = [one.setting for one in ranked(self.found.values())[:FINALISTS]]
                for setting in dict.fromkeys([*best_few, current]):
                    self._again(setting)
        except TimeIsUp:
            return

    def _climb(self, current: Setting, layouts: Sequence[Setting]) -> None:
        """From the layout nearest to the present one, go on in whichever direction is faster, two steps past the top."""
        if not layouts:
            return
        start = min(range(len(layouts)), key=lambda i: abs(layouts[i].ranks - current.ranks))
        self._try(layouts[start])
        for direction in (1, -1):
            worse, place = 0, start + direction
            while 0 <= place < len(layouts) and worse < 2:
                top = max(one.rate for one in self.found.values())
                worse = 0 if self._try(layouts[place]).rate >= top else worse + 1
                place += direction

    def _combine(self, best: Setting) -> None:
        """What helped alone, together."""
        base = self.found[best].rate
        helped = [s for s, one in self.found.items() if s.ranks == best.ranks and one.rate > base]
        together = best
        for setting in sorted(helped, key=lambda s: -self.found[s].rate):
            changed = {k: v for k, v in vars(setting).items() if v != getattr(best, k)}
            if setting.precision == best.precision:
                together = replace(together, **changed)
        if len(helped) > 1:
            self._try(together)
        if any(setting.precision != best.precision for setting in self.found):
            self._try(replace(together, precision="bf16"))

    def _best(self) -> Setting:
        return ranked(self.found.values())[0].setting

    def _try(self, setting: Setting) -> Measurement:
        if setting not in self.found:
            self._take(self._measure(setting))
        return self.found[setting]

    def _again(self, setting: Setting) -> None:
        before = self.found[setting]
        if not before.error:
            self._take(before.with_more(self._measure(setting)))

    def _take(self, one: Measurement) -> None:
        self.found[one.setting] = one
        self._tell(one)


def choice(found: Sequence[Measurement], current: Setting, *, precision: bool) -> Setting:
    """The setting to use: the fastest, of the present precision unless ``precision`` may change.

    The present one stays unless another is faster by more than the spread.
    """
    allowed = [
        one
        for one in ranked(found)
        if one.rates and (precision or one.setting.precision == current.precision)
    ]
    now = next((one for one in allowed if one.setting == current), None)
    if not allowed:
        return current
    return current if now is not None and not allowed[0].clearly_faster_than(now) else allowed[0].setting
