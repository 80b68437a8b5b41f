"""The peak that a rank's speed is held against: that of a matrix product, measured here and now."""

import time
from dataclasses import dataclass

import torch

from hpctrain.parallel.communicator import Communicator

MEASURED_S = 0.15
"""Seconds of matrix products, after one that warms up."""


@dataclass(frozen=True)
class Peak:
    """What all ranks reached together."""

    flops_per_second: float
    """Of all ranks together."""
    measured_with: str
    """In words: which product, in which precision, on what."""


def measure_peak(communicator: Communicator, dtype: torch.dtype) -> Peak:
    """Multiply matrices on all ranks at once, so that ranks that share a machine share it here too.

    ``dtype`` is the one that the network multiplies in. Every rank calls it. No random generator is touched.
    """
    side = matrix_side(communicator.device, torch.get_num_threads())
    communicator.barrier()
    rates = communicator.gather(matmul_rate(communicator.device, dtype, side))
    where = "its GPU" if communicator.device.type == "cuda" else threads(torch.get_num_threads())
    ranks = "one rank" if len(rates) == 1 else f"each of {len(rates)} ranks at once"
    precision = str(dtype).removeprefix("torch.")
    return Peak(sum(rates), f"{precision} matrix products {side}×{side} on {ranks}, {where}")


def threads(number: int) -> str:
    return f"{number} thread{'s' if number != 1 else ''}"


def matrix_side(device: torch.device, threads: int) -> int:
    """Large enough to keep the device busy, small enough for several products in the time there is."""
    if device.type == "cuda":
        return 8192
    return 1024 if threads < 8 else 2048


def matmul_rate(device: torch.device, dtype: torch.dtype, side: int, seconds: float = MEASURED_S) -> float:
    """FLOP/s (2·side³ a product) of the products that are done within some ``seconds``; one at the least."""
    generator = torch.Generator(device).manual_seed(0)  # of our own: training draws from the others
    a, b = (torch.rand(side, side, generator=generator, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(a)
    torch.mm(a, b, out=product)
    _wait(device)
    done, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds or not done:
        torch.mm(a, b, out=product)
        _wait(device)
        done += 1
    return 2 * side**3 * done / passed


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
