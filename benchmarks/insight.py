"""What looking costs: the laps of a step, and what is measured at the start of a training."""

import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from benchmarks.machine_line import machine_line
from benchmarks.step import cnn, tagger
from hpctrain.parallel.communicator import SingleCommunicator
from hpctrain.tasks.base import LossSum, Phase
from hpctrain.training.clock import Clock
from hpctrain.training.flops import step_flops
from hpctrain.training.peak import measure_peak

LAPS = 8
"""Of a step of one phase without micro-batches: five in the trainer, three in the loop around it."""


def lap_s(laps: int = 200_000) -> float:
    """Seconds of one lap."""
    clock = Clock()
    clock.start()
    started = time.perf_counter()
    for _ in range(laps):
        clock.lap("forward")
    return (time.perf_counter() - started) / laps


def timed(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main() -> None:
    print(machine_line())
    lap = statistics.median(lap_s() for _ in range(5))
    print(f"{LAPS} laps a step: {LAPS * lap * 1e6:.2f} µs, {LAPS * lap / 1e-3:.3%} of a step of 1 ms")
    for name, build, shape, classes in (("CNN", cnn, (3, 64, 64), 2), ("tagger", tagger, (16,), 5)):
        model = build()
        batch = {"x": torch.rand(32, *shape), "y": torch.randint(0, classes, (32,))}

        def loss(batch: dict[str, torch.Tensor], model: torch.nn.Module = model) -> LossSum:
            losses = functional.cross_entropy(model(batch["x"]), batch["y"], reduction="sum")
            return LossSum(losses, torch.tensor(float(len(batch["x"]))))

        phase = Phase("classify", list(model.parameters()), loss)
        torch.optim.Adam(
            phase.parameters
        )  # as in a training, where torch then has imported what the counter needs
        first, again = (timed(lambda p=phase, m=model, b=batch: step_flops([p], m, b)) for _ in range(2))  # type: ignore[misc]
        flops = step_flops([phase], model, batch) / 32
        print(f"{name}: {flops:,.0f} FLOPs a sample, counted in {first:.3f} s (again: {again:.3f} s)")
    seconds = timed(lambda: measure_peak(SingleCommunicator(), torch.float32))
    peak = measure_peak(SingleCommunicator(), torch.float32)
    print(
        f"peak {peak.flops_per_second / 1e9:.1f} GFLOP/s ({peak.measured_with}), measured in {seconds:.3f} s"
    )


if __name__ == "__main__":
    main()
