"""Images a second of the paper's network (64×64×1, 128 filters, batch 512) with each setting that may make it faster.

Training steps of our trainer, in turn, beside default PyTorch (float32, contiguous); matrix products of the same
precision as the roofline. Images are random: for speed alone.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from benchmarks.machine_line import machine_line
from hpctrain import machine
from hpctrain.models.cnn import WholeDetectorCNN
from hpctrain.parallel.communicator import SingleCommunicator
from hpctrain.tasks.base import LossSum, Phase
from hpctrain.training.flops import step_flops
from hpctrain.training.peak import measure_peak
from hpctrain.training.precision import Precision
from hpctrain.training.trainer import Trainer

SHAPE = (1, 64, 64)


def paper() -> nn.Module:
    """The network of the paper's code."""
    torch.manual_seed(0)
    config = WholeDetectorCNN.Config(filters=(128, 128, 128), hidden=512, normalisation="batch")
    model: nn.Module = config.build(shape=SHAPE, classes=2)
    return model


def our_step(
    batch: dict[str, torch.Tensor],
    *,
    precision: str = "float32",
    layout: bool = False,
    compiled: bool = False,
) -> tuple[Callable[[], object], Phase, nn.Module]:
    model = paper()
    if layout:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if compiled:
        model.compile()

    def loss(part: dict[str, torch.Tensor]) -> LossSum:
        logits = model(part["x"]).float()
        return LossSum(functional.cross_entropy(logits, part["y"], reduction="sum"), float(len(part["x"])))

    phase = Phase("classify", list(model.parameters()), loss)
    optimizer = torch.optim.Adam(phase.parameters)
    trainer = Trainer([phase], [optimizer], SingleCommunicator(), precision=Precision(precision))  # type: ignore[arg-type]
    return lambda: trainer.step(batch), phase, model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bf16", action="store_true", help="also where the processor has no units for it")
    options = parser.parse_args()
    torch.set_num_threads(machine.cores())
    print(machine_line())
    torch.manual_seed(1)
    batch = {"x": torch.rand(options.batch, *SHAPE), "y": torch.randint(0, 2, (options.batch,))}
    settings: dict[str, dict[str, object]] = {
        "default: float32, contiguous": {},
        "channels last": {"layout": True},
        "channels last, compiled": {"layout": True, "compiled": True},
    }
    if options.bf16 or torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        settings["bf16, channels last"] = {"precision": "bf16", "layout": True}
        settings["bf16, channels last, compiled"] = {"precision": "bf16", "layout": True, "compiled": True}
    steps = {name: our_step(batch, **chosen) for name, chosen in settings.items()}  # type: ignore[arg-type]
    _, phase, model = steps["default: float32, contiguous"]
    flops = step_flops([phase], model, {k: v[:8] for k, v in batch.items()}) / 8
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(options.rounds + 1):
        for name, (step, _, _) in steps.items():
            started = time.perf_counter()
            step()
            if number:  # the first compiles and fills caches
                seconds[name].append(time.perf_counter() - started)
    peak = measure_peak(SingleCommunicator(), torch.float32)
    print(
        f"roofline: {peak.flops_per_second / 1e9:,.0f} GFLOP/s, {peak.measured_with}; {flops / 1e9:.2f} GFLOP an image"
    )
    print(f"{'':<34}{'images/s':>10}{'of the roof':>13}{'ratio: median':>15}{'min':>8}{'max':>8}")
    for name, found in seconds.items():
        ratios = [a / b for a, b in zip(seconds["default: float32, contiguous"], found, strict=True)]
        rate = options.batch / statistics.median(found)
        print(
            f"{name:<34}{rate:>10.1f}{rate * flops / peak.flops_per_second:>13.2f}{statistics.median(ratios):>15.2f}"
            f"{min(ratios):>8.2f}{max(ratios):>8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
