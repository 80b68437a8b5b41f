"""A quantised network on disk: ``spec.json`` says what it is made of, ``network.pt`` holds its tensors."""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hpctrain.compress.fixed_point import FixedPoint
from hpctrain.compress.quantise import (
    QuantisedConv1d,
    QuantisedConv2d,
    QuantisedLayer,
    QuantisedLinear,
    Quantiser,
)
from hpctrain.compress.types import layer_types
from hpctrain.errors import UserError
from hpctrain.files import read_json, write_atomically, write_json
from hpctrain.run import RunDirectory

FORMAT = 1
_ARGUMENTS: dict[type[nn.Module], tuple[str, ...]] = {
    QuantisedConv1d: ("in_channels", "out_channels", "kernel_size", "stride", "padding"),
    QuantisedConv2d: ("in_channels", "out_channels", "kernel_size", "stride", "padding"),
    QuantisedLinear: ("in_features", "out_features"),
    nn.MaxPool1d: ("kernel_size",),
    nn.MaxPool2d: ("kernel_size",),
    nn.AvgPool1d: ("kernel_size",),
    nn.AvgPool2d: ("kernel_size",),
    nn.ReLU: (),
    nn.Flatten: (),
}
_CLASSES = {kind.__name__: kind for kind in _ARGUMENTS}


def describe(network: nn.Sequential, input_shape: tuple[int, ...]) -> dict[str, Any]:
    """Plain JSON from which ``rebuild_network`` makes the same chain: every layer and every type.

    ``types`` of a layer are for the reader (result, weight, bias, accum); the accumulators follow from the
    weights and are derived again whenever they are needed.
    """
    types = {entry.name: entry.precision() for entry in layer_types(network)}
    layers: list[dict[str, Any]] = []
    for name, layer in network.named_children():
        entry: dict[str, Any] = {"name": name, "class": type(layer).__name__}
        if isinstance(layer, Quantiser):
            entry["type"] = str(layer.kind)
        else:
            entry["arguments"] = {key: getattr(layer, key) for key in _ARGUMENTS[type(layer)]}
            entry["types"] = types[name]
        if isinstance(layer, QuantisedLayer):
            entry["weight_type"], entry["bias_type"] = str(layer.weight_type), str(layer.bias_type)
        layers.append(entry)
    return {"format": FORMAT, "input_shape": list(input_shape), "layers": layers}


def rebuild_network(spec: dict[str, Any]) -> nn.Sequential:
    """The chain that ``describe`` described, with fresh weights."""
    chain: OrderedDict[str, nn.Module] = OrderedDict()
    for entry in spec["layers"]:
        if entry["class"] == Quantiser.__name__:
            chain[entry["name"]] = Quantiser(FixedPoint.parse(entry["type"]))
            continue
        arguments = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in entry["arguments"].items()
        }
        layer = _CLASSES[entry["class"]](**arguments)
        if isinstance(layer, QuantisedLayer):
            layer.hold(torch.ones_like(layer.weight, dtype=torch.bool))
            layer.weight_type = FixedPoint.parse(entry["weight_type"])
            layer.bias_type = FixedPoint.parse(entry["bias_type"])
        chain[entry["name"]] = layer
    return nn.Sequential(chain)


def save_network(folder: Path, network: nn.Sequential, input_shape: tuple[int, ...]) -> None:
    """Write ``network.pt`` (a state dict; ``torch.load(weights_only=True)`` reads it), then ``spec.json``."""
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "network.pt", buffer.getvalue())
    write_json(folder / "spec.json", describe(network, input_shape))


def load_network(folder: Path) -> tuple[nn.Sequential, tuple[int, ...]]:
    """The quantised network in ``folder`` in ``eval`` mode, and the shape of one of its inputs.

    Raises ``UserError`` when files are missing, torn or do not belong together.
    """
    spec = read_json(folder / "spec.json")
    cure = "run `hpctrain compress RUN` (again, with --force, if the files are damaged)"
    if spec is None or not (folder / "network.pt").is_file():
        raise UserError(f"there is no compressed network in {folder}", hint=cure)
    try:
        if spec["format"] != FORMAT:
            raise UserError(
                f"{folder / 'spec.json'} has format {spec['format']}, this version reads {FORMAT}", hint=cure
            )
        network = rebuild_network(spec)
        network.load_state_dict(torch.load(folder / "network.pt", map_location="cpu", weights_only=True))
        shape = tuple(int(size) for size in spec["input_shape"])
    except (
        pickle.UnpicklingError,
        KeyError,
        TypeError,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
    ) as error:
        raise UserError(f"the compressed network in {folder} cannot be read ({error})", hint=cure) from error
    if math.prod(shape) < 1:
        raise UserError(f"{folder / 'spec.json'} has an empty input_shape", hint=cure)
    return network.eval(), shape


def load_compressed(run: RunDirectory) -> nn.Sequential:
    """The quantised network of a run, in ``eval`` mode (float32; ``exact`` makes the float64 reference)."""
    try:
        return load_network(run.compressed)[0]
    except UserError as error:
        if (run.compressed / "spec.json").exists():
            raise
        hint = f"run `hpctrain compress {run.path}`"
        raise UserError(f"{run.path} has no compressed network", hint=hint) from error
