"""Comparison counts events, never forgives NaN, and vectors are read back as the numbers they were."""

import numpy as np
import pytest
import torch
from torch import nn

from hpctrain.compress.fixed_point import FixedPoint
from hpctrain.firmware.twin import firmware_name, plain_twin
from hpctrain.firmware.verify import channels_last, compare, distinct, golden_vectors, random_inputs


def test_events_beyond_the_tolerance_are_counted() -> None:
    expected = np.zeros((4, 2))
    emulated = np.array([[0.0, 0.0], [0.1, 0.3], [0.0, -0.2], [0.0, 0.0]])
    strict, loose = compare(expected, emulated, 0.0), compare(expected, emulated, 0.2)
    assert (strict.mismatches, loose.mismatches) == (2, 1)
    assert strict.max_abs_difference == 0.3
    assert strict.worst[:2] == (1, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_a_number_never_passes(bad: float) -> None:
    assert compare(np.zeros((1, 1)), np.array([[bad]]), 1e9).mismatches == 1


def test_distinct_outputs_are_counted() -> None:
    expected = np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0], [0.0, 2.0]])
    assert distinct(expected) == compare(expected, expected, 0.0).distinct_outputs == 3
    assert distinct(np.zeros((5, 2))) == 1


@pytest.mark.parametrize("kind", [FixedPoint(8, 3, False), FixedPoint(6, 1)])
def test_random_inputs_reach_both_ends_and_both_densities(kind: FixedPoint) -> None:
    inputs = random_inputs(kind, (3, 16, 16))
    assert np.array_equal(inputs, random_inputs(kind, (3, 16, 16)))
    assert inputs.max() > kind.highest + kind.step  # saturates
    assert inputs.min() < kind.lowest - kind.step if kind.signed else inputs.min() == 0
    filled = (inputs != 0).mean(axis=(1, 2, 3))
    assert filled.max() == 1.0
    assert 0 < filled[filled > 0].min() < 0.02
    assert (np.count_nonzero(inputs, axis=0) > 5).all()  # every cell, in several of them
    codes = kind.quantise(torch.from_numpy(inputs)) / kind.step
    assert len(codes.unique()) == 2**kind.width


def test_channels_go_last() -> None:
    array = np.arange(24.0).reshape(1, 2, 3, 4)
    assert channels_last(array).shape == (1, 3, 4, 2)
    assert channels_last(array)[0, 1, 2, 1] == array[0, 1, 1, 2]
    assert channels_last(array).flags["C_CONTIGUOUS"]
    assert channels_last(np.zeros((3, 5))).shape == (3, 5)


def test_golden_vectors_are_exact() -> None:
    inputs = np.array([[0.0, 2.0**-9], [1.0 - 2.0**-12, 3.0]])
    features, predictions = golden_vectors(inputs, -inputs)
    for text, numbers in ((features, inputs), (predictions, -inputs)):
        assert np.array_equal([[float(word) for word in line.split()] for line in text.splitlines()], numbers)


@pytest.mark.parametrize(
    ("name", "safe"), [("conv1", "conv1"), ("3", "layer_3"), ("class", "layer_class"), ("max", "layer_max")]
)
def test_names_fit_into_cpp(name: str, safe: str) -> None:
    assert firmware_name(name) == safe


def test_twin_is_the_network_without_its_quantisers(cnn: nn.Module, quantised) -> None:
    from hpctrain.compress.types import layer_types

    network, inputs = quantised(cnn, (3, 8, 8))
    twin = plain_twin(layer_types(network))
    first = next(iter(network.children())).kind.quantise(inputs)
    with torch.no_grad():
        assert torch.equal(twin[0](first), network[:2](inputs))
    assert {type(layer) for layer in twin} == {
        nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.Flatten, nn.Linear,
    }  # fmt: skip
