"""Projects that agree with the network are emitted; the others leave nothing behind but the record of refusal."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from hpctrain.compress.fixed_point import FixedPoint
from hpctrain.compress.saved import save_network
from hpctrain.compress.types import layer_types
from hpctrain.config import Experiment
from hpctrain.data.columns import SparseRows
from hpctrain.data.schema import DenseField, SparseField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.errors import UserError
from hpctrain.firmware import hls4ml_project, project, verify
from hpctrain.firmware.hls4ml_project import Hls4mlProject
from hpctrain.firmware.project import precisions
from hpctrain.firmware.twin import plain_twin
from hpctrain.run import RunDirectory
from hpctrain.track import Tracker

Quantise = Callable[..., tuple[nn.Sequential, torch.Tensor]]


def emit(
    network: nn.Sequential,
    inputs: torch.Tensor,
    folder: Path,
    tracker: Tracker,
    stated: dict[str, dict[str, str]] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    component = Hls4mlProject(Hls4mlProject.Config(**settings))
    return component.emit(network, tuple(inputs.shape[1:]), inputs.numpy(), folder, tracker, stated)


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_streamed_cnn_is_bit_exact_and_complete(
    cnn: nn.Module, quantised: Quantise, tmp_path: Path, tracker: Tracker, capfd: pytest.CaptureFixture[str]
) -> None:
    network, inputs = quantised(cnn, (3, 8, 8))
    here = Path.cwd()
    folder = tmp_path / "firmware"
    summary = emit(
        network, inputs, folder, tracker, golden_events=7, reuse_factor=3, reuse_factors={"layer_7": 12}
    )
    assert summary["passed"]
    assert (summary["events"], summary["mismatches"], summary["max_abs_difference"]) == (40, 0, 0.0)
    with torch.no_grad():
        assert summary["distinct_outputs"] == len(network(inputs).unique(dim=0)) > 30
    assert summary["random_inputs"]["mismatches"] == 0
    assert summary["random_inputs"]["distinct_outputs"] > 30
    assert leftovers(folder) == {"hls4ml", "verification.json", "build.log"}
    assert (Path.cwd(), capfd.readouterr()) == (here, ("", ""))

    record = json.loads((folder / "verification.json").read_text())
    assert record == json.loads((folder / "hls4ml" / "verification.json").read_text())
    layers = {layer["name"]: layer for layer in record["layers"]}
    assert layers["layer_7"]["reuse_factor"] == 12
    assert not any(layer["class"] == "Transpose" for layer in record["layers"])  # Flatten costs nothing
    weights = dict(network.named_children())["7"].effective()[0]
    assert layers["layer_7"]["nonzero_weights"] == int(weights.count_nonzero())
    assert record["estimates"]["kind"] == "estimate"

    text = (folder / "hls4ml" / "hls4ml_config.yml").read_text()
    assert "python/object" not in text
    assert ".building" not in text
    assert "7 of the events" in (folder / "hls4ml" / "README.md").read_text()
    golden = np.loadtxt(folder / "hls4ml" / "tb_data" / "tb_output_predictions.dat")
    with torch.no_grad():
        assert np.array_equal(golden, network(inputs[:7]).numpy())


@pytest.mark.parametrize(
    ("io_type", "strategy", "backend"),
    [
        ("io_parallel", "Latency", "Vitis"),
        pytest.param("io_stream", "Resource", "Vitis", marks=pytest.mark.slow),
        pytest.param("io_parallel", "Resource", "Vivado", marks=pytest.mark.slow),
    ],
)
def test_mlp_with_signed_inputs_is_bit_exact(
    mlp: nn.Module,
    quantised: Quantise,
    tmp_path: Path,
    tracker: Tracker,
    io_type: str,
    strategy: str,
    backend: str,
) -> None:
    network, inputs = quantised(mlp, (6,), signed=True, bits=6)
    summary = emit(network, inputs, tmp_path, tracker, io_type=io_type, strategy=strategy, backend=backend)
    assert summary["bit_exact"]


@pytest.mark.slow
def test_parallel_cnn_without_relus_is_bit_exact(
    quantised: Quantise, tmp_path: Path, tracker: Tracker
) -> None:
    """Signed activations, a stride, windows of 4 and pooling before ReLU."""
    torch.manual_seed(5)
    network, inputs = quantised(
        nn.Sequential(nn.Conv2d(2, 3, 3, stride=2), nn.Conv2d(3, 4, 1), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(),
                      nn.Linear(16, 2)), (2, 9, 9), signed=True,
    )  # fmt: skip
    assert emit(network, inputs, tmp_path, tracker, io_type="io_parallel")["bit_exact"]


@pytest.mark.slow
def test_streamed_conv1d_is_bit_exact(quantised: Quantise, tmp_path: Path, tracker: Tracker) -> None:
    """A network of particles: kernel 1 and an average over all of them."""
    torch.manual_seed(6)
    network, inputs = quantised(
        nn.Sequential(nn.Conv1d(4, 6, 1), nn.ReLU(), nn.Conv1d(6, 5, 3, padding=1), nn.ReLU(), nn.AvgPool1d(8),
                      nn.Flatten(), nn.Linear(5, 2)), (4, 8), signed=True,
    )  # fmt: skip
    assert emit(network, inputs, tmp_path, tracker)["bit_exact"]


@pytest.mark.parametrize(
    ("layer", "key", "text"),
    [
        ("layer_3", "accum", "fixed<9,2,TRN,WRAP>"),
        pytest.param("layer_1", "result", "ufixed<8,1,TRN,WRAP>", marks=pytest.mark.slow),
    ],
)
def test_wrong_type_is_refused_and_the_layer_named(
    cnn: nn.Module, quantised: Quantise, tmp_path: Path, tracker: Tracker, layer: str, key: str, text: str
) -> None:
    network, inputs = quantised(cnn, (3, 8, 8))
    folder = tmp_path / "firmware"
    types = precisions(layer_types(network))[layer]
    (folder / "hls4ml").mkdir(parents=True)  # what an earlier network left
    with pytest.raises(UserError, match=f"refused: .* of 40 events .* first layer that differs is '{layer}'"):
        emit(network, inputs, folder, tracker, {layer: {**types, key: text}})
    assert leftovers(folder) == {"verification.json", "build.log"}
    record = json.loads((folder / "verification.json").read_text())
    assert not record["passed"]
    assert record["first_difference"]["layer"] == layer
    assert record["mismatches"] > 0


def test_swapped_axes_are_refused_even_where_no_event_shows_them(
    cnn: nn.Module, quantised: Quantise, tmp_path: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held-out events that are the same with η and φ exchanged: only the random inputs can tell."""
    network, inputs = quantised(cnn, (3, 8, 8))
    inputs = inputs + inputs.swapaxes(2, 3)
    monkeypatch.setattr(hls4ml_project, "channels_last", lambda x: verify.channels_last(x.swapaxes(2, 3)))
    monkeypatch.setattr(hls4ml_project, "first_difference", lambda *_: None)  # compiles a second time
    with pytest.raises(UserError, match=r"all 40 held-out events agree, but \d+ of 64 random inputs differ"):
        emit(network, inputs, tmp_path / "firmware", tracker)
    assert leftovers(tmp_path / "firmware") == {"verification.json", "build.log"}
    record = json.loads((tmp_path / "firmware" / "verification.json").read_text())
    assert (record["passed"], record["bit_exact"], record["mismatches"]) == (False, False, 0)
    assert record["random_inputs"]["mismatches"] > 32


@pytest.mark.slow
def test_a_layer_without_its_weights_is_refused(
    cnn: nn.Module, quantised: Quantise, tmp_path: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, inputs = quantised(cnn, (3, 8, 8))

    def without_conv1(types: Any) -> nn.Sequential:
        twin = plain_twin(types)
        nn.init.zeros_(next(iter(twin.children())).weight)  # type: ignore[arg-type]
        return twin

    monkeypatch.setattr(project, "plain_twin", without_conv1)
    with pytest.raises(UserError, match="first layer that differs is 'layer_0'"):
        emit(network, inputs, tmp_path, tracker)


def test_a_network_that_says_the_same_of_every_event_is_refused(
    cnn: nn.Module, quantised: Quantise, tmp_path: Path, tracker: Tracker
) -> None:
    network, inputs = quantised(cnn, (3, 8, 8))
    nn.init.constant_(network.get_submodule("3").bias, -100.0)  # type: ignore[arg-type]
    network.get_submodule("3").bias_type = FixedPoint(40, 10)  # type: ignore[assignment]
    (tmp_path / "hls4ml").mkdir()  # what an earlier network left
    with pytest.raises(UserError, match=r"same output for all 40 events .*verify nothing.*compress less"):
        emit(network, inputs, tmp_path, tracker)
    assert leftovers(tmp_path) <= {"build.log", "metrics.jsonl"}


@pytest.mark.slow
def test_difference_within_the_tolerance_passes(
    mlp: nn.Module, quantised: Quantise, tmp_path: Path, tracker: Tracker
) -> None:
    network, inputs = quantised(mlp, (6,))
    last = precisions(layer_types(network))["layer_4"]
    coarse = {"layer_4": {**last, "result": "fixed<20,10,TRN,WRAP>"}}
    summary = emit(network, inputs, tmp_path, tracker, coarse, tolerance=2.0**-10)
    assert summary["passed"]
    assert not summary["bit_exact"]
    assert 0 < summary["max_abs_difference"] <= 2.0**-10


def test_no_compiler_is_said_before_anything_is_built(
    tmp_path: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory.create(Experiment.from_mapping({"name": "run", "output": str(tmp_path)}))
    monkeypatch.setenv("PATH", str(tmp_path))
    component = run.experiment.firmware.build()
    for start in (component.check, lambda: component.run(run, tracker)):
        with pytest.raises(UserError, match=r"no g\+\+ on this machine.*apt install g\+\+"):
            start()
    assert not run.firmware.exists()


def test_no_compressed_network_names_the_command(tmp_path: Path, tracker: Tracker) -> None:
    run = RunDirectory.create(Experiment.from_mapping({"name": "run", "output": str(tmp_path)}))
    with pytest.raises(UserError, match=r"no compressed network.*hpctrain compress"):
        run.experiment.firmware.build().run(run, tracker)


def test_run_directory_to_firmware(cnn: nn.Module, quantised: Quantise, tmp_path: Path) -> None:
    """The step as the pipeline calls it: saved network, test events of the shards, the task's own inputs."""
    network, _ = quantised(cnn, (3, 8, 8))
    firmware = {"events": 30, "golden_events": 3, "reuse_factor": 1000}
    run = RunDirectory.create(
        Experiment.from_mapping({"name": "run", "output": str(tmp_path), "firmware": firmware,
                                 "task": {"model": {"filters": [2], "hidden": 2}}})
    )  # fmt: skip
    rng = np.random.default_rng(1)
    fields = {"image": SparseField(shape=(3, 8, 8)), "label": DenseField(dtype="int64"),
              "weight": DenseField(dtype="float64")}  # fmt: skip
    split_images = {}
    for split in ("train", "validation", "test"):
        images = split_images[split] = rng.exponential(20, (40, 3, 8, 8)) * (rng.random((40, 3, 8, 8)) < 0.3)
        with ShardWriter(run.data / split, fields, scale={"image_max": [90.0, 70.0, 50.0]}) as writer:
            writer.append({"image": SparseRows.from_dense(images.astype(np.float32)),
                           "label": np.arange(40) % 2, "weight": np.ones(40)})  # fmt: skip
    save_network(run.compressed, network.float(), (3, 8, 8))
    with run.tracker("firmware") as tracker:
        summary = run.experiment.firmware.build().run(run, tracker)
    json.dumps(summary, allow_nan=False)
    assert (summary["events"], summary["bit_exact"]) == (30, True)
    assert (run.firmware / "hls4ml" / "firmware" / "myproject.cpp").is_file()
    record = json.loads((run.firmware / "verification.json").read_text())
    assert record["adjusted_reuse_factors"]["layer_9"] == [1000, 10]
    golden = np.loadtxt(run.firmware / "hls4ml" / "tb_data" / "tb_input_features.dat")
    rows = np.linspace(0, 39, 30).astype(int)[:3]
    images = np.log1p(split_images["test"][rows]) / np.log1p([[[[90.0]], [[70.0]], [[50.0]]]])
    entrance = network.get_submodule("input_quantiser").kind  # type: ignore[union-attr, operator]
    seen = entrance.quantise(torch.from_numpy(images.astype(np.float32)).double())
    expected = verify.channels_last(seen.numpy()).reshape(3, -1)
    assert np.abs(golden - expected).max() <= entrance.step  # float32 may round the other way at a tie
    assert (golden == expected).mean() > 0.99
    progress = json.loads(run.progress_path("firmware").read_text())
    assert progress["done"] == progress["total"] == 30 + 64


def test_a_type_that_hls4ml_changes_is_refused(
    mlp: nn.Module, quantised: Quantise, tmp_path: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even a wider one, with which every output would be equal: what is stated is what is on the chip."""
    from hls4ml import converters
    from hls4ml.model.types import FixedPrecisionType

    network, inputs = quantised(mlp, (6,))
    real = converters.convert_from_pytorch_model

    def wider(*arguments: Any, **options: Any) -> Any:
        graph = real(*arguments, **options)
        last = list(graph.get_layers())[-1].types["result_t"]
        last.precision = FixedPrecisionType(last.precision.width + 2, last.precision.integer + 2)
        return graph

    monkeypatch.setattr(converters, "convert_from_pytorch_model", wider)
    with pytest.raises(
        UserError, match=r"hls4ml gave 'result' of layer 'layer_4' the type fixed<.* instead of"
    ):
        emit(network, inputs, tmp_path, tracker)
    assert not (tmp_path / "hls4ml").exists()


def test_no_hls4ml_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hls4ml", None)
    with pytest.raises(UserError, match=r"pip install 'hpctrain\[firmware\]'"):
        Hls4mlProject(Hls4mlProject.Config()).check()


def test_checking_the_tools_imports_none_of_them() -> None:
    code = (
        "import sys; from hpctrain.firmware.hls4ml_project import Hls4mlProject as P; P(P.Config()).check(); "
        "sys.exit('hls4ml' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("tolerance", [float("inf"), float("nan"), -1.0])
def test_a_tolerance_that_forgives_everything_is_refused(tolerance: float) -> None:
    with pytest.raises(ValidationError, match="tolerance"):
        Hls4mlProject.Config(tolerance=tolerance)


def test_failing_compiler_is_reported_with_the_log(
    mlp: nn.Module, quantised: Quantise, tmp_path: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "g++").write_text("#!/bin/sh\necho 'cc1plus: out of luck' >&2\nexit 1\n")
    (tools / "g++").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    network, inputs = quantised(mlp, (6,))
    folder = tmp_path / "firmware"
    with pytest.raises(UserError, match=r"could not compile.*build\.log"):
        emit(network, inputs, folder, tracker)
    assert "out of luck" in (folder / "build.log").read_text()
    assert leftovers(folder) == {"build.log"}


def test_reuse_factor_of_an_unknown_layer_is_refused(
    mlp: nn.Module, quantised: Quantise, tmp_path: Path, tracker: Tracker
) -> None:
    network, inputs = quantised(mlp, (6,))
    with pytest.raises(UserError, match=r"no layer 'dense'.*layer_0"):
        emit(network, inputs, tmp_path, tracker, reuse_factors={"dense": 4})


@pytest.mark.slow
def test_vendor_test_bench_gives_the_golden_outputs(
    mlp: nn.Module, quantised: Quantise, tmp_path: Path, tracker: Tracker
) -> None:
    """What csim does: the project's own test bench, compiled from the emitted project alone."""
    network, inputs = quantised(mlp, (6,), signed=True)
    emit(network, inputs, tmp_path, tracker)
    project = tmp_path / "hls4ml"
    command = ["g++", "-std=c++11", "-w", "-Ifirmware/ap_types", f'-DWEIGHTS_DIR="{project}/firmware/weights"',
               "myproject_test.cpp", "firmware/myproject.cpp", "-o", "test_bench"]  # fmt: skip
    subprocess.run(command, cwd=project, check=True)
    subprocess.run(["./test_bench"], cwd=project, check=True, capture_output=True)
    results = np.loadtxt(project / "tb_data" / "csim_results.log")
    golden = np.loadtxt(project / "tb_data" / "tb_output_predictions.dat")
    assert results.shape == golden.shape
    assert np.allclose(results, golden, rtol=1e-5, atol=0)  # the test bench prints six digits
