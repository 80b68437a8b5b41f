import json
import re
import struct

import numpy as np
import pytest
import torch

from hpctrain.cli import main
from hpctrain.data.loader import Loader
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError
from hpctrain.evaluate.scoring import score_network
from hpctrain.parallel.communicator import SingleCommunicator
from hpctrain.training import export as room
from hpctrain.training.checkpoint import Checkpoints
from hpctrain.training.export import safetensors
from hpctrain.training.restore import load_task

NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}


def read(content: bytes):
    """A reader written from the specification alone."""
    (length,) = struct.unpack("<Q", content[:8])
    assert (8 + length) % 8 == 0
    assert content[8:9] == b"{"
    header = json.loads(content[8 : 8 + length])
    about = header.pop("__metadata__")
    data = content[8 + length :]
    places = sorted(tuple(entry["data_offsets"]) for entry in header.values())
    assert [begin for begin, _ in places] == [0, *(end for _, end in places[:-1])], "gaps or overlaps"
    assert places[-1][1] == len(data)
    arrays = {
        name: np.frombuffer(data[slice(*entry["data_offsets"])], NUMPY[entry["dtype"]]).reshape(
            entry["shape"]
        )
        for name, entry in header.items()
    }
    return arrays, about


def test_tensors_of_any_shape_and_type_come_back():
    tensors = {
        "w": torch.randn(3, 4, dtype=torch.float32).t(),  # not contiguous
        "x": torch.randn(5, dtype=torch.float64),
        "half": torch.randn(2, 2).half(),
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False, True]),
        "none": torch.zeros(0, 4),
    }
    tensors["part"] = tensors["x"][1:3]  # shares memory
    arrays, about = read(safetensors(tensors, {"run": "φ"}))
    assert about == {"run": "φ"}
    assert arrays.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert arrays[name].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(arrays[name], tensor.numpy())


def test_what_the_format_cannot_hold_is_named():
    with pytest.raises(UserError, match=r"weight 'z' is torch\.complex128"):
        safetensors({"z": torch.zeros(2, dtype=torch.complex128)}, {})


def export(*arguments) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["export", *map(str, arguments)])
    return int(caught.value.code or 0)


def test_the_best_weights_of_a_run_by_the_command_line(toy_run, tmp_path, capsys):
    run = toy_run("x")
    assert export(run.path) == 2
    assert "no best checkpoint" in capsys.readouterr().err
    run.experiment.training.build().run(run, run.tracker("train"), SingleCommunicator())
    assert export(run.path) == 0
    assert export(run.path, "--checkpoint", "last", "--output", tmp_path / "last.safetensors") == 0
    checkpoints = Checkpoints(run.checkpoints)
    for path, state in (
        (run.path / "model.safetensors", checkpoints.best()),
        (tmp_path / "last.safetensors", checkpoints.latest()),
    ):
        arrays, about = read(path.read_bytes())
        assert about["run"] == "x"
        assert arrays.keys() == state["model"].keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, state["model"][name].numpy())


@pytest.fixture
def trained(toy_run):
    def make(*overrides: str):
        run = toy_run("x", *overrides)
        run.experiment.training.build().run(run, run.tracker("train"), SingleCommunicator())
        return run

    return make


@pytest.mark.parametrize("overrides", [(), ("task.model.normalisation=batch", "task.transform=linear")])
def test_the_onnx_network_takes_stored_events_in_any_number(trained, overrides, capsys):
    import onnx
    import onnxruntime

    run = trained(*overrides)
    assert export(run.path, "--format", "onnx") == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(run.path / "model.onnx")
    assert "60 held-out events differ by" in said.err
    content = (run.path / "model.onnx").read_bytes()
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    session = onnxruntime.InferenceSession(content)
    (entry,) = session.get_inputs()
    assert (entry.name, entry.type, entry.shape[1:]) == ("image", "tensor(float)", [3, 16, 16])
    about = session.get_modelmeta().custom_metadata_map
    assert about["run"] == "x"
    assert about["data"] == "synthetic toy images for tests"
    assert "its scaling is part of the network" in about["input"]
    # Held to what the evaluation makes of the same events, not to the export's own comparison.
    test = ShardDataset.open(run.data / "test")
    task = load_task(run)
    scores = score_network(task, test, batch_size=7, seen=lambda number: None)
    images = next(Loader(test, names=["image"]).sequential(test.events))["image"].float().numpy()
    for number in (1, 2, 60):
        probabilities = session.run(["probabilities"], {"image": images[:number]})[0]
        np.testing.assert_allclose(probabilities[:, 1], scores[:number], atol=1e-6)


def test_a_network_that_onnxruntime_runs_otherwise_is_not_written(trained, monkeypatch, capsys):
    run = trained()
    traced = room._traced

    def wrong(network, example, field):
        with torch.no_grad():
            weight = network.model.layers.output.weight
            weight += 0.01
            try:
                return traced(network, example, field)
            finally:
                weight -= 0.01

    monkeypatch.setattr(room, "_traced", wrong)
    assert export(run.path, "--format", "onnx") == 2
    err = capsys.readouterr().err
    assert re.search(
        r"is not that of .*60 held-out events differ by .*e-0[1-3] at most.*tolerance 1e-04", err
    )
    assert not (run.path / "model.onnx").exists()


def test_what_cannot_be_exported_says_what_can(trained, monkeypatch):
    run = trained()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"onnx, onnxscript, onnxruntime, not installed here\. pip install"):
        room.export_onnx(run)
    monkeypatch.undo()

    class Two:
        fields = ("image", "label", "jets")
        config = run.experiment.task

    monkeypatch.setattr(room, "load_task", lambda *_: Two())
    with pytest.raises(UserError, match=r"sees image, jets; only one array .*--format safetensors"):
        room.export_onnx(run)


def test_a_network_that_onnx_has_no_words_for(trained, monkeypatch):
    run = trained()
    task = load_task(run)

    class Odd(torch.nn.Module):
        def forward(self, image):
            return image.flatten(1)[:, :2] if image.sum() > 0 else image.flatten(1)[:, 2:4]

    task.inputs = lambda batch: batch["image"]
    task.model = Odd()
    monkeypatch.setattr(room, "load_task", lambda *_: task)
    with pytest.raises(UserError, match="cannot be written as ONNX"):
        room.export_onnx(run)
    assert not (run.path / "model.onnx").exists()
