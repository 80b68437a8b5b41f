"""Optimisers and learning-rate schedules by name."""

import math
from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import nn

from hpctrain.config import ComponentConfig
from hpctrain.registry import register


@register("optimizers")
class Adam(torch.optim.Adam):
    """Adam (Kingma, Ba 2015)."""

    class Config(ComponentConfig):
        kind: Literal["adam"] = "adam"
        learning_rate: PositiveFloat = 1e-3
        """Step size at the end of the warm-up."""

    def __init__(self, config: Config, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, lr=config.learning_rate)


@register("optimizers")
class AdamW(torch.optim.AdamW):
    """Adam with decoupled weight decay (Loshchilov, Hutter 2019)."""

    class Config(ComponentConfig):
        kind: Literal["adamw"] = "adamw"
        learning_rate: PositiveFloat = 1e-3
        """Step size at the end of the warm-up."""
        weight_decay: NonNegativeFloat = 1e-2
        """Fraction of each weight taken away per unit of step size."""

    def __init__(self, config: Config, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)


@register("optimizers")
class SGD(torch.optim.SGD):
    """Stochastic gradient descent with momentum."""

    class Config(ComponentConfig):
        kind: Literal["sgd"] = "sgd"
        learning_rate: PositiveFloat = 1e-2
        """Step size at the end of the warm-up."""
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
        """Fraction of the last step that is kept."""
        weight_decay: NonNegativeFloat = 0.0
        """L2 term."""

    def __init__(self, config: Config, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(
            parameters, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )


def schedule_factor(kind: Literal["constant", "cosine"], step: int, steps: int, warmup: int) -> float:
    """What the learning rate is multiplied with at ``step`` of ``steps``: linear warm-up, then the schedule."""
    if step < warmup:
        return (step + 1) / warmup
    if kind == "constant":
        return 1.0
    done = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
