"""BatchNorm folded into the layer before it: the same function with fewer operations (Jacob et al. 2018, eq. 14)."""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from torch import nn

from hpctrain.compress.straight import BATCHNORM, WEIGHTED
from hpctrain.errors import UserError


def fold_batchnorm(network: nn.Sequential) -> nn.Sequential:
    """A copy of ``network`` (a flat chain) in which every BatchNorm is absorbed by the Conv or Linear before it.

    Uses the running statistics, so it equals ``network.eval()`` to rounding. Every remaining layer with weights
    has a bias. Raises ``UserError`` if a BatchNorm has no such layer before it or no running statistics.
    """
    folded: OrderedDict[str, nn.Module] = OrderedDict()
    previous: nn.Module | None = None
    for name, layer in network.named_children():
        if isinstance(layer, BATCHNORM):
            if not isinstance(previous, WEIGHTED):
                raise UserError(
                    f"BatchNorm '{name}' does not follow a Conv or Linear layer",
                    hint="put it between the layer with weights and its activation",
                )
            _absorb(name, previous, layer)
            continue
        previous = copy.deepcopy(layer)
        if isinstance(previous, WEIGHTED) and previous.bias is None:
            previous.bias = nn.Parameter(previous.weight.new_zeros(previous.weight.shape[0]))
        folded[name] = previous
    return nn.Sequential(folded)


@torch.no_grad()
def _absorb(name: str, layer: nn.Module, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    if norm.running_mean is None or norm.running_var is None:
        raise UserError(f"BatchNorm '{name}' keeps no running statistics", hint="track_running_stats=True")
    per_output: tuple[int, ...] = (-1, *([1] * (layer.weight.dim() - 1)))  # type: ignore[operator]
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.affine:
        scale = scale * norm.weight.double()
    shift = norm.bias.double() if norm.affine else torch.zeros_like(scale)
    weight, bias = layer.weight, layer.bias
    weight.copy_(weight.double() * scale.reshape(per_output))  # type: ignore[operator]
    bias.copy_((bias.double() - norm.running_mean.double()) * scale + shift)  # type: ignore[operator]
