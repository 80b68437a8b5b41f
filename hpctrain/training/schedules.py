"""Learning-rate schedules by name: pure functions of where training is, so that going on needs no state of theirs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator

from hpctrain.config import ComponentConfig
from hpctrain.registry import register

Factor = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True)
class Moment:
    """Where training is when a step is made."""

    step: int
    """Steps made so far."""
    steps: int
    """Steps of the whole training."""
    epoch: int = 0
    metrics: Sequence[float] = ()
    """Of every epoch before this one, what is monitored: the higher the better."""


class Schedule(Protocol):
    """What the optimiser's learning rate is multiplied with."""

    def factor(self, moment: Moment) -> float:
        """For the step about to be made; 1 is the learning rate of the optimiser's settings."""
        ...


class _Warm(ComponentConfig):
    warmup_steps: NonNegativeInt = 20
    """Steps over which the learning rate rises in equal parts; the schedule proper comes after them."""

    def warmth(self, moment: Moment) -> float:
        return min(1.0, (moment.step + 1) / self.warmup_steps) if self.warmup_steps else 1.0


@register("schedules")
class Constant:
    """The same after the warm-up."""

    class Config(_Warm):
        kind: Literal["constant"] = "constant"

    def __init__(self, config: Config) -> None:
        self.config = config

    def factor(self, moment: Moment) -> float:
        return self.config.warmth(moment)


@register("schedules")
class Cosine:
    """Half a cosine down to ``final`` at the last step (Loshchilov, Hutter 2017)."""

    class Config(_Warm):
        kind: Literal["cosine"] = "cosine"
        final: Annotated[float, Field(ge=0, le=1)] = 0.0
        """Part of the learning rate that is left at the end."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def factor(self, moment: Moment) -> float:
        warmup = self.config.warmup_steps
        if moment.step < warmup:
            return self.config.warmth(moment)
        done = (moment.step - warmup) / max(1, moment.steps - warmup)
        fallen = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return self.config.final + (1 - self.config.final) * fallen


@register("schedules")
class Step:
    """Down by ``factor`` at the beginning of some epochs."""

    class Config(_Warm):
        kind: Literal["step"] = "step"
        epochs: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (30, 60, 90)
        """Epochs, the first being 0, from which on the learning rate is lower; rising."""
        factor: Factor = 0.1
        """What it is multiplied with each time."""

        @field_validator("epochs")
        @classmethod
        def _rising(cls, epochs: tuple[int, ...]) -> tuple[int, ...]:
            if list(epochs) != sorted(set(epochs)):
                raise ValueError("must rise")
            return epochs

    def __init__(self, config: Config) -> None:
        self.config = config

    def factor(self, moment: Moment) -> float:
        falls = sum(epoch <= moment.epoch for epoch in self.config.epochs)
        return float(self.config.warmth(moment) * self.config.factor**falls)


@register("schedules")
class Plateau:
    """Down by ``factor`` whenever the monitored metric has not improved for ``patience`` epochs."""

    class Config(_Warm):
        kind: Literal["plateau"] = "plateau"
        patience: PositiveInt = 5
        """Epochs without a better metric before the learning rate goes down; counted anew after that."""
        factor: Factor = 0.1
        """What it is multiplied with each time."""
        threshold: NonNegativeFloat = 1e-4
        """Better means better by more than this."""
        minimum: Annotated[float, Field(ge=0, lt=1)] = 0.0
        """The least part of the learning rate."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def factor(self, moment: Moment) -> float:
        best, waited, falls = -math.inf, 0, 0
        for metric in moment.metrics:
            if metric > best + self.config.threshold:
                best, waited = metric, 0
            else:
                waited += 1
            if waited == self.config.patience:
                waited, falls = 0, falls + 1
        left = max(self.config.minimum, self.config.factor**falls)
        return float(self.config.warmth(moment) * left)


Scaling = Literal["none", "linear", "sqrt"]


def scaled_for_batch(scaling: Scaling, global_batch_size: int, reference_batch_size: int) -> float:
    """What the learning rate is multiplied with for a batch larger or smaller than the one it was chosen for.

    ``linear``: as the batch (Goyal et al. 2017), for SGD; ``sqrt``: as its square root (Krizhevsky 2014), for Adam.

    >>> scaled_for_batch("linear", 4096, 256), scaled_for_batch("sqrt", 4096, 256)
    (16.0, 4.0)
    """
    return float(
        (global_batch_size / reference_batch_size) ** {"none": 0.0, "linear": 1.0, "sqrt": 0.5}[scaling]
    )
