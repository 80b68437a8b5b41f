"""Values drawn at random (Bergstra and Bengio 2012): better than a grid when few of many keys matter."""

import zlib
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveInt

from hpctrain.config import ComponentConfig
from hpctrain.registry import register
from hpctrain.sweep.searches.base import Parameters, Past
from hpctrain.sweep.space import Space


@register("searches")
class RandomSearch:
    """Each key drawn by itself: evenly from its choices, evenly from its range or from the logarithm of it."""

    learns: ClassVar[bool] = False

    class Config(ComponentConfig):
        kind: Literal["random"] = "random"
        trials: PositiveInt = 20
        """How many; more may be asked for later, which leaves the first as they are."""
        seed: Annotated[int, Field(ge=0)] = 1
        """What is drawn follows from it, the number of the trial and the key."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self, space: Space) -> None:
        """Any space will do."""

    def count(self, space: Space) -> int:
        return self.config.trials

    def parameters(self, space: Space, number: int, past: Past) -> Parameters:
        """A function of seed, number and key: no trial has to know of another."""
        return {
            key: axis.at(
                float(np.random.default_rng([self.config.seed, number, zlib.crc32(key.encode())]).random())
            )
            for key, axis in space.items()
        }

    def learn(self, space: Space, past: Past) -> None:
        """Nothing."""
