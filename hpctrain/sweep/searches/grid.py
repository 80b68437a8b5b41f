"""Every combination of the values given."""

import math
from typing import ClassVar, Literal

from hpctrain.config import ComponentConfig
from hpctrain.errors import UserError
from hpctrain.registry import register
from hpctrain.sweep.searches.base import Parameters, Past
from hpctrain.sweep.space import Choices, Space

MOST_TRIALS = 10_000


@register("searches")
class GridSearch:
    """Every combination of the values, the last key changing fastest."""

    learns: ClassVar[bool] = False

    class Config(ComponentConfig):
        kind: Literal["grid"] = "grid"

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self, space: Space) -> None:
        """Raise ``UserError`` for a range, and for a grid that nobody can mean."""
        for key, axis in space.items():
            if not isinstance(axis, Choices):
                raise UserError(
                    f"parameters.{key}: a grid needs values, and this is a range",
                    hint="Give a list, or search.kind=random",
                )
        if self.count(space) > MOST_TRIALS:
            raise UserError(
                f"the grid has {self.count(space):,} trials", hint="Give fewer values, or search.kind=random"
            )

    def count(self, space: Space) -> int:
        return math.prod(len(axis.probes()) for axis in space.values())

    def parameters(self, space: Space, number: int, past: Past) -> Parameters:
        """Trial ``number`` counts through the grid as an odometer does."""
        chosen: Parameters = {}
        for key, axis in reversed(list(space.items())):
            values = axis.probes()
            number, digit = divmod(number, len(values))
            chosen[key] = values[digit]
        return {key: chosen[key] for key in space}

    def learn(self, space: Space, past: Past) -> None:
        """Nothing."""
