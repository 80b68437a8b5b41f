"""Numbers that a training step computes with: float32, or 16 bits where that is safe, with float32 weights."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

Name = Literal["float32", "bf16", "fp16"]

DTYPES: dict[Name, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """``float32`` leaves everything as the model has it. The others compute matrix products and convolutions with 16
    bits (torch's autocast) from float32 weights; ``fp16`` scales losses, so that small gradients do not become zero."""

    def __init__(self, name: Name = "float32", device: torch.device | None = None) -> None:
        self.name = name
        self._device = (device or torch.device("cpu")).type
        # Losses are sums over samples: gradients are those of a mean times the batch, so the scale begins lower.
        self.scaler = torch.amp.GradScaler(self._device, init_scale=2.0**10) if name == "fp16" else None

    def computing(self) -> AbstractContextManager[Any]:
        """For forward passes."""
        if self.name == "float32":
            return nullcontext()
        return torch.autocast(self._device, DTYPES[self.name])

    def scaled(self, loss: Tensor) -> Tensor:
        """What the backward pass starts from."""
        return loss if self.scaler is None else self.scaler.scale(loss)

    def state(self) -> dict[str, Any]:
        """The scale, and how long it was right."""
        return {} if self.scaler is None else self.scaler.state_dict()

    def load(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        if self.scaler is not None and state:
            self.scaler.load_state_dict(state)
