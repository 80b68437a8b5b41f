import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, ReduceLROnPlateau

from hpctrain import registry
from hpctrain.training.schedules import Constant, Cosine, Moment, Plateau, Step, scaled_for_batch

STEPS, PER_EPOCH = 60, 6


def factors(schedule, steps=STEPS, metrics=()):
    """For each step of a training with six steps an epoch."""
    return [
        schedule.factor(Moment(step, steps, step // PER_EPOCH, metrics[: step // PER_EPOCH]))
        for step in range(steps)
    ]


def of_torch(make, each_epoch=False, metrics=()):
    """What a scheduler of torch does to a learning rate of 1."""
    optimizer = SGD([nn.Parameter(nn.Linear(1, 1).weight)], lr=1.0)
    scheduler, found = make(optimizer), []
    for step in range(STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if not each_epoch:
            scheduler.step()
        elif step % PER_EPOCH == PER_EPOCH - 1:
            scheduler.step(*([metrics[step // PER_EPOCH]] if metrics else []))
    return found


def test_they_are_torch_s_own():
    assert factors(Cosine.Config(warmup_steps=0).build()) == pytest.approx(
        of_torch(lambda o: CosineAnnealingLR(o, STEPS))
    )
    assert factors(Cosine.Config(warmup_steps=0, final=0.2).build()) == pytest.approx(
        of_torch(lambda o: CosineAnnealingLR(o, STEPS, eta_min=0.2))
    )
    assert factors(Step.Config(warmup_steps=0, epochs=(2, 5), factor=0.3).build()) == pytest.approx(
        of_torch(lambda o: MultiStepLR(o, [2, 5], gamma=0.3), each_epoch=True)
    )


@given(st.lists(st.floats(0, 1), min_size=10, max_size=10), st.integers(1, 4))
def test_plateau_is_torch_s_own(metrics, patience):
    """Torch lowers after more than ``patience`` epochs, ours after ``patience``."""
    ours = Plateau.Config(warmup_steps=0, patience=patience, factor=0.5, threshold=1e-3).build()
    expected = of_torch(
        lambda o: ReduceLROnPlateau(
            o, mode="max", factor=0.5, patience=patience - 1, threshold=1e-3, threshold_mode="abs", eps=0
        ),
        each_epoch=True,
        metrics=metrics,
    )
    assert factors(ours, metrics=metrics) == pytest.approx(expected)


def test_plateau_keeps_a_minimum():
    schedule = Plateau.Config(warmup_steps=0, patience=1, factor=0.1, minimum=0.05).build()
    assert factors(schedule, metrics=[1.0] * 10)[-1] == 0.05


@pytest.mark.parametrize("kind", registry.kinds("schedules"))
def test_every_schedule_warms_up_in_equal_parts(kind):
    schedule = registry.find("schedules", kind).Config(warmup_steps=4).build()
    assert factors(schedule)[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])


@given(st.integers(0, 20), st.integers(1, 200))
def test_the_cosine_falls_to_zero(warmup, steps):
    schedule = Cosine.Config(warmup_steps=warmup).build()
    found = [schedule.factor(Moment(step, warmup + steps)) for step in range(warmup + steps + 1)]
    assert found[:warmup] == sorted(found[:warmup])
    assert found[warmup:] == sorted(found[warmup:], reverse=True)
    assert found[warmup] == 1
    assert found[-1] == pytest.approx(0, abs=1e-12)


def test_constant():
    assert factors(Constant.Config(warmup_steps=2).build(), 4) == [0.5, 1.0, 1.0, 1.0]


def test_epochs_of_steps_rise():
    with pytest.raises(ValidationError, match="must rise"):
        Step.Config(epochs=(5, 3))


def test_scaling_for_the_batch():
    assert scaled_for_batch("none", 4096, 32) == 1
    assert scaled_for_batch("linear", 64, 256) == 0.25
    assert scaled_for_batch("sqrt", 64, 256) == 0.5
