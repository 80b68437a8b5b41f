"""Whole-detector convolutional networks (Bhimji et al., "Deep Neural Networks for Physics Analysis on low-level
whole-detector data at the LHC", section 2.2)."""

from collections import OrderedDict
from typing import Annotated, Literal

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from hpctrain.config import ComponentConfig
from hpctrain.errors import UserError
from hpctrain.registry import register


@register("models")
class WholeDetectorCNN(nn.Module):
    """Units of [convolution 3×3 → ReLU → max-pool 2×2], then two fully connected layers to ``classes`` logits.

    Small filters by default, so that the network fits a trigger and a laptop. The network of the paper's code is
    ``filters: [128, 128, 128], hidden: 512, normalisation: batch`` (4,493,442 parameters on 64×64×1).
    """

    class Config(ComponentConfig):
        kind: Literal["whole_detector_cnn"] = "whole_detector_cnn"
        filters: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (8, 16, 16)
        """Filters of each unit; the image is halved as often, so its side must be divisible by 2^units."""
        hidden: PositiveInt = 32
        """Width of the first fully connected layer."""
        normalisation: Literal["none", "batch"] = "none"
        """``batch``: BatchNorm after each convolution, as in the paper's code."""

    def __init__(
        self, config: Config, *, shape: tuple[int, int, int] = (3, 64, 64), classes: int = 2
    ) -> None:
        super().__init__()
        channels, height, width = shape
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, filters in enumerate(config.filters, 1):
            if height % 2 or width % 2:
                raise UserError(
                    f"task.model.filters: unit {i} cannot halve an image of {height}×{width}",
                    hint=f"Use at most {i - 1} units, or images whose side is divisible by {2 ** len(config.filters)}",
                )
            layers[f"conv{i}"] = nn.Conv2d(
                channels, filters, 3, padding=1, bias=config.normalisation == "none"
            )
            if config.normalisation == "batch":
                layers[f"norm{i}"] = nn.BatchNorm2d(filters)
            layers[f"relu{i}"] = nn.ReLU()
            layers[f"pool{i}"] = nn.MaxPool2d(2)
            channels, height, width = filters, height // 2, width // 2
        layers["flatten"] = nn.Flatten()
        layers["dense"] = nn.Linear(channels * height * width, config.hidden)
        layers["relu"] = nn.ReLU()
        layers["output"] = nn.Linear(config.hidden, classes)
        self.layers = nn.Sequential(layers)

    def forward(self, image: Tensor) -> Tensor:
        """(n, *shape) → logits (n, classes)."""
        logits: Tensor = self.layers(image)
        return logits
