import time
from typing import Any

import pytest

from hpctrain.ingest.speed import Speed


class _Tracker:
    def __init__(self) -> None:
        self.shown: list[dict[str, Any]] = []

    def progress(self, done: float, total: float, unit: str = "", **values: Any) -> None:
        self.shown.append({"done": done, "total": total, "unit": unit, **values})


def test_time_before_the_first_worker_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, *[110.0] * 20])  # the first worker, then ten seconds later for good
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    tracker = _Tracker()
    speed = Speed(tracker, found=300, total=1000)  # type: ignore[arg-type]
    speed.watch(0)
    assert speed.events_per_second is None
    assert tracker.shown[-1] == {"done": 300, "total": 1000, "unit": "events", "workers": 0}
    speed.watch(4)
    speed.add(200)
    speed.watch(2)
    assert speed.events_per_second == 20.0
    assert tracker.shown[-1] == {
        "done": 500, "total": 1000, "unit": "events", "workers": 2, "events_per_second": 20.0,
    }  # fmt: skip
    assert speed.most_workers == 4
