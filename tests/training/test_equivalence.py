"""One rank = N ranks, for every kind of training: on one rank, and again under mpiexec with every engine.

Each rank also trains the reference, alone. 20 steps over 37 samples in global batches of 9: the fifth batch has one
sample, so that some ranks have no share.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from hpctrain.data.order import split
from hpctrain.models.cnn import WholeDetectorCNN
from hpctrain.parallel.batch_norm import SynchronizedBatchNorm, synchronize_batch_norm
from hpctrain.parallel.communicator import Communicator, SingleCommunicator
from hpctrain.parallel.gradients import Exact
from hpctrain.tasks.base import LossSum, Phase
from hpctrain.training.trainer import Trainer

pytestmark = pytest.mark.mpi

SAMPLES, BATCH, STEPS = 37, 9, 20
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
"""Largest difference within a parameter or buffer, relative to its largest value. Promised is 1e-6 in float64."""
State = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks this small only wait for each other's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


Problem = tuple[nn.Module, list[Phase]]


def data(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    columns = {"image": rng.random((SAMPLES, 1, 8, 8)), "noise": rng.normal(size=(SAMPLES, 4))}
    batch = {name: torch.from_numpy(values).to(dtype) for name, values in columns.items()}
    batch["weight"] = torch.from_numpy(10 ** rng.uniform(-1, 1, SAMPLES)).to(dtype)
    batch["label"] = torch.from_numpy(rng.integers(0, 2, SAMPLES))
    return batch


def classifier(normalisation: str) -> Callable[[], Problem]:
    """Weighted cross-entropy of a small convolutional network."""

    def make() -> Problem:
        config = WholeDetectorCNN.Config(filters=(3, 4), hidden=5, normalisation=normalisation)
        model = WholeDetectorCNN(config, shape=(1, 8, 8))

        def loss(batch):
            losses = functional.cross_entropy(model(batch["image"]), batch["label"], reduction="none")
            return LossSum((losses * batch["weight"]).sum(), batch["weight"].sum())

        return model, [Phase("classify", list(model.parameters()), loss)]

    return make


def gan() -> Problem:
    """A generator of images against a discriminator, both with BatchNorm: two phases that alternate."""
    generator = nn.Sequential(nn.Linear(4, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 64))
    discriminator = nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(108, 1)
    )

    def fake(batch):
        return generator(batch["noise"]).view(-1, 1, 8, 8)

    def judge(images, truth, weight):
        logits = discriminator(images)[:, 0]
        losses = functional.binary_cross_entropy_with_logits(
            logits, torch.full_like(logits, truth), reduction="none"
        )
        return (losses * weight).sum()

    def discriminate(batch):
        weight = batch["weight"]
        real, false = judge(batch["image"], 1.0, weight), judge(fake(batch).detach(), 0.0, weight)
        return LossSum(real + false, weight.sum())

    def generate(batch):
        return LossSum(judge(fake(batch), 1.0, batch["weight"]), batch["weight"].sum())

    phases = [
        Phase("discriminator", list(discriminator.parameters()), discriminate),
        Phase("generator", list(generator.parameters()), generate),
    ]
    return nn.ModuleDict({"generator": generator, "discriminator": discriminator}), phases


CASES: dict[str, tuple[Callable[[], Problem], int, dict]] = {
    "weighted": (classifier("none"), BATCH, {}),
    "clipped": (classifier("none"), BATCH, {"clip_norm": 0.05}),
    "small buckets": (classifier("none"), BATCH, {"gradients": Exact.Config(bucket_mb=2e-4)}),
    "buckets, micro-batches": (
        classifier("none"),
        BATCH,
        {"gradients": Exact.Config(bucket_mb=2e-4), "micro_batch_size": 2},
    ),
    "micro-batches": (classifier("none"), BATCH, {"micro_batch_size": 2}),
    "batch norm": (classifier("batch"), BATCH, {"every_rank_forward": True}),
    # BatchNorm1d cannot do with a batch of one sample: 37 = 4 × 8 + 5.
    "gan": (gan, 8, {"every_rank_forward": True}),
}


def train(communicator: Communicator, case: str, dtype: torch.dtype) -> tuple[State, list[dict]]:
    """Parameters and buffers after 20 steps, and what each step returned."""
    make, batch_size, options = CASES[case]
    torch.manual_seed(0)
    model, phases = make()
    model.to(dtype)
    synchronize_batch_norm(model, communicator)
    optimizers = [torch.optim.Adam(phase.parameters, lr=0.01) for phase in phases]
    trainer = Trainer(phases, optimizers, communicator, **options)
    samples = data(dtype)
    starts = range(0, SAMPLES, batch_size)
    losses = []
    for step in range(STEPS):
        start = starts[step % len(starts)]
        rows = split(np.arange(start, min(start + batch_size, SAMPLES)), communicator.rank, communicator.size)
        losses.append(trainer.step({name: values[rows] for name, values in samples.items()}))
    return model.state_dict(), losses


@cache
def reference(case: str, dtype: torch.dtype) -> tuple[State, list[dict]]:
    return train(SingleCommunicator(), case, dtype)


def difference(state: State, expected: State) -> float:
    """The largest, of the tensor that differs most."""
    assert list(state) == list(expected)
    pairs = [(state[name].double(), expected[name].double()) for name in expected]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def flat(state: State) -> np.ndarray:
    return torch.cat([value.reshape(-1).double() for value in state.values()]).numpy()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_any_number_of_ranks_is_one_rank(world, case, dtype):
    state, losses = train(world, case, dtype)
    expected, expected_losses = reference(case, dtype)
    assert difference(state, expected) < TOLERANCE[dtype]
    for got, wanted in zip(losses, expected_losses, strict=True):
        assert got == pytest.approx(wanted, rel=10 * TOLERANCE[dtype])


@pytest.mark.parametrize("case", ["buckets, micro-batches", "gan"])
def test_twice_is_the_same_bits_on_every_rank(world, case):
    first, second = (flat(train(world, case, torch.float32)[0]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    for other in world.gather(first):
        np.testing.assert_array_equal(other, first)


def test_micro_batches_sum_as_the_whole():
    """Losses and gradients of the parts add up: what is left is the order of float sums."""
    parts, whole = (reference(case, torch.float64) for case in ("micro-batches", "weighted"))
    assert 0 < difference(parts[0], whole[0]) < 1e-12
    assert [step["classify"] for step in parts[1]] == pytest.approx(
        [s["classify"] for s in whole[1]], rel=1e-12
    )


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("layer", [nn.BatchNorm1d, nn.BatchNorm2d])
def test_synchronized_batch_norm_is_torch_s_own(layer, momentum):
    """On one rank, forward, backward and running statistics: ours against torch's, which needs no peer."""
    torch.manual_seed(0)
    shape = (5, 3) if layer is nn.BatchNorm1d else (5, 3, 4, 2)
    plain = layer(3, momentum=momentum).double()
    with torch.no_grad():
        plain.weight.uniform_(0.5, 2)
        plain.bias.uniform_(-1, 1)
    copy = layer(3, momentum=momentum).double()
    copy.load_state_dict(plain.state_dict())
    ours = SynchronizedBatchNorm(copy, SingleCommunicator())
    for _ in range(3):
        x = torch.randn(shape, dtype=torch.float64)
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        target = torch.randn(shape, dtype=torch.float64)
        for module, value in zip((plain, ours), inputs, strict=True):
            module.zero_grad()
            ((module(value) - target) ** 2).sum().backward()
        assert torch.allclose(inputs[0].grad, inputs[1].grad, rtol=1e-9, atol=1e-12)
        for name, parameter in plain.named_parameters():
            assert torch.allclose(parameter.grad, getattr(ours, name).grad, rtol=1e-9, atol=1e-12)
    for name, buffer in plain.named_buffers():
        assert torch.allclose(buffer, getattr(ours, name), rtol=1e-12)
    assert torch.allclose(plain.eval()(x), ours.eval()(x), rtol=1e-12)
