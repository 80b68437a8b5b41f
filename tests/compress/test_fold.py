"""Folding BatchNorm changes no output: equal to float64 rounding."""

import pytest
import torch
from torch import nn

from hpctrain.compress.fold import fold_batchnorm
from hpctrain.compress.straight import straight_line
from hpctrain.errors import UserError


def network_with_statistics(affine: bool) -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3, affine=affine), nn.ReLU(), nn.Flatten(),
        nn.Linear(12, 4), nn.BatchNorm1d(4, affine=affine), nn.ReLU(), nn.Linear(4, 2),
    ).double()  # fmt: skip
    with torch.no_grad():
        for layer in network:
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.1, 3)
                if affine:
                    layer.weight.normal_()
                    layer.bias.normal_()
    return network.eval()


@pytest.mark.parametrize("affine", [True, False])
def test_folded_network_is_the_same_function(affine: bool) -> None:
    network = network_with_statistics(affine)
    folded = fold_batchnorm(straight_line(network))
    x = torch.randn(50, 2, 4, 4, dtype=torch.float64)
    assert [type(layer) for layer in folded].count(nn.BatchNorm2d) == 0
    assert torch.allclose(folded(x), network(x), rtol=1e-12, atol=1e-12)


def test_batchnorm_after_the_activation_is_refused() -> None:
    with pytest.raises(UserError, match="BatchNorm '2' does not follow"):
        fold_batchnorm(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.BatchNorm1d(2)))


def test_batchnorm_without_statistics_is_refused() -> None:
    with pytest.raises(UserError, match="running statistics"):
        fold_batchnorm(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)))
