"""An hls4ml project with every type stated, written and compiled with g++ (hls4ml 1.3, PyTorch front end)."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from hpctrain.compress.fixed_point import FixedPoint
from hpctrain.compress.prune import MaskedLayer
from hpctrain.compress.types import LayerTypes
from hpctrain.errors import UserError
from hpctrain.firmware.twin import firmware_name, plain_twin

PROJECT = "myproject"
"""Name of the top function, hls4ml's default."""
LATENCY_LIMIT = 4096
"""Most weights of one layer that the Latency strategy unrolls (the vendor's limit on partitioned arrays)."""


@dataclass(frozen=True)
class Target:
    """What the project is made for, in hls4ml's words."""

    backend: Literal["Vitis", "Vivado"] = "Vitis"
    io_type: Literal["io_stream", "io_parallel"] = "io_stream"
    strategy: Literal["Resource", "Latency"] = "Resource"
    reuse_factor: int = 16
    reuse_factors: Mapping[str, int] | None = None
    clock_period: float = 5.0
    part: str = "xcvu13p-flga2577-2-e"


def require_tools() -> None:
    """Raise ``UserError`` with the cure if g++ or hls4ml is missing; nothing is built before this passes."""
    if shutil.which("g++") is None:
        raise UserError(
            "there is no g++ on this machine: the firmware's C++ emulation cannot be compiled, so it cannot be verified",
            hint="install it (Debian/Ubuntu: apt install g++; RHEL: dnf install gcc-c++; Slurm sites: module load gcc)",
        )
    if importlib.util.find_spec("hls4ml") is None:  # found, not imported: that takes seconds
        raise UserError("hls4ml is not installed", hint="pip install 'hpctrain[firmware]'")


def precisions(types: Sequence[LayerTypes]) -> dict[str, dict[str, str]]:
    """Firmware layer name ("input" for the input) → its types, all of them, in hls4ml's words."""
    found = {}
    for entry in types:
        words = entry.precision()
        if entry.layer is not None and "Pool" in type(entry.layer).__name__:
            words.setdefault("accum", words["result"])
        found["input" if entry.layer is None else firmware_name(entry.name)] = words
    return found


def convert(
    types: Sequence[LayerTypes],
    input_shape: tuple[int, ...],
    target: Target,
    folder: Path,
    stated: Mapping[str, Mapping[str, str]] | None = None,
) -> Any:
    """hls4ml's graph of the quantised network described by ``types``; nothing is written yet.

    ``input_shape`` is (channels, …) as in torch; the firmware takes channels last. ``stated`` replaces the
    types that follow from the network (``precisions``), for experiments. Raises ``UserError`` if hls4ml cannot
    take the network or gives any layer another type than the one stated.
    """
    _check_sizes(types, target)
    stated = precisions(types) if stated is None else stated
    import hls4ml

    backend = hls4ml.backends.get_backend(target.backend)
    _register_flatten(backend)
    reuse = _reuse_factors(backend, types, target)
    twin = plain_twin(types)
    try:
        config = hls4ml.utils.config_from_pytorch_model(
            twin, tuple(input_shape), granularity="name", backend=target.backend, default_precision="fixed<16,6>",
            default_reuse_factor=target.reuse_factor, channels_last_conversion="internal",
        )  # fmt: skip
        config["Model"]["Strategy"] = target.strategy
        entrance = next(name for name in config["LayerName"] if name not in stated)
        for name, section in config["LayerName"].items():
            section["Precision"].update(stated["input" if name == entrance else name])
            section["Strategy"], section["Trace"] = target.strategy, True
            section["ReuseFactor"] = reuse.get(name, target.reuse_factor)
        graph = hls4ml.converters.convert_from_pytorch_model(
            twin, hls_config=config, output_dir=str(folder), project_name=PROJECT, backend=target.backend,
            io_type=target.io_type, clock_period=target.clock_period, part=target.part,
        )  # fmt: skip
    except Exception as error:
        raise UserError(
            f"hls4ml cannot convert the network: {error}", hint="see firmware/build.log"
        ) from error
    _check_types(graph, {**stated, entrance: stated["input"]})
    return graph


def compile_emulation(graph: Any, folder: Path, log: Path) -> Path:
    """Write the project into ``folder`` and compile its emulation; returns the library (.so).

    The compiler's words go to ``log``. Raises ``UserError`` naming the log if it fails.
    """
    # The settings file would otherwise hold a pickle of the network; the weights are in firmware/weights.
    graph.config.config.pop("PytorchModel", None)
    graph.write()
    with log.open("a", encoding="utf-8") as stream:
        result = subprocess.run(
            ["bash", "build_lib.sh"], cwd=folder, stdout=stream, stderr=stream, check=False
        )
    libraries = list((folder / "firmware").glob("*.so"))
    if result.returncode or len(libraries) != 1:
        raise UserError("g++ could not compile the firmware's emulation", hint=f"its messages are in {log}")
    return libraries[0]


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[None]:
    """What is printed inside (hls4ml prints much) goes to the end of ``log``; the working directory is kept."""
    here = Path.cwd()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as stream:
        try:
            with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
                yield
        finally:
            os.chdir(here)


def _reuse_factors(backend: Any, types: Sequence[LayerTypes], target: Target) -> dict[str, int]:
    """Firmware layer name → the valid reuse factor nearest to the one asked for.

    hls4ml would choose the same, but forgets its choice again when it replaces a convolution of kernel 1.
    """
    factors = {}
    for entry in types:
        if isinstance(entry.layer, MaskedLayer):
            name = firmware_name(entry.name)
            asked = (target.reuse_factors or {}).get(name, target.reuse_factor)
            if target.strategy == "Resource":
                outputs = entry.layer.weight.shape[0]
                inputs = entry.layer.weight.numel() // outputs
                valid = backend.get_valid_reuse_factors(inputs, outputs)
                if target.io_type == "io_parallel" and not isinstance(entry.layer, nn.Linear):
                    # nnet_conv2d_resource.h is wrong beyond this, and its own assertion cannot fail (hls4ml 1.3.0).
                    valid = [factor for factor in valid if factor <= inputs]
                asked = backend.get_closest_reuse_factor(valid, asked)
            factors[name] = asked
    return factors


def _check_sizes(types: Sequence[LayerTypes], target: Target) -> None:
    names = {firmware_name(entry.name): entry for entry in types if entry.layer is not None}
    for name in target.reuse_factors or {}:
        if name not in names:
            raise UserError(
                f"firmware.reuse_factors: there is no layer '{name}'", hint=f"layers are {', '.join(names)}"
            )
    if target.strategy == "Latency":
        for name, entry in names.items():
            if isinstance(entry.layer, MaskedLayer) and entry.layer.weight.numel() >= LATENCY_LIMIT:
                raise UserError(
                    f"layer '{name}' has {entry.layer.weight.numel()} weights, Latency takes fewer than {LATENCY_LIMIT}",
                    hint="firmware.strategy=Resource",
                )


def _check_types(graph: Any, stated: Mapping[str, Mapping[str, str]]) -> None:
    """hls4ml may infer, merge or replace types in silence; hold it to what was stated."""
    for layer in graph.get_layers():
        for key, text in stated.get(layer.name, {}).items():
            asked, given = FixedPoint.parse(text), _parse(str(layer.types[f"{key}_t"].precision))
            if asked != given:
                raise UserError(
                    f"hls4ml gave '{key}' of layer '{layer.name}' the type {given} instead of {asked}",
                    hint="report it with the network; nothing was emitted",
                )


def _parse(text: str) -> FixedPoint:
    """hls4ml's ``fixed<8,1,RND,SAT,0>`` (the last field counts saturation bits and is always 0 here)."""
    return FixedPoint.parse(text.replace(",0>", ">") if text.count(",") == 4 else text)


def _register_flatten(backend: Any) -> None:
    """Teach hls4ml to flatten a stream without reordering it: the weights of the Dense behind are reordered.

    hls4ml does this for io_parallel only; in io_stream it would build a block that stores the whole tensor.
    """
    from hls4ml.model.optimizer import get_optimizer
    from hls4ml.model.optimizer.passes.convert_to_channels_last import RemoveTransposeBeforeFlatten

    class FlattenStream(RemoveTransposeBeforeFlatten):  # type: ignore[misc]
        def match(self, node: Any) -> bool:
            if node.class_name != "Reshape" or len(node.get_attr("target_shape")) != 1:
                return False
            after = node.get_output_nodes()
            return node.get_input_node().class_name == "Transpose" and [n.class_name for n in after] == [
                "Dense"
            ]

    name = "hpctrain_flatten_stream"
    with contextlib.suppress(Exception):
        get_optimizer(f"{backend.name.lower()}:{name}")
        return
    backend.register_pass(name, FlattenStream, flow="convert")
