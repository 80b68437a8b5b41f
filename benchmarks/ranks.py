"""What communication costs: two ranks that train together beside two processes that train alone at the same time.

The 64×64×3 network of the demo and the paper's network of 4.5 million parameters, 64 samples a rank, one thread each;
ours with every engine, and bare DistributedDataParallel on Gloo as the yardstick. Every pair is timed in turn.
"""

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from benchmarks.machine_line import machine_line
from hpctrain import registry
from hpctrain.launch.local import mpiexec
from hpctrain.models.cnn import WholeDetectorCNN
from hpctrain.parallel.communicator import SingleCommunicator, connect
from hpctrain.parallel.environment import Ranks
from hpctrain.tasks.base import LossSum, Phase
from hpctrain.training.trainer import Trainer

BATCH, ROUNDS = 64, 9
NETWORKS: dict[str, tuple[dict[str, Any], tuple[int, int, int], int]] = {
    "demo": ({}, (3, 64, 64), 12),
    "paper": ({"filters": (128, 128, 128), "hidden": 512, "normalisation": "none"}, (1, 64, 64), 1),
}
"""Settings, image and steps of one timing."""


def network(name: str) -> nn.Module:
    settings, shape, _ = NETWORKS[name]
    torch.manual_seed(0)
    model: nn.Module = WholeDetectorCNN.Config(**settings).build(shape=shape, classes=2)
    return model


def our_step(name: str, communicator: Any) -> Callable[[], object]:
    model = network(name)
    batch = {"x": torch.rand(BATCH, *NETWORKS[name][1]), "y": torch.randint(0, 2, (BATCH,))}

    def loss(part: dict[str, torch.Tensor]) -> LossSum:
        losses = functional.cross_entropy(model(part["x"]), part["y"], reduction="sum")
        return LossSum(losses, float(len(part["x"])))

    phase = Phase("classify", list(model.parameters()), loss)
    trainer = Trainer([phase], [torch.optim.Adam(phase.parameters)], communicator)
    return lambda: trainer.step(batch)


def ddp_step(name: str) -> Callable[[], object]:
    model = nn.parallel.DistributedDataParallel(network(name))
    optimizer = torch.optim.Adam(model.parameters())
    x, y = torch.rand(BATCH, *NETWORKS[name][1]), torch.randint(0, 2, (BATCH,))

    def step() -> float:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.item()

    return step


def timings(name: str, together: Callable[[], object], barrier: Callable[[], object]) -> list[float]:
    """Of each round: seconds alone over seconds together. Both ranks do both at the same time."""
    alone = our_step(name, SingleCommunicator())
    steps = NETWORKS[name][2]

    def seconds(step: Callable[[], object]) -> float:
        barrier()
        started = time.perf_counter()
        for _ in range(steps):
            step()
        return (time.perf_counter() - started) / steps

    seconds(alone), seconds(together)
    return [seconds(alone) / seconds(together) for _ in range(ROUNDS)]


def rank(engine: str, name: str) -> None:
    """One of two ranks; the first prints the ratios."""
    torch.set_num_threads(1)
    number = int(os.environ.get("PMI_RANK", os.environ.get("RANK", "0")))
    ranks = Ranks(rank=number, size=2, local_rank=number, source="benchmark")
    kind = "gloo" if engine == "ddp" else engine
    communicator = connect(registry.find("engines", kind).Config(), ranks)
    together = ddp_step(name) if engine == "ddp" else our_step(name, communicator)
    ratios = timings(name, together, communicator.barrier)
    everyone = communicator.gather(ratios)
    if number == 0:
        print(*(statistics.mean(pair) for pair in zip(*everyone, strict=True)))
    if engine == "ddp":
        dist.barrier()
    communicator.close()


def start(engine: str, name: str) -> list[float]:
    words = [sys.executable, "-m", "benchmarks.ranks", engine, name]
    if engine == "mpi":
        out = subprocess.run(
            [mpiexec(), "-n", "2", *words], check=True, capture_output=True, text=True
        ).stdout
        return [float(word) for word in out.split()]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    meeting = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(words, env={**meeting, "RANK": str(r)}, stdout=subprocess.PIPE, text=True)
        for r in (0, 1)
    ]
    out = processes[0].communicate()[0]
    if any(process.wait() for process in processes):
        raise RuntimeError(f"{engine} failed")
    return [float(word) for word in out.split()]


def main() -> None:
    if len(sys.argv) == 3:
        rank(*sys.argv[1:])
        return
    print(machine_line())
    print(f"{'two ranks together over two alone':<36}{'median':>8}{'min':>8}{'max':>8}")
    for name in NETWORKS:
        for engine in ("mpi", "gloo", "ddp"):
            ratios = start(engine, name)
            label = f"{name} network, {'bare DDP on gloo' if engine == 'ddp' else engine}"
            print(
                f"{label:<36}{statistics.median(ratios):>8.3f}{min(ratios):>8.3f}{max(ratios):>8.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
