"""The firmware step: an hls4ml project that exists only if its emulation agrees with the quantised network."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from hpctrain.compress.quantise import Quantiser, exact
from hpctrain.compress.saved import load_compressed, load_network
from hpctrain.compress.types import LayerTypes, layer_types
from hpctrain.config import ComponentConfig
from hpctrain.data.loader import Loader
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError
from hpctrain.files import as_user_error, write_atomically, write_json
from hpctrain.firmware.emulate import emulate
from hpctrain.firmware.project import (
    PROJECT,
    Target,
    compile_emulation,
    convert,
    precisions,
    quiet,
    require_tools,
)
from hpctrain.firmware.readme import project_readme
from hpctrain.firmware.resources import estimates, layer_resources
from hpctrain.firmware.verify import (
    Array,
    Comparison,
    Difference,
    channels_last,
    compare,
    distinct,
    expected_outputs,
    first_difference,
    golden_vectors,
    random_inputs,
)
from hpctrain.machine import package_version
from hpctrain.registry import register
from hpctrain.run import RunDirectory
from hpctrain.track import Tracker

Stated = dict[str, dict[str, str]]


@register("firmware")
class Hls4mlProject:
    """Emit the compressed network of a run as an hls4ml project, verified event by event, or refuse.

    The firmware gives out logits: the ordering of events, all a trigger needs, is that of the softmax, whose
    tables would cost chip and exactness.
    """

    class Config(ComponentConfig):
        kind: Literal["hls4ml"] = "hls4ml"
        backend: Literal["Vitis", "Vivado"] = "Vitis"
        """Vendor flow the project is written for."""
        io_type: Literal["io_stream", "io_parallel"] = "io_stream"
        """``io_stream``: pixel after pixel, for images; ``io_parallel``: all inputs at once, for small networks."""
        strategy: Literal["Resource", "Latency"] = "Resource"
        """``Resource``: weights in memory, multipliers shared; ``Latency``: unrolled, zeros vanish, fewer than
        4096 weights a layer."""
        reuse_factor: PositiveInt = 16
        """How often a multiplier is used per application of a layer; hls4ml takes the nearest valid one."""
        reuse_factors: dict[str, PositiveInt] = Field(default_factory=dict)
        """Layer name → its own reuse factor, for example ``{dense: 1024}``."""
        clock_period: PositiveFloat = 5.0
        """Nanoseconds."""
        part: str = "xcvu13p-flga2577-2-e"
        """Chip, in the vendor's words."""
        tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
        """Largest difference of an output that passes; 0 asks for equality bit by bit."""
        events: Annotated[int, Field(ge=2)] = 500
        """Held-out events compared, spread over the test split."""
        golden_events: Annotated[int, Field(ge=1, le=1000)] = 50
        """How many of them the vendor's test bench gets."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self) -> None:
        """Raise ``UserError`` if a tool is missing: asked before anything of an earlier run is touched."""
        require_tools()

    def run(self, run: RunDirectory, tracker: Tracker) -> dict[str, Any]:
        """Build, verify and only then rename the project to ``RUN/firmware/hls4ml``; returns the summary.

        Raises ``UserError`` when a tool or the compressed network is missing, when the network says the same of
        every event, and when the emulation differs: then ``verification.json`` says refused, and no project is left.
        """
        self.check()
        network = exact(load_compressed(run))
        shape = load_network(run.compressed)[1]
        inputs = self._inputs(run, network)
        return self.emit(network, shape, inputs, run.firmware, tracker)

    def emit(
        self,
        network: nn.Sequential,
        shape: tuple[int, ...],
        inputs: Array,
        folder: Path,
        tracker: Tracker,
        stated: Stated | None = None,
    ) -> dict[str, Any]:
        """``run`` without a run directory: ``network`` exact (float64), ``inputs`` (events, *shape) float64.

        ``stated`` replaces types that follow from the network, by firmware layer name, for experiments.
        """
        building, final, log = folder / ".hls4ml.building", folder / "hls4ml", folder / "build.log"
        folder.mkdir(parents=True, exist_ok=True)
        for stale in (building, final):
            shutil.rmtree(stale, ignore_errors=True)
        (folder / "verification.json").unlink(missing_ok=True)
        log.write_text("")
        expected = expected_outputs(network, inputs)
        if distinct(expected) == 1:
            raise _nothing_to_verify(len(expected))
        try:
            record = self._build(network, shape, inputs, expected, building, log, tracker, stated)
            write_json(folder / "verification.json", record)
            if not record["passed"]:
                raise _refusal(record, folder)
            self._finish(building, final, record)
        except OSError as error:
            raise as_user_error(error, building) from error
        finally:
            shutil.rmtree(building, ignore_errors=True)
        return _summary(record)

    def _build(
        self,
        network: nn.Sequential,
        shape: tuple[int, ...],
        inputs: Array,
        expected: Array,
        folder: Path,
        log: Path,
        tracker: Tracker,
        stated: Stated | None,
    ) -> dict[str, Any]:
        """Write, compile, emulate, compare; the record of ``verification.json``."""
        config = self.config
        types = layer_types(network)
        target = Target(
            config.backend, config.io_type, config.strategy, config.reuse_factor, config.reuse_factors,
            config.clock_period, config.part,
        )  # fmt: skip
        started = time.monotonic()
        with quiet(log):
            graph = convert(types, shape, target, folder, {**precisions(types), **(stated or {})})
            library = compile_emulation(graph, folder, log)
        compiled = time.monotonic()
        tracker.log("compiled", seconds=compiled - started)
        random = random_inputs(types[0].result, shape)
        events, total = len(inputs), len(inputs) + len(random)
        emulated = emulate(
            library, PROJECT, channels_last(np.concatenate([inputs, random])), expected.shape[1],
            progress=lambda done: tracker.progress(done, total, "events"),
        )  # fmt: skip
        seconds = time.monotonic() - compiled
        held_out = compare(expected, emulated[:events], config.tolerance)
        probed = compare(expected_outputs(network, random), emulated[events:], config.tolerance)
        tracker.log(
            "verified", events=events, mismatches=held_out.mismatches, random_inputs=len(random),
            random_mismatches=probed.mismatches, seconds=seconds,
        )  # fmt: skip
        difference = None
        if held_out.mismatches or probed.mismatches:
            seen, found = (inputs, held_out) if held_out.mismatches else (random, probed)
            difference = first_difference(graph, network, seen[list(found.worst)], config.tolerance, log)
        else:
            self._golden(network, inputs, expected, folder)
        times = (compiled - started, seconds / total)
        return self._record(graph, types, shape, held_out, probed, difference, times)

    def _record(
        self,
        graph: Any,
        types: list[LayerTypes],
        shape: tuple[int, ...],
        comparison: Comparison,
        probed: Comparison,
        difference: Difference | None,
        seconds: tuple[float, float],
    ) -> dict[str, Any]:
        config = self.config
        reuse = {layer.name: layer.get_attr("reuse_factor") for layer in graph.get_layers()}
        counted = layer_resources(types, shape, reuse, config.strategy, config.io_type)
        by_name = {record["name"]: record for record in counted}
        layers = []
        for layer in graph.get_layers():
            precision = {key.removesuffix("_t"): str(kind.precision) for key, kind in layer.types.items()}
            entry = {"name": layer.name, "class": layer.class_name, "precision": precision}
            layers.append({**entry, **by_name.get(layer.name, {})})
        asked = {name: config.reuse_factors.get(name, config.reuse_factor) for name in by_name}
        return {
            "passed": comparison.mismatches == probed.mismatches == 0,
            "events": comparison.events,
            "split": "test",
            "max_abs_difference": _finite(comparison.max_abs_difference),
            "mismatches": comparison.mismatches,
            "distinct_outputs": comparison.distinct_outputs,
            "random_inputs": {
                "events": probed.events,
                "mismatches": probed.mismatches,
                "distinct_outputs": probed.distinct_outputs,
                "max_abs_difference": _finite(probed.max_abs_difference),
            },
            "tolerance": config.tolerance,
            "bit_exact": comparison.max_abs_difference == probed.max_abs_difference == 0.0,
            "compared": "outputs (logits) of the quantised network in exact arithmetic with hls4ml's C++ emulation: "
            f"{comparison.events} held-out events with {comparison.distinct_outputs} distinct outputs, and "
            f"{probed.events} random inputs over the whole range with {probed.distinct_outputs}",
            "first_difference": None if difference is None else asdict(difference),
            "backend": config.backend,
            "io_type": config.io_type,
            "strategy": config.strategy,
            "clock_period_ns": config.clock_period,
            "part": config.part,
            "input": {
                "shape": [*shape[1:], shape[0]],
                "layout": "channels last",
                "type": str(types[0].result),
            },
            "outputs": "logits, no softmax",
            "adjusted_reuse_factors": {n: [asked[n], reuse[n]] for n in asked if asked[n] != reuse[n]},
            "compile_seconds": round(seconds[0], 2),
            "emulation_seconds_per_event": seconds[1],
            "tool_versions": {
                **{name: package_version(name) for name in ("hls4ml", "torch", "numpy")},
                "g++": _compiler_version(),
            },
            "layers": layers,
            "estimates": estimates(counted, config.clock_period),
        }

    def _inputs(self, run: RunDirectory, network: nn.Sequential) -> Array:
        """What the network sees of ``events`` test events spread over the split: (events, *shape) float64."""
        task = run.experiment.task.build()
        task.prepare(ShardDataset.open(run.data / "train"), run.experiment.seed)
        task.model = network
        dataset = ShardDataset.open(run.data / "test")
        loader = Loader(dataset, names=list(task.fields))
        rows = np.unique(
            np.linspace(0, len(dataset) - 1, min(self.config.events, len(dataset))).astype(np.int64)
        )
        parts = [task.inputs(loader.load(rows[i : i + 64])) for i in range(0, len(rows), 64)]
        inputs: Array = torch.cat(parts).double().numpy()
        return inputs

    def _golden(self, network: nn.Sequential, inputs: Array, expected: Array, folder: Path) -> None:
        """Give the vendor's test bench the first events: quantised inputs, expected outputs."""
        count = min(self.config.golden_events, len(inputs))
        first = next(iter(network.children()))
        if not isinstance(first, Quantiser):
            raise TypeError("not a quantised network: it does not begin with a Quantiser")
        quantised = first.kind.quantise(torch.from_numpy(inputs[:count])).numpy()
        features, predictions = golden_vectors(channels_last(quantised), expected[:count])
        (folder / "tb_data").mkdir(exist_ok=True)
        write_atomically(folder / "tb_data" / "tb_input_features.dat", features)
        write_atomically(folder / "tb_data" / "tb_output_predictions.dat", predictions)

    def _finish(self, building: Path, final: Path, record: dict[str, Any]) -> None:
        """Make the verified project fit to be kept, and put it in its place in one step."""
        for library in (building / "firmware").glob("*.so"):
            library.unlink()  # it knows its weights by the path it was built in; build_lib.sh makes it again
        settings = building / "hls4ml_config.yml"
        settings.write_text(settings.read_text().replace(str(building), str(final)))
        write_json(building / "verification.json", record)
        golden = min(self.config.golden_events, record["events"])
        write_atomically(building / "README.md", project_readme(record, golden))
        building.rename(final)


def _nothing_to_verify(events: int) -> UserError:
    return UserError(
        f"firmware refused: the compressed network gives the same output for all {events} events compared, so "
        "equality with it would verify nothing",
        hint="compress less (compress.weight_bits, compress.activation_bits, compress.pruning.sparsities) or train "
        "longer, until `hpctrain compress` reports an AUC above 0.5",
    )


def _refusal(record: dict[str, Any], folder: Path) -> UserError:
    found = record["first_difference"]
    where = "only the outputs differ, no traced layer does"
    if found is not None:
        where = (
            f"the first layer that differs is '{found['layer']}', by up to {found['max_abs_difference']:g} "
            f"in {found['values']} of {found['of']} values"
        )
    random = record["random_inputs"]
    which = f"{record['mismatches']} of {record['events']} events differ"
    if not record["mismatches"]:
        which = (
            f"all {record['events']} held-out events agree, but {random['mismatches']} of {random['events']} "
            "random inputs differ"
        )
    return UserError(
        f"firmware refused: {which} from the quantised network by more than {record['tolerance']:g}; {where}",
        hint=f"see {folder / 'verification.json'}; no project was emitted",
    )


def _summary(record: dict[str, Any]) -> dict[str, Any]:
    keys = (
        "passed",
        "events",
        "mismatches",
        "distinct_outputs",
        "max_abs_difference",
        "random_inputs",
        "tolerance",
        "bit_exact",
        "backend",
        "io_type",
    )
    found = record["estimates"]
    return {
        "headline": f"{record['events'] - record['mismatches']} of {record['events']} held-out events "
        + ("equal bit by bit" if record["bit_exact"] else f"within {record['tolerance']:g}"),
        **{key: record[key] for key in keys},
        "compile_seconds": record["compile_seconds"],
        "estimates": {
            key: found[key] for key in ("kind", "dsp", "multipliers", "interval_cycles", "interval_us")
        },
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _compiler_version() -> str:
    found = subprocess.run(["g++", "-dumpfullversion"], capture_output=True, text=True, check=False)
    return found.stdout.strip()
