"""Functions given to workers are written inside the tests, so that they travel by value."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from hpctrain.errors import UserError
from hpctrain.ingest.clusters.base import ALLOWED_DEATHS, Connection
from hpctrain.ingest.clusters.local import ThisMachine
from hpctrain.ingest.workers import AHEAD, run_tasks

HERE = ThisMachine(ThisMachine.Config())


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_every_item_once_and_nothing_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _children()
    system, scratch = tmp_path / "system", tmp_path / "scratch"
    system.mkdir()
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(system))

    def work(item: int) -> tuple[int, int, str]:
        return item, os.getpid(), os.environ["OMP_NUM_THREADS"]

    results = list(run_tasks(work, range(12), cluster=HERE, workers=2, scratch=scratch, logs=scratch))
    assert sorted(item for item, _, _ in results) == list(range(12))
    assert os.getpid() not in {pid for _, pid, _ in results}
    assert {threads for _, _, threads in results} == {"1"}
    assert list(scratch.iterdir()) == []
    assert list(system.iterdir()) == []
    gone_by = time.monotonic() + 10
    while (
        any(psutil.pid_exists(pid) for pid in {pid for _, pid, _ in results}) and time.monotonic() < gone_by
    ):
        time.sleep(0.1)
    assert not {pid for _, pid, _ in results} & (_children() - before)


def test_a_task_whose_worker_dies_is_done_again(tmp_path: Path) -> None:
    marker = tmp_path / "died"

    def work(item: int) -> int:
        if item == 2:
            try:
                marker.touch(exist_ok=False)
            except FileExistsError:
                return item
            os.kill(os.getpid(), 9)
        return item

    assert sorted(
        run_tasks(work, range(5), cluster=HERE, workers=2, scratch=tmp_path, logs=tmp_path)
    ) == list(range(5))
    assert marker.exists()


def test_a_task_that_kills_every_worker_ends_the_run_with_its_name(tmp_path: Path) -> None:
    log = tmp_path / "deaths"

    def work(item: int) -> int:
        with log.open("a") as stream:
            stream.write("x")
        os.kill(os.getpid(), 9)
        return item

    with pytest.raises(UserError, match=r"jz5-000007.*workers died"):
        list(
            run_tasks(
                work, [7], cluster=HERE, workers=1, scratch=tmp_path, logs=tmp_path,
                name=lambda item: f"jz5-{item:06d}",
            )
        )  # fmt: skip
    assert log.read_text() == "x" * (ALLOWED_DEATHS + 1)


def test_an_error_of_the_task_comes_up_as_it_is(tmp_path: Path) -> None:
    def work(item: int) -> int:
        raise UserError("disk full", hint="free some")

    with pytest.raises(UserError, match="disk full") as caught:
        list(run_tasks(work, [1], cluster=HERE, workers=1, scratch=tmp_path, logs=tmp_path))
    assert caught.value.hint == "free some"
    assert list(tmp_path.iterdir()) == []


class _Counting:
    """A cluster in this process whose client counts the tasks that it has not given back yet."""

    def __init__(self) -> None:
        self.submitted = self.most = self.done = 0

    def check(self) -> None: ...

    def workers(self, asked: int | None) -> int:
        return asked or 1

    @contextmanager
    def connect(self, workers: int, scratch: Path, logs: Path) -> Iterator[Connection]:
        from distributed import Client

        counting = self

        class Counted(Client):
            def submit(self, *args: Any, **kwargs: Any) -> Any:
                counting.submitted += 1
                counting.most = max(counting.most, counting.submitted - counting.done)
                return super().submit(*args, **kwargs)

        with Counted(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
            yield Connection(client, client.cluster.scheduler)


def test_only_a_few_tasks_are_submitted_at_a_time(tmp_path: Path) -> None:
    cluster = _Counting()
    seen, there = [], []
    for result in run_tasks(
        lambda item: item * item,
        range(500),
        cluster=cluster,
        workers=3,
        scratch=tmp_path,
        logs=tmp_path,
        watch=there.append,
    ):
        cluster.done += 1
        seen.append(result)
    assert sorted(seen) == [item * item for item in range(500)]
    assert cluster.submitted == 500
    assert set(there) == {1}
    assert cluster.most <= AHEAD * 3 + 1


def test_no_tasks_need_no_workers(tmp_path: Path) -> None:
    assert list(run_tasks(str, [], cluster=_Counting(), workers=None, scratch=tmp_path, logs=tmp_path)) == []
