"""Invariants of masks: right number, smallest first, never back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from hpctrain.compress.prune import MagnitudePruning, masked_layers, sparsity, with_masks
from hpctrain.errors import UserError


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return with_masks(nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 6)))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), levels=st.lists(st.floats(0, 0.9), min_size=1, max_size=4))
def test_masks_remove_as_many_as_asked_and_only_grow(seed: int, levels: list[float]) -> None:
    model = network(seed)
    pruning = MagnitudePruning(MagnitudePruning.Config())
    total = sum(layer.weight.numel() for layer in masked_layers(model).values())
    for level in sorted(levels):
        before = {name: layer.mask.clone() for name, layer in masked_layers(model).items()}
        masks = pruning.prune(model, level)
        pruning.apply(model, masks)
        assert round(sparsity(model) * total) == round(level * total)
        for name, layer in masked_layers(model).items():
            assert not (layer.mask & ~before[name]).any()
            layer.weight.data += 0.1 * torch.randn_like(layer.weight)


def test_the_smallest_relative_to_the_largest_of_their_layer_go_first() -> None:
    model = with_masks(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)))
    first, last = masked_layers(model).values()
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[100.0, 40.0], [30.0, 90.0]]))  # 0.4 and 0.3 of its largest
        last.weight.copy_(torch.tensor([[1.0, -0.1], [0.5, 0.35]]))  # 0.1 and 0.35 of its largest
    masks = list(MagnitudePruning(MagnitudePruning.Config()).prune(model, 3 / 8).values())
    assert masks[0].tolist() == [[True, True], [False, True]]
    assert masks[1].tolist() == [[True, False], [True, False]]


def test_removed_weights_stay_removed_while_training() -> None:
    model = network()
    pruning = MagnitudePruning(MagnitudePruning.Config(l1=0.01))
    pruning.apply(model, pruning.prune(model, 0.5))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=0.1)
    masks = {name: layer.mask.clone() for name, layer in masked_layers(model).items()}
    for _ in range(5):
        optimizer.zero_grad()
        (model(torch.randn(8, 2, 4, 4)).square().mean() + pruning.penalty(model)).backward()
        optimizer.step()
    for name, layer in masked_layers(model).items():
        assert torch.equal(layer.effective()[0] != 0, masks[name])


def test_masks_travel_in_the_state_dict() -> None:
    model, other = network(), network(1)
    pruning = MagnitudePruning(MagnitudePruning.Config())
    pruning.apply(model, pruning.prune(model, 0.6))
    other.load_state_dict(model.state_dict())
    x = torch.randn(3, 2, 4, 4)
    assert sparsity(other) == sparsity(model)
    assert torch.equal(other(x), model(x))


def test_penalty_is_l1_times_the_weights_left() -> None:
    model = with_masks(nn.Sequential(nn.Linear(2, 1)))
    (layer,) = masked_layers(model).values()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-3.0, 7.0]]))
    layer.hold(torch.tensor([[True, False]]))
    assert MagnitudePruning(MagnitudePruning.Config(l1=0.5)).penalty(model).item() == 1.5


def test_a_layer_that_would_vanish_is_named() -> None:
    model = network()
    with torch.no_grad():
        masked_layers(model)["3"].weight.mul_(0).view(-1)[0] = 1.0
    pruning = MagnitudePruning(MagnitudePruning.Config())
    pruning.apply(model, pruning.prune(model, 0.5))
    masked_layers(model)["3"].weight.data.zero_()
    with pytest.raises(UserError, match="every weight of layer '3'"):
        pruning.prune(model, 0.99)


def test_a_falling_schedule_is_refused() -> None:
    with pytest.raises(ValidationError, match="must not decrease"):
        MagnitudePruning.Config(sparsities=(0.5, 0.4))
