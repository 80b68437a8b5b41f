"""A network of one's own: sums the image over φ, so it cannot depend on the azimuth at all."""

from typing import Literal

from pydantic import PositiveInt
from torch import Tensor, nn

from hpctrain.config import ComponentConfig


class RingNetwork(nn.Module):
    """Energy and tracks in rings of η → two fully connected layers → logits."""

    class Config(ComponentConfig):
        kind: Literal["ring"] = "ring"
        width: PositiveInt = 64
        """Width of the hidden layer."""

    def __init__(self, config: Config, *, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, rings, _ = shape
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * rings, config.width),
            nn.ReLU(),
            nn.Linear(config.width, classes),
        )

    def forward(self, image: Tensor) -> Tensor:
        """(n, channels, η, φ) → (n, classes)."""
        return self.layers(image.sum(dim=3))
