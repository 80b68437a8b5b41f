"""Run directories of clearly synthetic events for the report: what the package's own steps wrote into them."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hpctrain.files import write_json
from hpctrain.parallel.communicator import SingleCommunicator
from hpctrain.run import RunDirectory

# What `hpctrain firmware` writes, in small; the compiler it needs is no part of these tests.
VERIFICATION: dict[str, Any] = {
    "passed": True,
    "events": 200,
    "max_abs_difference": 0.0,
    "mismatches": 0,
    "tolerance": 0.0,
    "backend": "Vitis",
    "io_type": "io_stream",
    "tool_versions": {"hls4ml": "1.3.0"},
    "layers": [
        {"name": "x", "class": "Input", "precision": {"result": "fixed<8,2>"}},
        {
            "name": "conv1",
            "class": "Conv2D",
            "precision": {"result": "fixed<8,4>", "weight": "fixed<8,1>"},
            "weights": 108,
            "nonzero_weights": 61,
            "multiplications": 15616,
            "reuse_factor": 4,
            "dsp": 27,
            "interval_cycles": 2560,
        },
    ],
    "estimates": {"kind": "estimate", "note": "synthetic numbers", "dsp": 27, "interval_cycles": 2560},
}


def finish(run: RunDirectory, step: str, summary: dict[str, Any]) -> None:
    run.finish_step(
        step,
        {
            "fingerprint": "synthetic",
            "started": 0.0,
            "wall_s": 80.0,
            "peak_memory_bytes": 5 * 10**8,
            "summary": summary,
        },
    )


def report(run: RunDirectory, **config: Any) -> tuple[str, dict[str, Any]]:
    """Write the page; returns it and the step's summary."""
    from hpctrain.report.html import HtmlReport

    with run.tracker("report") as tracker:
        summary = HtmlReport(HtmlReport.Config(**config)).run(run, tracker)
    return run.report_path.read_text(encoding="utf-8"), summary


def _events() -> ModuleType:
    """The synthetic events of the evaluation's tests."""
    path = Path(__file__).parents[1] / "evaluate" / "conftest.py"
    spec = importlib.util.spec_from_file_location("synthetic_events", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Generated and trained, nothing else."""
    return _events().make_trained_run(tmp_path_factory.mktemp("runs"), events=600)


@pytest.fixture(scope="session")
def complete(trained: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Every step done."""
    from hpctrain.compress.prune import MagnitudePruning
    from hpctrain.compress.prune_quantise import PruneQuantise

    run = RunDirectory(tmp_path_factory.mktemp("complete") / "synthetic")
    shutil.copytree(trained.path, run.path)
    with run.tracker("evaluate") as tracker:
        finish(run, "evaluate", run.experiment.evaluate.build().run(run, tracker))
    config = PruneQuantise.Config(
        pruning=MagnitudePruning.Config(sparsities=(0.3, 0.5)), quantised_epochs=1, replicas=20
    )
    with run.tracker("compress") as tracker:
        finish(run, "compress", config.build().run(run, tracker, SingleCommunicator()))
    write_json(run.firmware / "verification.json", VERIFICATION)
    finish(run, "firmware", {"headline": "synthetic"})
    return run


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[RunDirectory], RunDirectory]:
    """A copy to change."""

    def copy(run: RunDirectory) -> RunDirectory:
        shutil.copytree(run.path, tmp_path / "copy")
        return RunDirectory(tmp_path / "copy")

    return copy


@pytest.fixture
def write_report() -> Callable[..., tuple[str, dict[str, Any]]]:
    return report
