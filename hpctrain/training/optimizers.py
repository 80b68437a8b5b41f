"""Optimisers by name: torch's own, and LARS and LAMB for large batches from pytorch_optimizer."""

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import nn
from torch.optim import Optimizer

from hpctrain.config import ComponentConfig
from hpctrain.registry import register

Parameters = Iterable[nn.Parameter]
Below1 = Annotated[float, Field(ge=0, lt=1)]


class _Fused(ComponentConfig):
    fused: bool = False
    """Update all parameters in one pass of one kernel: less overhead, other rounding."""


@register("optimizers")
class Adam(torch.optim.Adam):
    """Adam (Kingma, Ba 2015)."""

    class Config(_Fused):
        kind: Literal["adam"] = "adam"
        learning_rate: PositiveFloat = 1e-3
        """Step size at the end of the warm-up."""

    def __init__(self, config: Config, parameters: Parameters) -> None:
        super().__init__(parameters, lr=config.learning_rate, fused=config.fused or None)


@register("optimizers")
class AdamW(torch.optim.AdamW):
    """Adam with decoupled weight decay (Loshchilov, Hutter 2019)."""

    class Config(_Fused):
        kind: Literal["adamw"] = "adamw"
        learning_rate: PositiveFloat = 1e-3
        """Step size at the end of the warm-up."""
        weight_decay: NonNegativeFloat = 1e-2
        """Fraction of each weight taken away per unit of step size."""

    def __init__(self, config: Config, parameters: Parameters) -> None:
        super().__init__(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=config.fused or None
        )


@register("optimizers")
class SGD(torch.optim.SGD):
    """Stochastic gradient descent with momentum."""

    class Config(_Fused):
        kind: Literal["sgd"] = "sgd"
        learning_rate: PositiveFloat = 1e-2
        """Step size at the end of the warm-up."""
        momentum: Below1 = 0.9
        """Fraction of the last step that is kept."""
        nesterov: bool = False
        """Look ahead along the last step (Nesterov); needs momentum."""
        weight_decay: NonNegativeFloat = 0.0
        """L2 term."""

    def __init__(self, config: Config, parameters: Parameters) -> None:
        super().__init__(
            parameters, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay,
            nesterov=config.nesterov and config.momentum > 0, fused=config.fused or None,
        )  # fmt: skip


# The next two are imported where they are made: the library takes a second.


@register("optimizers")
class LARS:
    """SGD with a learning rate for each layer, for large batches (You, Gitman, Ginsburg 2017). Biases and scales move
    as with SGD."""

    class Config(ComponentConfig):
        kind: Literal["lars"] = "lars"
        learning_rate: PositiveFloat = 1.0
        """Step size at the end of the warm-up; of a layer, times its trust ratio."""
        momentum: Below1 = 0.9
        """Fraction of the last step that is kept."""
        weight_decay: NonNegativeFloat = 1e-4
        """L2 term."""
        trust: PositiveFloat = 1e-3
        """A layer moves by this times the norm of its weights over that of its gradient."""

    def __new__(cls, config: Config, parameters: Parameters) -> Optimizer:  # type: ignore[misc]
        from pytorch_optimizer import LARS as Kept

        made: Optimizer = Kept(
            parameters, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay,
            trust_coefficient=config.trust,
        )  # fmt: skip
        return made


@register("optimizers")
class LAMB:
    """Adam with a learning rate for each layer, for large batches (You et al. 2020)."""

    class Config(ComponentConfig):
        kind: Literal["lamb"] = "lamb"
        learning_rate: PositiveFloat = 2e-3
        """Step size at the end of the warm-up; of a layer, times its trust ratio."""
        weight_decay: NonNegativeFloat = 1e-2
        """Fraction of each weight that its step takes away."""

    def __new__(cls, config: Config, parameters: Parameters) -> Optimizer:  # type: ignore[misc]
        from pytorch_optimizer import Lamb as Kept

        # Without this first steps are ten times as long as their trust ratio says.
        made: Optimizer = Kept(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay, adam_debias=True
        )
        return made
