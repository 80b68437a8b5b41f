"""Floating-point operations of a training step, counted while it is done once on a few real samples."""

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from hpctrain.data.batches import Batch
from hpctrain.tasks.base import Phase

Shape = tuple[int, ...]


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    flops: int = sdpa_flop_count(query, key, value)  # type: ignore[no-untyped-call]
    return flops


def _attention_backward(gradient: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    flops: int = sdpa_backward_flop_count(gradient, query, key, value)  # type: ignore[no-untyped-call]
    return flops


_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""Attention as torch does it on CPUs, which its own counter passes over."""


def step_flops(phases: Sequence[Phase], model: nn.Module, batch: Batch) -> int:
    """FLOPs of the forward and backward passes of one step of every phase on ``batch``.

    Matrix products, convolutions and attention count, a multiplication with its addition as two operations; all else
    (activations, BatchNorm, pooling, the optimiser) does not, as is the custom of MFU (Chowdhery et al., "PaLM",
    appendix B). Gradients, buffers and the states of random generators are afterwards what they were; hooks on
    gradients are not called. Every rank calls it when the losses talk to other ranks.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
    with _untouched(model), torch.enable_grad(), counter:
        for phase in phases:
            # As ``backward()`` does: into every leaf of the loss, whichever phase it belongs to.
            leaves = {id(p): p for p in (*phase.parameters, *model.parameters()) if p.requires_grad}
            total = phase.loss(batch).total
            torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return int(counter.get_total_flops())


@contextlib.contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Inside, the model trains; afterwards its buffers, its mode and every random generator are as before."""
    modes = [module.training for module in model.modules()]
    buffers = [buffer.clone() for buffer in model.buffers()]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - a task's code may draw from it
    gpus = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=gpus):
            model.train()
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        with torch.no_grad():
            for buffer, before in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(before)
        for module, mode in zip(model.modules(), modes, strict=True):
            module.training = mode
