"""Small quantised networks with random weights; nothing is trained."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from hpctrain.compress.prune import MagnitudePruning, with_masks
from hpctrain.compress.quantise import Calibration, exact, quantise_network
from hpctrain.compress.straight import straight_line
from hpctrain.track import Tracker

Quantise = Callable[..., tuple[nn.Sequential, torch.Tensor]]


@pytest.fixture
def tracker(tmp_path: Path) -> Tracker:
    return Tracker("firmware", tmp_path / "metrics.jsonl", tmp_path / "progress")


@pytest.fixture
def quantised() -> Quantise:
    """(network, shape) → exact quantised network and 40 inputs, of which some are beyond the input type's range."""

    def make(
        network: nn.Module,
        shape: tuple[int, ...],
        *,
        signed: bool = False,
        bits: int = 8,
        sparsity: float = 0.5,
    ) -> tuple[nn.Sequential, torch.Tensor]:
        generator = torch.Generator().manual_seed(7)
        inputs = torch.rand(40, *shape, generator=generator) * 2 - (1 if signed else 0)
        masked = with_masks(straight_line(network)).eval()
        pruning = MagnitudePruning(MagnitudePruning.Config())
        pruning.apply(masked, pruning.prune(masked, sparsity))
        calibration = Calibration(masked)
        calibration.add(inputs[:20])
        chain = exact(quantise_network(masked, calibration.types(bits, bits, 1e-2), bits))
        inputs[0] *= 3
        return chain, inputs.double()

    return make


@pytest.fixture
def cnn() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 3, 3, padding=1), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2),
    )  # fmt: skip


@pytest.fixture
def mlp() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))
