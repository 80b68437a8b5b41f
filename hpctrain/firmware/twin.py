"""The plain torch network that hls4ml reads: weights already on their grids, no quantisers."""

from __future__ import annotations

import builtins
import keyword
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from hpctrain.compress.prune import MaskedLayer, rebuild
from hpctrain.compress.types import LayerTypes

_PLAIN: dict[str, type[nn.Module]] = {
    "QuantisedConv1d": nn.Conv1d,
    "QuantisedConv2d": nn.Conv2d,
    "QuantisedLinear": nn.Linear,
}


def firmware_name(name: str) -> str:
    """``name`` as torch.fx and C++ take it unchanged; others, such as the digits of an nn.Sequential, get a prefix."""
    taken = keyword.iskeyword(name) or hasattr(builtins, name)
    return name if name.isidentifier() and not taken else f"layer_{name}"


@torch.no_grad()
def plain_twin(types: Sequence[LayerTypes]) -> nn.Sequential:
    """The chain that ``types`` (of ``layer_types``) describes, in float64, with plain torch layers.

    Its weights are the fixed-point ones, so it is the quantised network without the quantisers; their work is
    done in firmware by the types of the layers' results.
    """
    chain: OrderedDict[str, nn.Module] = OrderedDict()
    for entry in types:
        layer = entry.layer
        if layer is None:
            continue
        if isinstance(layer, MaskedLayer):
            plain = rebuild(layer.double(), _PLAIN[type(layer).__name__])
            weight, bias = layer.effective()
            plain.weight.copy_(weight)  # type: ignore[operator]
            plain.bias.copy_(bias)  # type: ignore[operator]
            layer = plain
        chain[firmware_name(entry.name)] = layer
    return nn.Sequential(chain).double().eval()
