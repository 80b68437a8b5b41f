"""A trained network for other programs: its weights alone (safetensors), or the whole of it (ONNX).

Neither file can run anything of its own. An ONNX file is written only when onnxruntime gives what torch gives on
held-out events of the run.
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor, nn

import hpctrain
from hpctrain.data.loader import Loader
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError
from hpctrain.files import write_atomically
from hpctrain.run import RunDirectory
from hpctrain.training.restore import load_task

Checkpoint = Literal["best", "last"]
COMPARED_EVENTS = 512
"""Held-out events on which onnxruntime is compared with torch, or as many as there are."""
TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest logit of all events (or to 1 if that is less). float32 sums
in another order differ by some 1e-6."""
_OPSET = 18
_NOT_SEEN = frozenset({"label", "weight"})
"""Fields of a task that the network is not shown."""


@dataclass(frozen=True)
class Parity:
    """How far onnxruntime is from torch."""

    events: int
    difference: float
    """The largest, as ``TOLERANCE`` measures it."""

    def __str__(self) -> str:
        return (
            f"logits of {self.events} held-out events differ by {self.difference:.1e} at most, "
            f"relative to the largest (tolerance {TOLERANCE:.0e})"
        )


def export_weights(run: RunDirectory, path: Path | None = None, checkpoint: Checkpoint = "best") -> Path:
    """Write the weights of a run's checkpoint as safetensors; returns where (``RUN/model.safetensors`` when not said).

    Raises ``UserError`` when there is no whole checkpoint, or the file cannot be written.
    """
    path = path or run.path / "model.safetensors"
    write_atomically(
        path, safetensors(load_task(run, checkpoint).model.state_dict(), _about(run, checkpoint))
    )
    return path


def safetensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file. Raises ``UserError`` for a type of number that the format does not have."""
    # Copies: the format takes neither views nor tensors that share memory.
    copies = {
        name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()
    }
    for name, tensor in copies.items():
        try:
            save({name: tensor[..., :0] if tensor.dim() else tensor})
        except (KeyError, ValueError, SafetensorError) as error:
            raise UserError(
                f"weight '{name}' is {tensor.dtype}, which safetensors files cannot hold"
            ) from error
    return save(copies, metadata=dict(metadata))


def export_onnx(
    run: RunDirectory, path: Path | None = None, checkpoint: Checkpoint = "best"
) -> tuple[Path, Parity]:
    """Write a run's network with the scaling of its inputs as ONNX (``RUN/model.onnx`` when not said).

    Input: the events as they are stored, (n, *shape) float32, any n. Outputs: ``logits`` and ``probabilities``,
    (n, classes). Raises ``UserError`` when there is no whole checkpoint, a package is missing, the task has other
    inputs than one array an event, or onnxruntime does not give what torch gives; nothing is written then.
    """
    require_onnx()
    path = path or run.path / "model.onnx"
    task = load_task(run, checkpoint)
    dataset = ShardDataset.open(run.data / "test")
    field = _input_field(task, dataset)
    network = _Deployed(task, field).eval()
    events = _events(dataset, field)
    program = _traced(network, events[:2], field)
    parity = _compare(program.SerializeToString(), network, events)
    if not parity.difference <= TOLERANCE:
        raise UserError(
            f"the ONNX network is not that of {run.path}: {parity}",
            hint="Nothing was written; please report it",
        )
    about = {
        **_about(run, checkpoint),
        "input": f"'{field}' as the shards hold it, float32; its scaling is part of the network",
        "parity": str(parity),
        "data": str(dataset.provenance.get("label", "")),
    }
    for key, value in about.items():
        program.metadata_props.add(key=key, value=value)
    write_atomically(path, program.SerializeToString())
    return path, parity


def require_onnx() -> None:
    """Raise ``UserError`` when a package is missing; imports nothing."""
    missing = [
        name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise UserError(
            f"--format onnx needs {', '.join(missing)}, not installed here",
            hint="pip install 'hpctrain[onnx]'",
        )


class _Deployed(nn.Module):
    """What the trained network makes of an event as it is stored."""

    def __init__(self, task: Any, field: str) -> None:
        super().__init__()
        self.model = task.model
        self._inputs = task.inputs
        self._field = field

    def forward(self, events: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(self._inputs({self._field: events}))
        return logits, torch.softmax(logits, dim=1)


def _input_field(task: Any, dataset: ShardDataset) -> str:
    fields = [name for name in task.fields if name not in _NOT_SEEN]
    ragged = [name for name in fields if name in dataset.fields and dataset.fields[name].kind == "ragged"]
    if len(fields) != 1 or ragged or not hasattr(task, "inputs"):
        raise UserError(
            f"the network of task '{task.config.kind}' sees {', '.join(fields)}; only one array of a fixed shape an "
            "event can be exported as ONNX",
            hint="--format safetensors writes the weights",
        )
    return str(fields[0])


def _events(dataset: ShardDataset, field: str) -> Tensor:
    """The first held-out events, (n, *shape) float32."""
    number = min(COMPARED_EVENTS, dataset.events)
    if not number:
        raise UserError(f"{dataset.directory} holds no events to compare on", hint="Generate more events")
    batch = next(Loader(dataset, names=[field]).sequential(number))
    return batch[field].to(torch.float32)


def _traced(network: nn.Module, example: Tensor, field: str) -> Any:
    """The ``onnx.ModelProto`` of the network, for any number of events."""
    if len(example) == 1:
        example = example.repeat(2, *[1] * (example.dim() - 1))  # one event would be taken for a fixed size
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                network, (example,), dynamo=True, verbose=False, opset_version=_OPSET,
                input_names=[field], output_names=["logits", "probabilities"],
                dynamic_shapes=({0: torch.export.Dim("events")},),
            )  # fmt: skip
    except torch.onnx.errors.OnnxExporterError as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"the network cannot be written as ONNX: {first}", hint="--format safetensors writes the weights"
        ) from error
    return program.model_proto  # type: ignore[union-attr]


@torch.no_grad()
def _compare(content: bytes, network: nn.Module, events: Tensor) -> Parity:
    """onnxruntime on batches of several sizes, against torch on all events at once."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    # Batches of 1, 2, 4, … events: none is the size that the network was traced with alone.
    pieces, start, size = [], 0, 1
    while start < len(events):
        pieces.append(session.run(["logits"], {name: events[start : start + size].numpy()})[0])
        start, size = start + size, 2 * size
    ours = network(events)[0].to(torch.float64).numpy()
    theirs = np.concatenate(pieces).astype(np.float64)
    scale = max(1.0, float(np.abs(ours).max()))
    return Parity(len(events), float(np.abs(ours - theirs).max()) / scale)


def _about(run: RunDirectory, checkpoint: Checkpoint) -> dict[str, str]:
    return {
        "hpctrain": hpctrain.__version__,
        "run": run.experiment.name,
        "checkpoint": checkpoint,
        "model": json.dumps(run.experiment.task.model_dump(mode="json")),
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of its passes and of its own deprecations."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
