import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from hpctrain.models.cnn import WholeDetectorCNN
from hpctrain.tasks.base import LossSum, Phase
from hpctrain.training.flops import step_flops


def phase_of(model):
    def loss(batch):
        losses = functional.cross_entropy(model(batch["x"]), batch["y"], reduction="sum")
        return LossSum(losses, torch.tensor(float(len(batch["x"]))))

    return Phase("classify", list(model.parameters()), loss)


def batch_of(*shape, classes):
    return {"x": torch.rand(shape), "y": torch.randint(0, classes, shape[:1])}


def test_the_tagger_by_hand():
    """16-64-32-32-5: forward, weight gradients and input gradients cost 2 a weight; the first needs no input gradient."""
    model = nn.Sequential(
        nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5)
    )  # fmt: skip
    weights = [16 * 64, 64 * 32, 32 * 32, 32 * 5]
    by_hand = 7 * (3 * 2 * sum(weights) - 2 * weights[0])
    assert step_flops([phase_of(model)], model, batch_of(7, 16, classes=5)) == by_hand == 7 * 23_488


def test_the_network_of_the_demo_by_hand():
    """Convolutions 3×3 on 64², 32² and 16² cells, then 16·8² → 32 → 2."""
    model = WholeDetectorCNN.Config().build(shape=(3, 64, 64), classes=2)
    products = [9 * 3 * 8 * 64**2, 9 * 8 * 16 * 32**2, 9 * 16 * 16 * 16**2, 16 * 8**2 * 32, 32 * 2]
    by_hand = 5 * (3 * 2 * sum(products) - 2 * products[0])
    assert step_flops([phase_of(model)], model, batch_of(5, 3, 64, 64, classes=2)) == by_hand


def test_every_phase_counts_and_goes_into_every_leaf():
    """As ``backward()`` does: the loss of one network through another costs the gradients of both."""
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    model = nn.ModuleList([first, second])

    def loss(batch):
        return LossSum(second(first(batch["x"])).sum(), torch.tensor(1.0))

    phases = [Phase(name, [m.weight], loss) for name, m in (("first", first), ("second", second))]
    # two forwards, two weight gradients, one input gradient, in each phase
    assert step_flops(phases, model, {"x": torch.rand(3, 4)}) == 2 * 5 * 3 * 2 * 16


def test_attention_counts_on_cpus_too():
    q, heads, length, width = nn.Parameter(torch.rand(2, 4, 10, 8)), 4, 10, 8

    def loss(batch):
        return LossSum(functional.scaled_dot_product_attention(q, q, q).sum(), torch.tensor(1.0))

    product = 2 * (2 * heads * length * length * width)
    # two forward; backward the scores once more, and two for each of them
    assert step_flops([Phase("a", [q], loss)], nn.Module(), {}) == (2 + 5) * product


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_touched(training):
    """Gradients, hooks, statistics of BatchNorm, the mode, and what is drawn afterwards."""
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2)).train(
        training
    )
    phase, batch, called = phase_of(model), batch_of(8, 4, classes=2), []
    model[0].weight.grad = torch.full((6, 4), 7.0)
    model[0].weight.register_post_accumulate_grad_hook(called.append)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(3)
    expected = [torch.rand(1).item(), np.random.rand(), random.random()]  # noqa: NPY002
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(3)

    def loss(batch):
        np.random.rand(), random.random()  # noqa: NPY002
        return phase.loss(batch)

    assert step_flops([Phase("x", phase.parameters, loss)], model, batch) > 0
    assert [torch.rand(1).item(), np.random.rand(), random.random()] == expected  # noqa: NPY002
    assert torch.equal(model[0].weight.grad, torch.full((6, 4), 7.0))
    assert model[3].weight.grad is None
    assert not called
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training is training for module in model.modules())
