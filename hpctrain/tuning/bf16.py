"""Whether a CPU computes with bfloat16 itself, and what that brings: its flags, and a matrix product of each type."""

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

_INSTRUCTIONS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16", "bf16": "Arm BF16"}
"""Flag of /proc/cpuinfo → what it is called; the first that is there is what oneDNN takes."""


@dataclass(frozen=True)
class Bf16:
    """What bfloat16 is on this CPU."""

    instructions: str | None
    """Those that multiply it; None: none, so oneDNN converts to float32 and back."""
    ratio: float
    """Speed of a matrix product in bfloat16 over that in float32, on the threads of this process."""

    @property
    def pays(self) -> bool:
        """Whether it is worth measuring on a whole training step."""
        return self.ratio > 1.05

    def __str__(self) -> str:
        who = f"by {self.instructions}" if self.instructions else "without instructions for it"
        speed = (
            f"{self.ratio:.1f} times as fast as"
            if self.ratio >= 1
            else f"{1 / self.ratio:.1f} times as slow as"
        )
        return f"bf16 {who}: a matrix product is {speed} in float32"


def flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The features that the kernel says the CPU has; none where it does not say."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:  # x86, Arm
            return frozenset(value.split())
    return frozenset()


def instructions(found: frozenset[str]) -> str | None:
    """What of the flags multiplies bfloat16.

    >>> instructions(frozenset({"avx2", "avx512_bf16", "amx_bf16"}))
    'AMX'
    """
    return next((name for flag, name in _INSTRUCTIONS.items() if flag in found), None)


def measure(size: int = 512, rounds: int = 3) -> Bf16:
    """Flags and the measured ratio of products of two (size, size) matrices, each type in turn; takes a blink."""
    generator = torch.Generator().manual_seed(1)
    matrix = torch.rand(size, size, generator=generator)
    matrices = {torch.float32: matrix, torch.bfloat16: matrix.bfloat16()}
    seconds: dict[torch.dtype, list[float]] = {dtype: [] for dtype in matrices}
    with torch.no_grad():
        for number in range(rounds + 1):
            for dtype, one in matrices.items():
                started = time.perf_counter()
                one @ one
                if number:  # the first prepares kernels
                    seconds[dtype].append(time.perf_counter() - started)
    ratio = median(seconds[torch.float32]) / median(seconds[torch.bfloat16])
    return Bf16(instructions(flags()), ratio)
