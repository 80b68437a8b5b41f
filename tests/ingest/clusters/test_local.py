"""Functions given to workers are written inside the tests, so that they travel by value."""

import os
import time
from pathlib import Path

import pytest

from hpctrain.ingest.clusters.base import credentials
from hpctrain.ingest.clusters.local import ThisMachine
from hpctrain.ingest.workers import run_tasks


def test_one_worker_a_core_unless_asked() -> None:
    here = ThisMachine(ThisMachine.Config())
    assert here.workers(3) == 3
    assert here.workers(None) >= 1


def test_libraries_have_one_thread_whatever_the_launcher_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")

    def threads() -> tuple[str, set[int]]:
        from threadpoolctl import threadpool_info

        return os.environ["OMP_NUM_THREADS"], {library["num_threads"] for library in threadpool_info()}

    with ThisMachine(ThisMachine.Config()).connect(1, tmp_path, tmp_path) as connection:
        assert connection.client.submit(threads).result() == ("1", {1})
    assert os.environ["OMP_NUM_THREADS"] == "8"


def test_a_stranger_is_turned_away(tmp_path: Path) -> None:
    from distributed import Client

    (tmp_path / "theirs").mkdir()
    with ThisMachine(ThisMachine.Config()).connect(1, tmp_path, tmp_path) as connection:
        address = connection.client.scheduler.address
        assert address.startswith("tls://127.0.0.1:")
        with pytest.raises(OSError, match="certificate"):
            Client(address, security=credentials(tmp_path / "theirs"), timeout="1s")
        with pytest.raises(OSError, match=r"Connection reset|closed|Timed out"):
            Client(address.replace("tls", "tcp"), timeout="1s")
        assert connection.client.submit(abs, -1).result() == 1


def test_a_worker_that_needs_too_much_memory_is_ended_and_its_task_done_again(tmp_path: Path) -> None:
    log = tmp_path / "attempts"

    def work(item: int) -> int:
        import numpy as np

        with log.open("a") as stream:
            stream.write("x")
        if log.read_text() == "x":
            held = np.ones(100_000_000)  # 800 MB
            time.sleep(30)
            return int(held[item])
        return item

    here = ThisMachine(ThisMachine.Config(memory="500MB"))
    assert list(run_tasks(work, [7], cluster=here, workers=1, scratch=tmp_path, logs=tmp_path)) == [7]
    assert log.read_text() == "xx"


@pytest.mark.parametrize("memory", ["1 potato", "1", "-1GB"])
def test_memory_is_a_number_with_a_unit(memory: str) -> None:
    with pytest.raises(ValueError, match="memory"):
        ThisMachine.Config(memory=memory)
