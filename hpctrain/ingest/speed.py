"""How fast a generation goes: shown while it does, and in its summary."""

from __future__ import annotations

import time

from hpctrain.track import Tracker


class Speed:
    """Counts events from the moment the first worker is there: waiting for a batch job is not generating."""

    def __init__(self, tracker: Tracker, found: int, total: int) -> None:
        self.tracker = tracker
        self.found = found
        """Events that were there before."""
        self.done = found
        self.total = total
        self.workers = 0
        """At work now."""
        self.most_workers = 0
        self._began: float | None = None
        self._show()

    def watch(self, workers: int) -> None:
        """So many workers are there now."""
        self.workers = workers
        self.most_workers = max(self.most_workers, workers)
        if workers and self._began is None:
            self._began = time.perf_counter()
        self._show()

    def add(self, events: int) -> None:
        """So many more events are done."""
        self.done += events
        self._show()

    @property
    def events_per_second(self) -> float | None:
        """None before there is anything to say."""
        if self._began is None or self.done == self.found:
            return None
        return (self.done - self.found) / max(time.perf_counter() - self._began, 1e-9)

    def _show(self) -> None:
        rate = self.events_per_second
        values = {} if rate is None else {"events_per_second": round(rate, 1)}
        self.tracker.progress(self.done, self.total, "events", workers=self.workers, **values)
