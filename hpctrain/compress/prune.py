"""Iterative magnitude pruning: train with L1, drop the smallest weights, train on (Han et al. 2015)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, Any, cast

import torch
from pydantic import Field, NonNegativeFloat, field_validator
from torch import Tensor, nn

from hpctrain.compress.straight import WEIGHTED
from hpctrain.errors import UserError
from hpctrain.section import Section

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class MaskedLayer(nn.Module):
    """A layer with weights of which some are held at zero.

    ``mask`` is boolean, of the weight's shape, True where the weight stays; it is a buffer, so it travels in
    checkpoints. The product with the mask is part of the forward pass: whatever an optimiser does to a removed
    weight (momentum, decay), it takes no part and gets no gradient.
    """

    weight: Tensor
    bias: Any
    mask: Tensor

    def hold(self, mask: Tensor) -> None:
        """Hold the weights that ``mask`` (boolean, the weight's shape) marks False at zero."""
        self.register_buffer("mask", mask.detach().clone())

    def effective(self) -> tuple[Tensor, Tensor]:
        """Weight and bias as they act, each of its parameter's shape."""
        return self.weight * self.mask, self.bias


class MaskedConv1d(MaskedLayer, nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return cast(Tensor, self._conv_forward(input, *self.effective()))


class MaskedConv2d(MaskedLayer, nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return cast(Tensor, self._conv_forward(input, *self.effective()))


class MaskedLinear(MaskedLayer, nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, *self.effective())


_MASKED: dict[type[nn.Module], type[MaskedLayer]] = {
    nn.Conv1d: MaskedConv1d,
    nn.Conv2d: MaskedConv2d,
    nn.Linear: MaskedLinear,
}


def with_masks(network: nn.Sequential) -> nn.Sequential:
    """The chain with every Conv and Linear made maskable (nothing removed yet); other layers are shared."""
    chain: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in network.named_children():
        if isinstance(layer, WEIGHTED):
            chain[name] = rebuild(layer, _MASKED[type(layer)])
            chain[name].hold(torch.ones_like(layer.weight, dtype=torch.bool))  # type: ignore[operator]
        else:
            chain[name] = layer
    return nn.Sequential(chain)


def rebuild(layer: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """A ``kind`` of the same shape as ``layer`` (Conv1d, Conv2d or Linear) with the same weights."""
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        new = kind(layer.in_channels, layer.out_channels, layer.kernel_size, stride=layer.stride,
                   padding=layer.padding)  # fmt: skip
    elif isinstance(layer, nn.Linear):
        new = kind(layer.in_features, layer.out_features)
    else:
        raise TypeError(f"{type(layer).__name__} has no weights")
    new = new.to(layer.weight)
    with torch.no_grad():
        new.weight.copy_(layer.weight)  # type: ignore[operator]
        if layer.bias is None:
            new.bias.zero_()  # type: ignore[operator]
        else:
            new.bias.copy_(layer.bias)  # type: ignore[operator]
    return new.train(layer.training)


def masked_layers(network: nn.Module) -> dict[str, MaskedLayer]:
    """Name → maskable layer, in order."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, MaskedLayer)}


def sparsity(network: nn.Module) -> float:
    """Fraction of all weights (biases not counted) that act as zero."""
    weights = [layer.effective()[0] for layer in masked_layers(network).values()]
    return 1.0 - sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)


class MagnitudePruning:
    """Zero the weights that are smallest relative to the largest of their layer, round by round.

    A round prunes to the next sparsity of the schedule and trains on with the mask held, so a
    weight once removed stays removed. Masks travel in checkpoints as boolean tensors.
    """

    class Config(Section):
        sparsities: tuple[Fraction, ...] = (0.327, 0.475, 0.565, 0.630, 0.667, 0.700, 0.717)
        """Fraction of all weights that is zero after each round; must not decrease. The default is the
        published schedule of the seven-step pruning of jet taggers (Duarte et al. 2018, arXiv:1804.06913)."""
        l1: NonNegativeFloat = 1e-4
        """Weight of the L1 term in the loss: l1 · Σ|w| is added to the mean loss per event."""

        @field_validator("sparsities")
        @classmethod
        def _must_not_decrease(cls, value: tuple[float, ...]) -> tuple[float, ...]:
            if list(value) != sorted(value):
                raise ValueError("sparsities must not decrease: a removed weight stays removed")
            return value

    def __init__(self, config: Config) -> None:
        self.config = config

    def prune(self, network: nn.Module, sparsity: float) -> dict[str, Tensor]:
        """Masks that remove ``sparsity`` of all weights, pooled over layers.

        Returns one boolean mask per maskable layer, of the weight's shape, True where the weight stays.
        Weights already removed are among the removed. Raises ``UserError`` if a layer would lose
        every weight (named in the message).
        """
        layers = masked_layers(network)
        scores = []
        for layer in layers.values():
            size = layer.weight.detach().abs() * layer.mask
            scores.append(
                (size / size.max().clamp_min(torch.finfo(size.dtype).tiny)).masked_fill(~layer.mask, -1.0)
            )
        pooled = torch.cat([score.flatten() for score in scores])
        removed = round(sparsity * pooled.numel())
        keep = torch.ones_like(pooled, dtype=torch.bool)
        keep[torch.argsort(pooled, stable=True)[:removed]] = False
        pieces = torch.split(keep, [score.numel() for score in scores])
        masks = {
            name: piece.reshape(score.shape) & layer.mask
            for (name, layer), piece, score in zip(layers.items(), pieces, scores, strict=True)
        }
        for name, mask in masks.items():
            if not mask.any():
                raise UserError(
                    f"pruning to {sparsity:.1%} would remove every weight of layer '{name}'",
                    hint="end compress.pruning.sparsities at a lower fraction",
                )
        return masks

    def apply(self, network: nn.Module, masks: dict[str, Tensor]) -> None:
        """Hold ``masks`` (from ``prune``) in the network."""
        for name, layer in masked_layers(network).items():
            layer.hold(masks[name])

    def penalty(self, network: nn.Module) -> Tensor:
        """The L1 term l1 · Σ|w| over the weights that are left, a scalar with gradient."""
        terms = [layer.effective()[0].abs().sum() for layer in masked_layers(network).values()]
        return self.config.l1 * torch.stack(terms).sum()
