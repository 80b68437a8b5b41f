"""Functions given to workers are written inside the tests, so that they travel by value."""

import os
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from hpctrain.errors import UserError
from hpctrain.ingest import workers
from hpctrain.ingest.workers import ALLOWED_DEATHS, run_tasks


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

    results = list(run_tasks(work, range(12), workers=2, scratch=scratch))
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

    assert sorted(run_tasks(work, range(5), workers=2, scratch=tmp_path)) == list(range(5))
    assert marker.exists()


def test_a_task_that_kills_every_worker_ends_the_run_with_its_name(tmp_path: Path) -> None:
    log = tmp_path / "deaths"

    def work(item: int) -> int:
        with log.open("a") as stream:
            stream.write("x")
        os.kill(os.getpid(), 9)
        return item

    with pytest.raises(UserError, match=r"jz5-000007.*workers died"):
        list(run_tasks(work, [7], workers=1, scratch=tmp_path, name=lambda item: f"jz5-{item:06d}"))
    assert log.read_text() == "x" * (ALLOWED_DEATHS + 1)


def test_an_error_of_the_task_comes_up_as_it_is(tmp_path: Path) -> None:
    def work(item: int) -> int:
        raise UserError("disk full", hint="free some")

    with pytest.raises(UserError, match="disk full") as caught:
        list(run_tasks(work, [1], workers=1, scratch=tmp_path))
    assert caught.value.hint == "free some"
    assert list(tmp_path.iterdir()) == []


def test_missing_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'hpctrain\[physics\]'"):
        workers.require_dask()
