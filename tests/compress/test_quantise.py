"""Types hold what they must: calibration, exact accumulators, and a network whose values all lie on their grids."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hpctrain.compress.fixed_point import FixedPoint
from hpctrain.compress.prune import with_masks
from hpctrain.compress.quantise import (
    Calibration,
    Quantiser,
    accumulator,
    exact,
    quantise_network,
    quantiser_places,
)
from hpctrain.compress.types import layer_types
from hpctrain.errors import UserError


def masked() -> nn.Sequential:
    torch.manual_seed(1)
    return with_masks(
        nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(3, 4, 1), nn.AvgPool2d(2),
                      nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 2))
    ).eval()  # fmt: skip


@pytest.fixture
def quantised() -> nn.Sequential:
    network = masked()
    calibration = Calibration(network)
    calibration.add(torch.randn(64, 2, 8, 8))
    return exact(quantise_network(network, calibration.types(7, 6, 0.001), 5))


def test_quantisers_stand_where_values_go_on_to_another_layer() -> None:
    assert quantiser_places(masked()) == ["input", "2", "3", "4", "7"]


@torch.no_grad()
def test_every_value_lies_on_the_grid_of_its_type(quantised: nn.Sequential) -> None:
    values = torch.randn(20, 2, 8, 8, dtype=torch.float64) * 3
    types = {entry.name: entry for entry in layer_types(quantised)}
    checked = 0
    for name, layer in quantised.named_children():
        values = layer(values)
        held = layer.kind if isinstance(layer, Quantiser) else types[name].accumulator
        if held is not None:
            assert torch.equal(held.quantise(values), values), name
            assert not held.overflows(values).any()
            checked += 1
    assert checked == 10  # 5 quantisers, 4 sums of products, 1 mean


@settings(deadline=None, max_examples=40)
@given(
    codes=st.lists(st.integers(-7, 7), min_size=3, max_size=3),
    bias=st.integers(-20, 20),
    signed=st.booleans(),
)
def test_accumulator_is_the_narrowest_that_holds_every_partial_sum(
    codes: list[int], bias: int, signed: bool
) -> None:
    inputs, weights = FixedPoint(3, 2, signed), FixedPoint(4, 1)
    weight = torch.tensor([codes], dtype=torch.float64) * weights.step
    fraction = inputs.fraction + weights.fraction
    step = 2.0**-fraction
    kind = accumulator(weight, torch.tensor([bias * step], dtype=torch.float64), inputs, fraction)
    ends = [inputs.lowest, 0.0, inputs.highest]
    sums = []
    for order in itertools.permutations(range(-1, 3)):
        for values in itertools.product(ends, repeat=3):
            total = 0.0
            for index in order:
                total += bias * step if index < 0 else float(weight[0, index]) * values[index]
                sums.append(total)
    assert kind.lowest <= min(sums)
    assert max(sums) <= kind.highest
    narrower = FixedPoint(kind.width - 1, kind.integer - 1, True, "TRN", "WRAP")
    assert kind.width == 2 or min(sums) < narrower.lowest or max(sums) > narrower.highest


def test_calibration_allows_the_fraction_asked_and_no_more() -> None:
    network = with_masks(nn.Sequential(nn.Linear(1, 1))).eval()
    calibration = Calibration(network)
    calibration.add(torch.cat([torch.full((990, 1), 0.9), torch.full((10, 1), 100.0), torch.zeros(5000, 1)]))
    assert calibration.types(8, 8, 0.0)["input"].highest > 100
    assert calibration.types(8, 8, 0.009)["input"].highest > 100
    assert calibration.types(8, 8, 0.01)["input"] == FixedPoint(8, 0, False)


def test_counts_of_ranks_add_up() -> None:
    network, data = masked(), torch.randn(30, 2, 8, 8)
    whole, parts = Calibration(network), [Calibration(network) for _ in range(2)]
    whole.add(data)
    parts[0].add(data[:7])
    parts[1].add(data[7:])
    assert torch.equal(whole.counts, parts[0].counts + parts[1].counts)


def test_saturation_is_counted_in_use_and_not_in_training() -> None:
    quantiser = Quantiser(FixedPoint(4, 1, False))
    quantiser(torch.tensor([0.5, 3.0]))
    assert quantiser.seen == 0
    quantiser.eval()(torch.tensor([0.5, 3.0, -1.0]))
    assert (quantiser.seen, quantiser.saturated) == (3, 2)


def losses_of(chain: nn.Sequential, data: torch.Tensor, labels: torch.Tensor, steps: int) -> list[float]:
    optimizer = torch.optim.Adam(chain.train().parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(chain(data), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_training_in_fixed_point_goes_on_where_the_network_was() -> None:
    network, labels = masked(), torch.arange(64) % 2
    data = torch.randn(64, 2, 8, 8) + 0.5 * labels.view(-1, 1, 1, 1)
    before = losses_of(network, data, labels, 25)[-1]
    calibration = Calibration(network.eval())
    calibration.add(data)
    losses = losses_of(quantise_network(network, calibration.types(5, 6, 0.01), 4), data, labels, 60)
    assert before < 0.4
    assert losses[-1] < 0.5 * losses[0]


def test_sums_too_wide_for_the_reference_are_refused() -> None:
    network = with_masks(nn.Sequential(nn.Linear(2, 2))).eval()
    with pytest.raises(UserError, match=r"layer '0' needs .* bits"):
        layer_types(quantise_network(network, {"input": FixedPoint(40, 1)}, 16))
