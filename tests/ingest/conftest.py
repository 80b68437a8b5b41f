"""A small generation, and a run directory for it that needs no other room."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpctrain import machine
from hpctrain.config import Experiment
from hpctrain.registry import find
from hpctrain.run import RunDirectory

SMALL = {
    "processes": [{"process": "rpv_gluino", "events": 40}, {"process": "jz7", "events": 160}],
    "events_per_chunk": 40,
}


@pytest.fixture(scope="session")
def small() -> dict[str, Any]:
    """Settings of a generation of a few seconds: five chunks."""
    return SMALL


@pytest.fixture(scope="session")
def generate() -> Callable[..., tuple[RunDirectory, dict[str, Any]]]:
    """Run the step in ``folder`` with the given settings; the run directory and the step's figures."""

    def go(folder: Path, *, seed: int = 5, **settings: Any) -> tuple[RunDirectory, dict[str, Any]]:
        folder.mkdir(parents=True, exist_ok=True)
        run = RunDirectory(folder, Experiment(name="test", seed=seed))
        run.logs.mkdir(exist_ok=True)
        settings = {"kind": "pythia_whole_detector", **settings}
        component = find("ingest", settings["kind"]).Config.model_validate(settings).build()
        # The commit may move while tests run; everything else in the record must not.
        with run.tracker("generate") as tracker, pytest.MonkeyPatch.context() as patch:
            patch.setattr(machine, "commit", lambda: "0" * 40)
            return run, component.run(run, tracker)

    return go
