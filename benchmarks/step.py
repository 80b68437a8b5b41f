"""What the trainer costs: its step beside a hand-written PyTorch loop on the same preloaded batches, in turn."""

import itertools
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from benchmarks.machine_line import machine_line
from hpctrain.models.cnn import WholeDetectorCNN
from hpctrain.parallel.communicator import SingleCommunicator
from hpctrain.tasks.base import LossSum, Phase
from hpctrain.training.trainer import Trainer


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


def plain(build: Callable[[], nn.Module], batches: list[dict[str, torch.Tensor]]) -> float:
    """Seconds a step of the loop that everybody writes."""
    torch.manual_seed(0)
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    started = time.perf_counter()
    for batch in batches:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(batch["x"]), batch["y"])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss.item()
    return (time.perf_counter() - started) / len(batches)


def ours(build: Callable[[], nn.Module], batches: list[dict[str, torch.Tensor]]) -> float:
    """Seconds a step of ``Trainer`` on the same."""
    torch.manual_seed(0)
    model = build()

    def loss(batch: dict[str, torch.Tensor]) -> LossSum:
        losses = functional.cross_entropy(model(batch["x"]), batch["y"], reduction="sum")
        return LossSum(losses, float(len(batch["x"])))

    phase = Phase("classify", list(model.parameters()), loss)
    trainer = Trainer([phase], [torch.optim.Adam(phase.parameters, lr=1e-3)], SingleCommunicator())
    started = time.perf_counter()
    for batch in batches:
        trainer.step(batch)
    return (time.perf_counter() - started) / len(batches)


def main() -> None:
    print(machine_line())
    print(f"{'network':<28}{'plain loop':>12}{'ours':>12}{'ratio: median':>16}{'min':>8}{'max':>8}")
    cases = [
        ("64×64×3 CNN, batch 128", cnn, (128, 3, 64, 64), 2, 20),
        ("16-64-32-32-5, batch 1024", tagger, (1024, 16), 5, 200),
    ]
    for name, build, shape, classes, steps in cases:
        torch.manual_seed(1)
        batch = {"x": torch.rand(shape), "y": torch.randint(0, classes, shape[:1])}
        batches = [batch] * steps
        plain(build, batches)
        ours(build, batches)
        pairs = [(plain(build, batches), ours(build, batches)) for _ in range(7)]
        ratios = [b / a for a, b in pairs]
        a, b = (statistics.median(times) * 1e3 for times in zip(*pairs, strict=True))
        print(
            f"{name:<28}{a:>9.3f} ms{b:>9.3f} ms{statistics.median(ratios):>16.3f}{min(ratios):>8.3f}{max(ratios):>8.3f}"
        )


if __name__ == "__main__":
    main()
