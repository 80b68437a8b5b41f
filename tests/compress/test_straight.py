"""Chains are found whatever way the network is written; what does not fit is refused by name."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hpctrain.compress.straight import straight_line
from hpctrain.errors import UserError
from hpctrain.models.cnn import WholeDetectorCNN


class Written(nn.Module):
    """Functions for layers without weights, one ReLU used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(8, 2)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.drop(self.act(self.body(x))))
        return self.last(functional.relu(torch.flatten(x, 1)))


def test_functions_and_shared_layers_become_a_chain() -> None:
    network = Written().eval()
    chain = straight_line(network)
    assert [type(layer) for layer in chain] == [
        nn.Conv2d, nn.ReLU, nn.ReLU, nn.ReLU, nn.Flatten, nn.ReLU, nn.Linear,
    ]  # fmt: skip
    x = torch.randn(3, 1, 4, 4)
    assert torch.equal(chain(x), network(x))


def test_names_lose_the_shared_path_and_layers_are_copies() -> None:
    network = WholeDetectorCNN(WholeDetectorCNN.Config(filters=(2,), hidden=3), shape=(1, 4, 4))
    chain = straight_line(network)
    assert [name for name, _ in chain.named_children()] == [
        "conv1", "relu1", "pool1", "flatten", "dense", "relu", "output",
    ]  # fmt: skip
    with torch.no_grad():
        next(chain.parameters()).zero_()
    assert next(network.parameters()).any()


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.GELU()), r"layer '1' \(GELU\) of Sequential.*ReLU"),
        (nn.Sequential(nn.Conv2d(2, 2, 3, groups=2)), r"layer '0' .*groups=1"),
        (nn.Sequential(nn.Conv2d(2, 2, 3, padding="same")), r"padding='same'.*number"),
        (nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")), "circular padding.*zeros"),
        (nn.Sequential(nn.Conv2d(2, 2, 3), nn.MaxPool2d(3, 2)), r"layer '1' .*stride equal to the window"),
        (nn.Sequential(nn.Conv2d(2, 2, 3), nn.AvgPool2d(3)), "over 9 values.*window of 2, 4, 8"),
        (nn.Sequential(nn.Linear(2, 2), nn.Flatten(0)), "part of the axes"),
        (Skip(), "'add' .*without skip connections"),
        (Branching(), "cannot be traced.*without control flow"),
        (nn.Sequential(nn.ReLU()), "no weights"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_the_nearest_form(network: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=message):
        straight_line(network)
