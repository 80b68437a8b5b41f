"""A network as a chain of named layers: what folding, pruning, quantising and firmware can all walk along."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from typing import NoReturn

import torch
from torch import fx, nn

from hpctrain.errors import UserError

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Linear)
BATCHNORM = (nn.BatchNorm1d, nn.BatchNorm2d)
MAX_POOL = (nn.MaxPool1d, nn.MaxPool2d)
AVERAGE_POOL = (nn.AvgPool1d, nn.AvgPool2d)
_NOTHING = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Identity)
_FUNCTIONS: dict[object, type[nn.Module]] = {
    torch.flatten: nn.Flatten, torch.relu: nn.ReLU, nn.functional.relu: nn.ReLU, "flatten": nn.Flatten, "relu": nn.ReLU,
}  # fmt: skip
_NEAREST = {
    "AdaptiveAvgPool1d": "AvgPool1d over the whole length", "AdaptiveAvgPool2d": "AvgPool2d over the whole image",
    "AdaptiveMaxPool2d": "MaxPool2d over the whole image", "GELU": "ReLU", "SiLU": "ReLU", "ELU": "ReLU",
    "LeakyReLU": "ReLU", "PReLU": "ReLU", "Tanh": "ReLU", "Sigmoid": "ReLU inside, logits at the end",
    "Softmax": "logits at the end (the ordering is the same)", "LayerNorm": "BatchNorm after Conv or Linear",
    "GroupNorm": "BatchNorm after Conv or Linear", "Conv3d": "Conv2d", "LazyLinear": "Linear",
    "add": "a chain without skip connections", "cat": "a chain without branches",
}  # fmt: skip


def straight_line(network: nn.Module) -> nn.Sequential:
    """``network`` as one flat ``nn.Sequential`` of copies of its layers, in the order in which they act.

    Dropout and Identity, which do nothing in use, are left out. Names keep the module's own path with
    underscores for dots. Raises ``UserError`` naming the first layer that does not fit into such a chain
    (Conv1d/2d, BatchNorm, ReLU, MaxPool, AvgPool, Flatten, Linear) and what to use in its place.
    """
    try:
        graph = fx.Tracer().trace(network)
    except Exception as error:
        raise UserError(
            f"{type(network).__name__} cannot be traced for compression ({error})",
            hint="its forward must be a fixed chain of layers without control flow",
        ) from error
    modules = dict(network.named_modules())
    chain: OrderedDict[str, nn.Module] = OrderedDict()
    previous: fx.Node | None = None
    for node in graph.nodes:
        if node.op == "output":
            if node.args[0] is not previous:
                _refuse(network, "output", "several outputs")
            break
        if node.op == "placeholder":
            if previous is not None:
                _refuse(network, node.name, "several inputs")
        elif node.op == "get_attr":
            _refuse(network, str(node.target), "constant")
        else:
            if [*node.all_input_nodes] != [previous]:
                kind = modules[str(node.target)] if node.op == "call_module" else node.target
                _refuse(network, node.name, getattr(kind, "__name__", type(kind).__name__))
            layer = _layer(network, node, modules)
            if not isinstance(layer, _NOTHING):
                name = str(node.target).replace(".", "_") if node.op == "call_module" else node.name
                while name in chain:  # one ReLU module used twice is two layers of the chain
                    name += "_again"
                chain[name] = layer
        previous = node
    if not any(isinstance(layer, WEIGHTED) for layer in chain.values()):
        raise UserError(
            f"{type(network).__name__} has no weights to compress", hint="give it Conv or Linear layers"
        )
    return nn.Sequential(_short_names(chain))


def _short_names(chain: OrderedDict[str, nn.Module]) -> OrderedDict[str, nn.Module]:
    """Without the module path that all layers share, so that ``layers.conv1`` is called conv1."""
    heads = {name.partition("_")[0] for name in chain}
    shared = f"{heads.pop()}_" if len(heads) == 1 and all("_" in name for name in chain) else ""
    short = [name.removeprefix(shared) for name in chain]
    names = [f"{name}_layer" if name == "input" else name for name in short]
    return OrderedDict(zip(names, chain.values(), strict=True))


def _layer(network: nn.Module, node: fx.Node, modules: dict[str, nn.Module]) -> nn.Module:
    if node.op != "call_module":
        kind = _FUNCTIONS.get(node.target)
        if kind is None:
            name = getattr(node.target, "__name__", str(node.target))
            _refuse(network, node.name, name)
        if kind is nn.Flatten and [*node.args[1:], *node.kwargs.values()] not in ([1], [1, -1]):
            _refuse(network, node.name, "flatten of part of the axes", "flatten(x, 1)")
        return kind()
    layer = modules[str(node.target)]
    name = str(node.target)
    if not isinstance(
        layer, (*WEIGHTED, *BATCHNORM, *MAX_POOL, *AVERAGE_POOL, nn.ReLU, nn.Flatten, *_NOTHING)
    ):
        _refuse(network, name, type(layer).__name__)
    if isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) != (1, -1):
        _refuse(network, name, "Flatten of part of the axes", "Flatten()")
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        _check_convolution(network, name, layer)
    if isinstance(layer, (*MAX_POOL, *AVERAGE_POOL)):
        _check_pooling(network, name, layer)
    return copy.deepcopy(layer)


def _check_convolution(network: nn.Module, name: str, layer: nn.Conv1d | nn.Conv2d) -> None:
    if layer.groups != 1 or set(layer.dilation) != {1}:
        _refuse(network, name, f"{type(layer).__name__} with groups or dilation", "groups=1, dilation=1")
    if layer.padding_mode != "zeros":
        _refuse(network, name, f"{layer.padding_mode} padding", "padding_mode='zeros'")
    if isinstance(layer.padding, str):
        _refuse(
            network,
            name,
            f"padding='{layer.padding}'",
            "padding given as a number, (kernel - 1) // 2 for 'same'",
        )


def _check_pooling(network: nn.Module, name: str, layer: nn.Module) -> None:
    window = _pair(layer, "kernel_size")
    if _pair(layer, "stride") != window or any(_pair(layer, "padding")) or layer.ceil_mode:
        _refuse(network, name, f"{type(layer).__name__} whose windows overlap or are padded",
                "stride equal to the window, no padding, ceil_mode=False")  # fmt: skip
    if getattr(layer, "dilation", 1) not in (1, (1,), (1, 1)):
        _refuse(network, name, "dilated pooling", "dilation=1")
    if isinstance(layer, AVERAGE_POOL):
        count = window_size(layer)
        if count & (count - 1):
            _refuse(network, name, f"{type(layer).__name__} over {count} values",
                    "a window of 2, 4, 8 … values, whose mean is exact in fixed point")  # fmt: skip


def _pair(layer: nn.Module, attribute: str) -> tuple[int, ...]:
    value: int | tuple[int, ...] = getattr(layer, attribute)
    return value if isinstance(value, tuple) else (value,) * (2 if "2d" in type(layer).__name__ else 1)


def window_size(layer: nn.Module) -> int:
    """Number of values in a pooling window."""
    return math.prod(_pair(layer, "kernel_size"))


def _refuse(network: nn.Module, name: str, kind: str, nearest: str = "") -> NoReturn:
    nearest = nearest or _NEAREST.get(
        kind, "Conv1d, Conv2d, BatchNorm, ReLU, MaxPool, AvgPool, Flatten, Linear"
    )
    raise UserError(
        f"layer '{name}' ({kind}) of {type(network).__name__} cannot be compressed",
        hint=f"nearest supported: {nearest}",
    )
