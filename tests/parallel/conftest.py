"""A Slurm whose nodes have names that lead to this machine, so that ranks can meet there."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def resolvable_slurm(slurm_class: Any) -> Iterator[Any]:
    """Two nodes of two CPUs. Fails, and does not skip, where Slurm cannot run."""
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
        cluster = slurm_class(Path(folder), nodes=("127.0.0.1", "127.0.0.2"))
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()
