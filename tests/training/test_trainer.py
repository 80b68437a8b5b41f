"""The same tests on one rank and under ``mpiexec -n N``."""

import numpy as np
import pytest
import torch
from torch import nn

from hpctrain.data.order import split
from hpctrain.errors import UserError
from hpctrain.parallel.communicator import SingleCommunicator
from hpctrain.tasks.base import LossSum, Phase
from hpctrain.training.precision import Precision
from hpctrain.training.trainer import NotFinite, Trainer

pytestmark = pytest.mark.mpi


def linear_problem(dtype=torch.float64):
    """A model, its phase and 37 weighted samples (five batches, the last of one sample)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1)).to(dtype)
    rng = np.random.default_rng(0)
    data = {
        name: torch.from_numpy(rng.random(shape)).to(dtype)
        for name, shape in [("x", (37, 5)), ("y", 37), ("w", 37)]
    }

    def loss(batch):
        return LossSum((batch["w"] * (model(batch["x"])[:, 0] - batch["y"]) ** 2).sum(), batch["w"].sum())

    return model, Phase("fit", list(model.parameters()), loss), data


def train(communicator, dtype=torch.float64, steps=20, **options):
    model, phase, data = linear_problem(dtype)
    trainer = Trainer([phase], [torch.optim.Adam(phase.parameters, lr=0.01)], communicator, **options)
    losses = []
    for step in range(steps):
        rows = np.arange(37)[(step % 5) * 9 : (step % 5 + 1) * 9]
        mine = split(rows, communicator.rank, communicator.size)
        losses.append(trainer.step({k: v[mine] for k, v in data.items()})["fit"])
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]), losses


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_any_number_of_ranks_is_one_rank(world, dtype, tolerance):
    """Uneven and empty shares, weighted losses: the parameters are those of one rank."""
    parameters, losses = train(world, dtype)
    reference, reference_losses = train(SingleCommunicator(), dtype)
    assert torch.allclose(parameters, reference, rtol=tolerance, atol=tolerance)
    assert losses == pytest.approx(reference_losses, rel=10 * tolerance)


def test_the_same_ranks_give_the_same_bits(world):
    first, second = (train(world, torch.float32)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_every_rank_has_the_same_bits(world):
    everyone = world.gather(train(world, torch.float32)[0].numpy())
    for parameters in everyone:
        np.testing.assert_array_equal(parameters, everyone[0])


def test_the_gradient_is_that_of_the_weighted_mean(world):
    model, phase, data = linear_problem()
    trainer = Trainer([phase], [torch.optim.SGD(phase.parameters, lr=1.0)], world)
    before = [p.detach().clone() for p in phase.parameters]
    mine = split(np.arange(37), world.rank, world.size)
    trainer.step({k: v[mine] for k, v in data.items()})
    moved = [b - p.detach() for b, p in zip(before, phase.parameters, strict=True)]
    with torch.no_grad():
        for p, b in zip(phase.parameters, before, strict=True):
            p.copy_(b)
    loss = (data["w"] * (model(data["x"])[:, 0] - data["y"]) ** 2).sum() / data["w"].sum()
    for got, expected in zip(moved, torch.autograd.grad(loss, phase.parameters), strict=True):
        assert torch.allclose(got, expected, rtol=1e-12)


def test_clipping_is_of_the_global_gradient(world):
    clipped, _ = train(world, steps=1, clip_norm=1e-3)
    reference, _ = train(SingleCommunicator(), steps=1, clip_norm=1e-3)
    assert torch.allclose(clipped, reference, rtol=1e-12)


def test_phases_step_one_after_the_other(world):
    """Two phases that pull at each other's parameters, as a GAN's do."""

    def game(communicator):
        a, b = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([2.0]))
        phases = [
            Phase("a", [a], lambda batch: LossSum((batch["x"] * (a - b.detach()) ** 2).sum(), torch.tensor(float(len(batch["x"]))))),
            Phase("b", [b], lambda batch: LossSum((batch["x"] * (b + a.detach()) ** 2).sum(), torch.tensor(float(len(batch["x"]))))),
        ]  # fmt: skip
        trainer = Trainer(phases, [torch.optim.SGD(p.parameters, lr=0.1) for p in phases], communicator)
        x = torch.linspace(0, 1, 8)
        for _ in range(5):
            results = trainer.step({"x": x[split(np.arange(8), communicator.rank, communicator.size)]})
        assert {"a", "b"} <= set(results)
        return torch.cat([a, b]).detach()

    assert torch.allclose(game(world), game(SingleCommunicator()), rtol=1e-5)


def test_a_loss_that_is_not_finite_stops_everyone_before_the_update(world):
    _, phase, data = linear_problem()
    data["x"][0] = np.nan  # on rank 0 only
    trainer = Trainer([phase], [torch.optim.SGD(phase.parameters, lr=1.0)], world)
    before = [p.detach().clone() for p in phase.parameters]
    mine = split(np.arange(37), world.rank, world.size)
    with pytest.raises(UserError, match="the loss of phase 'fit' is nan at step 0"):
        trainer.step({k: v[mine] for k, v in data.items()})
    assert all(torch.equal(b, p.detach()) for b, p in zip(before, phase.parameters, strict=True))


def test_a_gradient_that_is_not_finite_stops_everyone_before_the_update(world):
    """The square root of 0 is finite, its slope is not."""
    root = nn.Parameter(torch.tensor([0.0, 1.0]))
    phase = Phase("root", [root], lambda batch: LossSum(root.abs().sqrt().sum(), torch.tensor(1.0)))
    trainer = Trainer([phase], [torch.optim.SGD([root], lr=0.1)], world)
    with pytest.raises(NotFinite, match="the gradient of phase 'root' has the norm nan at step 0"):
        trainer.step({"x": torch.ones(2)})
    assert root.tolist() == [0.0, 1.0]


def test_the_norm_is_that_of_the_global_gradient(world):
    model, phase, data = linear_problem()
    trainer = Trainer([phase], [torch.optim.SGD(phase.parameters, lr=1.0)], world, clip_norm=1e-3)
    loss = (data["w"] * (model(data["x"])[:, 0] - data["y"]) ** 2).sum() / data["w"].sum()
    gradients = torch.autograd.grad(loss, phase.parameters)
    mine = split(np.arange(37), world.rank, world.size)
    norm = trainer.step({k: v[mine] for k, v in data.items()})["gradient_norm"]
    assert norm == pytest.approx(float(torch.cat([g.reshape(-1) for g in gradients]).norm()), rel=1e-12)


def test_whoever_is_asked_to_stop_all_know_after_the_step(world):
    _, phase, data = linear_problem()
    asked = []
    trainer = Trainer(
        [phase], [torch.optim.SGD(phase.parameters, lr=0.1)], world, asked_to_stop=lambda: asked
    )
    seen = []
    for step in range(3):
        if step == 1 and world.rank == world.size - 1:
            asked.append("SIGTERM")
        trainer.step(data)
        seen.append(trainer.stop)
    assert seen == [False, True, True]


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_sixteen_bits_train_nearly_as_well(world, name):
    _, reference = train(SingleCommunicator(), torch.float32, steps=60)
    parameters, losses = train(world, torch.float32, steps=60, precision=Precision(name))
    assert parameters.dtype == torch.float32
    assert np.mean(losses[-5:]) == pytest.approx(np.mean(reference[-5:]), rel=0.1)
    assert losses != reference


def test_fp16_leaves_a_step_out_when_its_scale_was_too_high(world):
    _, phase, data = linear_problem(torch.float32)
    precision = Precision("fp16")
    precision.load({**precision.state(), "scale": 2.0**100})
    trainer = Trainer([phase], [torch.optim.SGD(phase.parameters, lr=0.1)], world, precision=precision)
    before = [p.detach().clone() for p in phase.parameters]
    mine = split(np.arange(37), world.rank, world.size)
    batch = {k: v[mine] for k, v in data.items()}
    trainer.step(batch)
    assert all(torch.equal(b, p) for b, p in zip(before, phase.parameters, strict=True))
    assert precision.state()["scale"] == 2.0**99
    scales = world.gather(precision.state()["scale"])
    assert len(set(scales)) == 1
    precision.load({**precision.state(), "scale": 1024.0})
    trainer.step(batch)
    assert not any(torch.equal(b, p) for b, p in zip(before, phase.parameters, strict=True))


def test_hooks_and_schedule_are_called_each_step(world):
    rates, calls = [], []
    _, phase, data = linear_problem()
    optimizer = torch.optim.SGD(phase.parameters, lr=0.5)
    trainer = Trainer(
        [phase], [optimizer], world, factor=lambda step: 1 / (step + 1), after_step=lambda: calls.append(1)
    )
    for _ in range(3):
        trainer.step(data)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.5, 0.25, 0.5 / 3])
    assert (len(calls), trainer.steps) == (3, 3)


def test_frozen_parameters_stay(world):
    """A parameter without a gradient is none of the optimiser's business, on any number of ranks."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 1))
    model[0].weight.requires_grad_(False)
    unused = nn.Parameter(torch.ones(2))
    before = model[0].weight.detach().clone()

    def loss(batch):
        return LossSum((model(batch["x"])[:, 0] ** 2).sum(), torch.tensor(float(len(batch["x"]))))

    phase = Phase("fit", [*model.parameters(), unused], loss)
    trainer = Trainer([phase], [torch.optim.AdamW(phase.parameters, lr=0.1, weight_decay=0.5)], world)
    for _ in range(3):
        trainer.step({"x": torch.ones(4, 5)})
    assert torch.equal(model[0].weight, before)
    assert torch.equal(unused.detach(), torch.ones(2))
