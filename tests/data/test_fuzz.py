"""A dataset damaged in hundreds of ways gives the events that were written or one line, never anything else."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("compression", "seed"), [("none", 1), ("zstd", 2)])
def test_damaged_datasets_are_refused_or_read_right(tmp_path, compression, seed):
    """In a process of its own: HDF5 may crash, and what did it is then the last line printed."""
    worker = Path(__file__).with_name("fuzz_shards.py")
    result = subprocess.run(
        [sys.executable, worker, tmp_path / "d", compression, str(seed), "500"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    last = "\n".join(result.stdout.splitlines()[-2:])
    assert result.returncode == 0, f"{last}\n{result.stderr}"
