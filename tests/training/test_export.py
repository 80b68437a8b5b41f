import json
import struct

import numpy as np
import pytest
import torch

from hpctrain.cli import main
from hpctrain.errors import UserError
from hpctrain.parallel.communicator import SingleCommunicator
from hpctrain.training.checkpoint import Checkpoints
from hpctrain.training.export import safetensors

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
    arrays, about = read(safetensors(tensors, {"run": "φ"}))
    assert about == {"run": "φ"}
    assert arrays.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert arrays[name].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(arrays[name], tensor.numpy())


def test_what_the_format_cannot_hold_is_named():
    with pytest.raises(UserError, match=r"weight 'z' is torch\.complex64"):
        safetensors({"z": torch.zeros(2, dtype=torch.complex64)}, {})


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
