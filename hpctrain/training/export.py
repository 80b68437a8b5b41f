"""Weights alone, for other programs: a safetensors file holds tensors and text, and nothing that could be run.

The format (https://huggingface.co/docs/safetensors): the length of the header as 8 bytes, the header as JSON with type,
shape and place of each tensor, then their bytes, little-endian, without gaps.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

import hpctrain
from hpctrain.errors import UserError
from hpctrain.files import write_atomically
from hpctrain.run import RunDirectory
from hpctrain.training.restore import load_task

_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def export_weights(
    run: RunDirectory, path: Path | None = None, checkpoint: Literal["best", "last"] = "best"
) -> Path:
    """Write the weights of a run's checkpoint as safetensors; returns where (``RUN/model.safetensors`` when not said).

    Raises ``UserError`` when there is no whole checkpoint, or the file cannot be written.
    """
    path = path or run.path / "model.safetensors"
    state = load_task(run, checkpoint).model.state_dict()
    about = {
        "hpctrain": hpctrain.__version__,
        "run": run.experiment.name,
        "checkpoint": checkpoint,
        "model": json.dumps(run.experiment.task.model_dump(mode="json")),
    }
    write_atomically(path, safetensors(state, about))
    return path


def safetensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file. Raises ``UserError`` for a type of number that the format does not have."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    pieces: list[bytes] = []
    end = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _TYPES:
            raise UserError(f"weight '{name}' is {tensor.dtype}, which safetensors files cannot hold")
        pieces.append(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        begin, end = end, end + len(pieces[-1])
        header[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(pieces)
