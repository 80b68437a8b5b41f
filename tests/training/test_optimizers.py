import pytest
import torch

from hpctrain import registry


def moved(kind, steps=1, shapes=((4, 3), (3,)), **settings):
    """Where a matrix and a vector get to on the way to zero."""
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    optimizer = registry.find("optimizers", kind).Config(**settings).build(parameters)
    for _ in range(steps):
        optimizer.zero_grad()
        sum((p**2).sum() for p in parameters).backward()
        optimizer.step()
    return torch.cat([p.detach().reshape(-1) for p in parameters])


@pytest.mark.parametrize("kind", registry.kinds("optimizers"))
def test_every_optimizer_goes_downhill(kind):
    # LARS scales the steps of matrices alone.
    rate, shapes = (10.0, [(4, 3)]) if kind == "lars" else (0.05, [(4, 3), (3,)])
    assert moved(kind, 100, shapes, learning_rate=rate).norm() < 0.3 * moved(kind, 0, shapes).norm()


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_fused_is_the_same_to_rounding(kind):
    plain, fused = (moved(kind, 20, learning_rate=0.01, fused=choice) for choice in (False, True))
    assert torch.allclose(plain, fused, rtol=1e-5, atol=1e-6)


def test_nesterov_goes_another_way():
    assert not torch.equal(moved("sgd", 3), moved("sgd", 3, nesterov=True))


def test_lars_moves_a_layer_in_proportion_to_its_weights():
    """Trust ratio (You, Gitman, Ginsburg 2017, eq. 6): the step is rate × trust × norm(w) in the gradient's direction."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(4, 3))
    settings = {"learning_rate": 2.0, "momentum": 0.0, "weight_decay": 0.0, "trust": 0.01}
    optimizer = registry.find("optimizers", "lars").Config(**settings).build([weight])
    before = weight.detach().clone()
    weight.grad = torch.randn(4, 3) * 1e3
    optimizer.step()
    assert float((weight.detach() - before).norm()) == pytest.approx(
        2.0 * 0.01 * float(before.norm()), rel=1e-4
    )


def test_lamb_moves_a_layer_in_proportion_to_its_weights():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(4, 3))
    optimizer = (
        registry.find("optimizers", "lamb").Config(learning_rate=0.01, weight_decay=0.0).build([weight])
    )
    before = weight.detach().clone()
    weight.grad = torch.randn(4, 3) * 1e3
    optimizer.step()
    assert float((weight.detach() - before).norm()) == pytest.approx(0.01 * float(before.norm()), rel=1e-3)
