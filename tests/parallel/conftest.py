"""A Slurm whose nodes have names that lead to this machine, so that ranks can meet there."""

import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def _slurm_class() -> Any:
    path = Path(__file__).parents[1] / "ingest" / "clusters" / "conftest.py"
    spec = importlib.util.spec_from_file_location("slurm_of_tests", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Slurm


@pytest.fixture(scope="session")
def resolvable_slurm() -> Iterator[Any]:
    """Two nodes of two CPUs. Fails, and does not skip, where Slurm cannot run."""
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
        cluster = _slurm_class()(Path(folder), nodes=("127.0.0.1", "127.0.0.2"))
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()
