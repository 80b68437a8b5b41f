"""The first 20 losses of each shipped system, held to stored ones; docs/training.md has the policy.

After a change that may move them: ``python -m pytest tests/golden --write-golden``, and a line in the changelog.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from hpctrain import machine, registry
from hpctrain.parallel.communicator import SingleCommunicator
from hpctrain.track import read_metrics

STEPS = 20
ELSEWHERE = 1e-3
"""Relative tolerance with another processor or other versions: other kernels sum in another order."""
CASES = {
    "image_classification": {
        "default": (),
        "weighted, batch norm": ("task.loss_weights=log", "task.model.normalisation=batch"),
        "micro-batches, clipped, sgd": (
            "training.micro_batch_size=5",
            "training.clip_norm=0.5",
            "training.optimizer.kind=sgd",
        ),
    }
}
"""Task → name of a case → settings on top of those of the toy run (tests/conftest.py, 203 events)."""


def here() -> dict[str, str]:
    """What must be the same for the same bits."""
    return {
        "processor": f"{machine.cpu_model()} ({torch.backends.cpu.get_cpu_capability()})",
        **{name: machine.package_version(name) or "absent" for name in ("torch", "numpy")},
    }


@pytest.fixture
def losses(toy_run):
    """Trains a case on one thread; its first losses."""

    def train(task: str, case: str) -> list[float]:
        settings = (f"task.kind={task}", "training.epochs=3", *CASES[task][case])
        run = toy_run("".join(c if c.isalnum() else "-" for c in case), *settings)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with run.tracker("train") as tracker:
                run.experiment.training.build().run(run, tracker, SingleCommunicator())
        finally:
            torch.set_num_threads(threads)
        steps = [line["loss"] for line in read_metrics(run.metrics_path) if line["event"] == "step"]
        return steps[:STEPS]

    return train


@pytest.mark.parametrize("task", CASES)
def test_losses_are_those_stored(task, losses, request):
    path = Path(__file__).with_name(f"{task}.json")
    got = {case: losses(task, case) for case in CASES[task]}
    assert all(len(values) == STEPS for values in got.values())
    if request.config.getoption("--write-golden"):
        made = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "how": "python -m pytest tests/golden --write-golden",
        }
        path.write_text(json.dumps({"origin": {**made, **here()}, "losses": got}, indent=1) + "\n")
    stored = json.loads(path.read_text())
    assert set(stored["losses"]) == set(got)
    if all(stored["origin"][name] == value for name, value in here().items()):
        assert got == stored["losses"], "bit for bit on the same processor and versions"
    for case, values in stored["losses"].items():
        assert got[case] == pytest.approx(values, rel=ELSEWHERE), case


def test_every_shipped_task_has_golden_losses():
    own = {k for k in registry.kinds("tasks") if registry.find("tasks", k).__module__.startswith("hpctrain.")}
    assert set(CASES) == own
