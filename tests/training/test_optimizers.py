import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpctrain import registry
from hpctrain.training.optimizers import schedule_factor


@pytest.mark.parametrize("kind", registry.kinds("optimizers"))
def test_every_optimizer_goes_downhill(kind):
    parameter = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = registry.find("optimizers", kind).Config(learning_rate=0.05).build([parameter])
    for _ in range(100):
        optimizer.zero_grad()
        (parameter**2).sum().backward()
        optimizer.step()
    assert parameter.detach().norm() < 0.7


@given(st.integers(0, 20), st.integers(1, 200))
def test_warm_up_rises_and_the_cosine_falls_to_zero(warmup, steps):
    factors = [schedule_factor("cosine", step, warmup + steps, warmup) for step in range(warmup + steps + 1)]
    assert all(0 <= f <= 1 for f in factors)
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    assert factors[warmup] == 1
    assert factors[-1] == pytest.approx(0, abs=1e-12)


def test_constant():
    assert [schedule_factor("constant", step, 10, 2) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]
