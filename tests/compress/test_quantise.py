"""Types hold what they must: calibration, exact accumulators, and a network whose values all lie on their grids."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hpctrain.compress.figures import layer_records
from hpctrain.compress.fixed_point import FixedPoint
from hpctrain.compress.prune import MaskedLayer, with_masks
from hpctrain.compress.quantise import (
    Calibration,
    QuantisedLayer,
    Quantiser,
    accumulator,
    bias_type,
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
    quantiser.eval()(torch.tensor([0.5, 3.0, -1.0, 0.0, 0.0]))
    assert (quantiser.seen, quantiser.saturated) == (3, 2)  # zeros are no part of the fraction


def test_saturation_is_the_fraction_that_calibration_allows() -> None:
    """The same events afterwards show the fraction that was asked for, however many zeros are among them."""
    network = with_masks(nn.Sequential(nn.Linear(1, 1))).eval()
    data = torch.cat([torch.full((990, 1), 0.9), torch.full((10, 1), 100.0), torch.zeros(5000, 1)])
    calibration = Calibration(network)
    calibration.add(data)
    chain = quantise_network(network, calibration.types(8, 8, 0.01), 8).eval()
    chain(data)
    entrance = next(iter(chain.children()))
    assert isinstance(entrance, Quantiser)
    assert entrance.saturated / entrance.seen == 0.01


def large_biases() -> nn.Sequential:
    """Biases of up to 1 and small weights in every layer, so that 16-bit products have a very fine grid."""
    network = masked()
    with torch.no_grad():
        for layer in network.children():
            if isinstance(layer, MaskedLayer):
                layer.weight.mul_(0.3)
                layer.bias.copy_(torch.linspace(-1, 1, len(layer.bias)))
    return network


@torch.no_grad()
def test_no_bias_is_clipped_at_16_bits_and_the_function_is_that_of_float() -> None:
    network, data = large_biases(), torch.randn(200, 2, 8, 8)
    calibration = Calibration(network)
    calibration.add(data)
    chain = quantise_network(network, calibration.types(16, 16, 0.0), 16)
    layers = {name: layer for name, layer in chain.named_children() if isinstance(layer, QuantisedLayer)}
    assert max(layer.bias_type.fraction for layer in layers.values()) > 31  # 32 bits would end below 1
    for name, layer in layers.items():
        assert layer.saturated() == (0, 0)
        bias = network.get_submodule(name).bias.double()  # type: ignore[union-attr, operator]
        assert (layer.exact_bias() - bias).abs().max() <= layer.bias_type.step / 2
    expected, found = network.double()(data.double()), exact(chain)(data.double())
    assert (found - expected).abs().max() < 1e-3 * expected.std()
    types = {entry.name: entry for entry in layer_types(exact(chain))}
    for name, layer in layers.items():
        stated = types[name].bias
        assert stated is not None
        assert torch.equal(stated.quantise(layer.exact_bias()), layer.exact_bias())


def test_a_bias_may_grow_and_never_needs_more_than_float64_has() -> None:
    assert bias_type(torch.tensor([0.7, -0.2]), 20) == FixedPoint(30, 10)
    assert bias_type(torch.zeros(3), 20) == FixedPoint(30, 10)
    assert bias_type(torch.tensor([-5.0]), 20).lowest == -2048
    assert bias_type(torch.tensor([0.7]), 48) == FixedPoint(53, 5)
    assert not bias_type(torch.tensor([300.0]), 48).overflows(torch.tensor([300.0]).double()).any()


@torch.no_grad()
def test_a_bias_on_a_grid_finer_than_float32_rounds_stays_as_it_is() -> None:
    chain = quantise_network(
        with_masks(nn.Sequential(nn.Linear(1, 1))).eval(), {"input": FixedPoint(16, 0, False)}, 16
    )
    layer = chain.get_submodule("0")
    assert isinstance(layer, QuantisedLayer)
    odd = (2**23 + 1) * layer.bias_type.step  # a half more is a tie in float32, and would go to the next code
    layer.bias.fill_(odd)
    assert float(layer.effective()[1]) == float(layer.exact_bias()) == odd


@torch.no_grad()
def test_clipped_biases_are_counted() -> None:
    network = large_biases()
    calibration = Calibration(network)
    calibration.add(torch.randn(20, 2, 8, 8))
    chain = quantise_network(network, calibration.types(8, 8, 0.01), 8)
    layer = chain.get_submodule("0")
    assert isinstance(layer, QuantisedLayer)
    layer.bias_type = FixedPoint(8, 0)  # −0.5 … 0.5; the biases are −1, 0, 1
    assert layer.saturated()[1] == 2
    overflow = {"input": {"seen": 10, "saturated": 1}}
    records = layer_records(chain, overflow)
    assert [record["saturated_biases"] for record in records] == [2, 0, 0, 0]
    assert records[0]["input_saturation"] == 0.1


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
