import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpctrain.errors import UserError
from hpctrain.ingest.clusters.base import (
    at_our_end,
    credentials,
    last_words,
    require_dask,
    worker_environment,
)

SCRIPT = """
import sys, time
from hpctrain.ingest.clusters.base import at_our_end
with at_our_end(["/bin/sh", "-c", "echo done > " + sys.argv[1]]):
    print("inside", flush=True)
    time.sleep(60)
"""


def _appears(path: Path, within_s: float = 10.0) -> bool:
    until = time.monotonic() + within_s
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.02)
    return path.exists()


def test_the_command_runs_when_the_block_ends(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with at_our_end(["touch", str(mark)]):
        assert not mark.exists()
    assert mark.exists()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_the_command_runs_when_the_process_is_killed(tmp_path: Path, signum: int) -> None:
    mark = tmp_path / "mark"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, mark], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"inside\n"
    assert not mark.exists()
    os.killpg(process.pid, signum)
    process.wait()
    assert _appears(mark)


def test_keys_are_for_this_user_alone(tmp_path: Path) -> None:
    security = credentials(tmp_path)
    assert {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {
        "certificate.pem": 0o600,
        "key.pem": 0o600,
    }
    environment = worker_environment(security)
    assert environment["DASK_DISTRIBUTED__COMM__TLS__WORKER__KEY"] == str(tmp_path / "key.pem")
    assert environment["DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"] == "True"
    assert environment["OMP_NUM_THREADS"] == "1"


def test_dask_understands_the_environment(tmp_path: Path) -> None:
    """Names and values survive the way through environment variables."""
    import dask
    from dask.config import collect_env

    with dask.config.set(collect_env(worker_environment(credentials(tmp_path)))):
        assert dask.config.get("distributed.worker.memory.pause") is False
        assert dask.config.get("distributed.worker.memory.terminate") == 0.95
        assert dask.config.get("distributed.comm.timeouts.connect") == "60s"
        assert dask.config.get("distributed.comm.tls.ca-file") == str(tmp_path / "certificate.pem")


def test_last_words(tmp_path: Path) -> None:
    assert last_words(tmp_path / "absent") == "they wrote nothing"
    (tmp_path / "a.err").write_text("old\n")
    (tmp_path / "b.err").write_text("first\nthe reason\n")
    os.utime(tmp_path / "a.err", (1, 1))
    (tmp_path / "c.out").touch()
    assert last_words(tmp_path) == "the reason"


@pytest.mark.parametrize("module", ["distributed", "cryptography"])
def test_a_missing_package_is_named(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find(name))
    with pytest.raises(UserError, match=rf"{module}.*pip install 'hpctrain\[physics\]'"):
        require_dask()
