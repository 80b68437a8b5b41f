"""What the trainer costs: its step beside a hand-written PyTorch loop on the same preloaded batches, in turn.

``fused``: our step with the fused optimiser; ``compiled``: with the network compiled too. Lightning's Trainer stands
beside them where it is installed. One thread, so that threads do not wait for each other.
"""

import contextlib
import importlib.util
import itertools
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.machine_line import machine_line
from hpctrain.models.cnn import WholeDetectorCNN
from hpctrain.parallel.communicator import SingleCommunicator
from hpctrain.tasks.base import LossSum, Phase
from hpctrain.training.trainer import Trainer

Batch = dict[str, torch.Tensor]
Seconds = Callable[[], float]
"""Makes some steps; seconds of one."""
ROUNDS = 15


def cnn() -> nn.Module:
    """The whole-detector network of the demo."""
    model: nn.Module = WholeDetectorCNN.Config().build(shape=(3, 64, 64), classes=2)
    return model


def tagger() -> nn.Module:
    """The dense jet tagger, 16-64-32-32-5: so small that overhead shows."""
    widths = (16, 64, 32, 32, 5)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def timed(step: Callable[[], object], steps: int) -> Seconds:
    def run() -> float:
        started = time.perf_counter()
        for _ in range(steps):
            step()
        return (time.perf_counter() - started) / steps

    run()
    return run


def plain(model: nn.Module, batch: Batch, steps: int) -> Seconds:
    """The loop that everybody writes."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step() -> float:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(batch["x"]), batch["y"])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.item()

    return timed(step, steps)


def ours(
    model: nn.Module, batch: Batch, steps: int, *, fused: bool = False, compiled: bool = False
) -> Seconds:
    """``Trainer`` on the same."""
    if compiled:
        model.compile()

    def loss(batch: Batch) -> LossSum:
        losses = functional.cross_entropy(model(batch["x"]), batch["y"], reduction="sum")
        return LossSum(losses, float(len(batch["x"])))

    phase = Phase("classify", list(model.parameters()), loss)
    optimizer = torch.optim.Adam(phase.parameters, lr=1e-3, fused=fused or None)
    trainer = Trainer([phase], [optimizer], SingleCommunicator())
    return timed(lambda: trainer.step(batch), steps)


def lightning(model: nn.Module, batch: Batch, steps: int) -> Seconds:
    """Lightning's Trainer on the same, without logging, checkpoints and progress bar."""
    import lightning as pl

    class Module(pl.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = model

        def training_step(self, part: Batch, _: int) -> torch.Tensor:
            return functional.cross_entropy(self.network(part["x"]), part["y"])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    module = Module()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    def run() -> float:
        marks: list[float] = []

        class Marks(pl.Callback):  # type: ignore[misc]
            def on_train_batch_end(self, *_: Any) -> None:
                marks.append(time.perf_counter())

        trainer = pl.Trainer(
            max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[Marks()],
            enable_progress_bar=False, enable_model_summary=False, barebones=False,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(module, [batch] * (steps + 1))
        return (marks[-1] - marks[0]) / (len(marks) - 1)  # without its start

    return run


def main() -> None:
    torch.set_num_threads(1)
    print(machine_line())
    kinds: dict[str, Callable[[nn.Module, Batch, int], Seconds]] = {
        "plain loop": plain,
        "ours": ours,
        "ours, fused": lambda m, b, n: ours(m, b, n, fused=True),
        "ours, fused, compiled": lambda m, b, n: ours(m, b, n, fused=True, compiled=True),
    }
    if importlib.util.find_spec("lightning") is not None:
        kinds["Lightning"] = lightning
    cases = [
        ("64×64×3 CNN, batch 128", cnn, (128, 3, 64, 64), 2, 4),
        ("16-64-32-32-5, batch 1024", tagger, (1024, 16), 5, 100),
    ]
    for name, build, shape, classes, steps in cases:
        torch.manual_seed(1)
        batch = {"x": torch.rand(shape), "y": torch.randint(0, classes, shape[:1])}
        runs: dict[str, Seconds] = {}
        for kind, make in kinds.items():
            torch.manual_seed(0)
            with contextlib.suppress(Exception) if "compiled" in kind else contextlib.nullcontext():
                runs[kind] = make(build(), batch, steps)
        seconds = {kind: [] for kind in runs}  # type: dict[str, list[float]]
        for _ in range(ROUNDS):
            for kind, run in runs.items():
                seconds[kind].append(run())
        print(f"{name:<28}{'ms':>10}{'ratio: median':>16}{'min':>8}{'max':>8}")
        for kind, found in seconds.items():
            ratios = [mine / other for mine, other in zip(found, seconds["plain loop"], strict=True)]
            print(
                f"  {kind:<26}{statistics.median(found) * 1e3:>10.3f}{statistics.median(ratios):>16.3f}"
                f"{min(ratios):>8.3f}{max(ratios):>8.3f}"
            )


if __name__ == "__main__":
    main()
