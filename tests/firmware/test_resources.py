"""Counts against weights counted by hand; estimates against the structure they are made from."""

import pytest
import torch
from torch import nn

from hpctrain.compress.fixed_point import FixedPoint
from hpctrain.compress.prune import with_masks
from hpctrain.compress.quantise import Calibration, quantise_network
from hpctrain.compress.types import layer_types
from hpctrain.firmware.resources import count_weights, dsps_per_multiplier, estimates, layer_resources


def test_zeros_and_powers_of_two_are_no_multiplications() -> None:
    kind = FixedPoint(6, 1)
    weight = torch.tensor([[0.0, 0.5, -0.25, 3 * kind.step], [0.0, -5 * kind.step, kind.step, -1.0]])
    assert count_weights(weight, kind) == {"weights": 8, "nonzero_weights": 6, "multiplied": 2}


@pytest.mark.parametrize(
    ("a", "b", "dsps"),
    [
        (FixedPoint(8, 1), FixedPoint(8, 1), 1),
        (FixedPoint(25, 1), FixedPoint(18, 1), 1),
        (FixedPoint(18, 1), FixedPoint(25, 1), 1),
        (FixedPoint(18, 1, False), FixedPoint(25, 1), 2),  # an unsigned operand needs a sign
        (FixedPoint(26, 1), FixedPoint(18, 1), 2),
        (FixedPoint(32, 1), FixedPoint(32, 1), 4),
    ],
)
def test_dsp_slices_follow_the_widths(a: FixedPoint, b: FixedPoint, dsps: int) -> None:
    assert dsps_per_multiplier(a, b) == dsps_per_multiplier(b, a) == dsps


def records(strategy: str, io_type: str, reuse: dict[str, int]) -> list[dict]:
    torch.manual_seed(0)
    network = with_masks(
        nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 2)
        )
    ).eval()
    calibration = Calibration(network)
    calibration.add(torch.rand(8, 3, 8, 8))
    types = layer_types(quantise_network(network, calibration.types(8, 8, 0.01), 8))
    return layer_resources(types, (3, 8, 8), reuse, strategy, io_type)


def test_streamed_layers_share_multipliers_and_read_padded_pixels() -> None:
    conv, dense = records("Resource", "io_stream", {"layer_0": 9, "layer_4": 64})
    assert (conv["positions"], conv["weights"], conv["multipliers"]) == (64, 108, 12)
    assert conv["multiplications"] == 64 * conv["nonzero_weights"]
    assert conv["interval_cycles"] == (10 * 10 - 64) + 64 * (9 + 6)
    assert (dense["multipliers"], dense["interval_cycles"]) == (2, 64)
    total = estimates([conv, dense], 5.0)
    assert total["kind"] == "estimate"
    assert (total["slowest_layer"], total["interval_us"]) == ("layer_0", conv["interval_cycles"] * 0.005)
    assert total["dsp"] == 14


def test_latency_counts_only_real_multiplications() -> None:
    conv, dense = records("Latency", "io_stream", {"layer_0": 1, "layer_4": 1})
    assert conv["multipliers"] == conv["multiplied"] <= conv["nonzero_weights"]
    assert conv["interval_cycles"] == 100  # one padded pixel a cycle
    assert dense["interval_cycles"] == 1
