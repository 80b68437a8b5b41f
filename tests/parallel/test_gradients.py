"""Sums of gradients: on one rank, and again under mpiexec with every engine."""

import numpy as np
import pytest
import torch
from torch import nn

from hpctrain import registry
from hpctrain.parallel.gradients import BucketedSum, Exact, buckets
from hpctrain.parallel.power_sgd import PowerSGD

pytestmark = pytest.mark.mpi

SHAPES = [(4, 3, 3, 3), (4,), (6, 4), (6,), (2, 6)]


def parameters(*shapes, dtype=torch.float32):
    return [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes]


def gradients(world, step=0, rank=None, dtype=torch.float32):
    """Those of a rank (this one), another in every step."""
    rank = world.rank if rank is None else rank
    generator = torch.Generator().manual_seed(100 * step + rank)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]


def total(world, step=0):
    return [sum(g) for g in zip(*(gradients(world, step, rank) for rank in range(world.size)), strict=True)]


def extra(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.mark.parametrize("kind", registry.kinds("gradients"))
def test_sums_travel_with_what_rides_along(world, kind):
    a, b, c = parameters((2, 2), (3,), (1,))
    sums = registry.find("gradients", kind).Config().build([a, b, c], world, overlap=True)
    for _ in range(2):
        a.grad = torch.full((2, 2), float(world.rank + 1))
        b.grad = None if world.rank else torch.ones(3)  # a rank without a share has no gradient
        n = world.size
        assert sums.finish(extra(1.5, world.rank + 1)) == [1.5 * n, sum(range(1, n + 1))]
        assert torch.equal(a.grad, torch.full((2, 2), float(sum(range(1, n + 1)))))
        assert torch.equal(b.grad, torch.ones(3))
        assert c.grad is None  # nobody has one


@pytest.mark.parametrize("bucket_bytes", [1, 100, 500, 1e9])
def test_buckets_hold_every_gradient_once_whatever_their_size(world, bucket_bytes):
    group = parameters(*SHAPES)
    group[0].data = group[0].data.to(memory_format=torch.channels_last)
    sums = BucketedSum(group, world, bucket_bytes=bucket_bytes, overlap=False)
    for p, g in zip(group, gradients(world), strict=True):
        p.grad = g
    sums.finish(extra(0.0, 1.0))
    for p, expected in zip(group, total(world), strict=True):
        assert torch.allclose(p.grad, expected, rtol=1e-6, atol=1e-6)
        assert p.grad.stride() == p.stride()
    assert [len(bucket.parameters) for bucket in sums.buckets] == {
        1: [1] * 5, 100: [2, 1, 1, 1], 500: [4, 1], 1e9: [5]
    }[bucket_bytes]  # fmt: skip


def test_types_of_numbers_have_buckets_of_their_own(world):
    group = [*parameters((2,), (3,)), *parameters((4,), dtype=torch.float64)]
    group[1].requires_grad_(False)
    made = buckets(group, 1e9, room=2)
    assert [(b.flat.dtype, [tuple(p.shape) for p in b.parameters]) for b in made] == [
        (torch.float64, [(4,)]),
        (torch.float32, [(2,)]),
    ]
    sums = BucketedSum(group, world, bucket_bytes=1e9, overlap=True)
    group[0].grad, group[2].grad = torch.ones(2), torch.full((4,), 1 / 3, dtype=torch.float64)
    assert sums.finish(extra(0.1)) == pytest.approx([0.1 * world.size], rel=1e-6)
    assert group[2].grad.tolist() == pytest.approx([world.size / 3] * 4, rel=1e-15)
    assert group[1].grad is None


class Watched:
    """A communicator that notes when sums begin."""

    def __init__(self, world):
        self.world, self.log = world, []

    def __getattr__(self, name):
        return getattr(self.world, name)

    def start_all_reduce(self, tensor):
        self.log.append("start")
        return self.world.start_all_reduce(tensor)


@pytest.mark.parametrize("overlap", [True, False])
def test_buckets_start_in_the_backward_pass(world, overlap):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(5, 5) for _ in range(4)))
    watched = Watched(world)
    sums = BucketedSum(list(model.parameters()), watched, bucket_bytes=1, overlap=overlap)
    x = torch.ones(2, 5) * (world.rank + 1)
    for last in (False, True):  # two micro-batches; only with the last one gradients are complete
        if last:
            with sums.overlapping():
                model(x).sum().backward()
        else:
            model(x).sum().backward()
        assert len(watched.log) == (7 if last and overlap else 0)
    sums.finish(extra(0.0, 1.0))
    assert len(watched.log) == 8
    got = [p.grad.clone() for p in model.parameters()]
    loss = sum(model(torch.ones(2, 5) * (rank + 1)).sum() for rank in range(world.size))
    for found, expected in zip(got, torch.autograd.grad(2 * loss, list(model.parameters())), strict=True):
        assert torch.allclose(found, expected, rtol=1e-5)


def test_a_rank_without_a_share_takes_part(world):
    group = parameters((3,), (2,))
    sums = BucketedSum(group, world, bucket_bytes=1, overlap=True)
    if world.rank == 0:
        with sums.overlapping():
            sum((p + 1).pow(2).sum() for p in group).backward()
    assert sums.finish(extra(0.0, 1.0)) == [0.0, world.size]
    assert [p.grad.tolist() for p in group] == [[2.0] * 3, [2.0] * 2]


def test_bfloat16_rounds_gradients_and_nothing_else(world):
    group = parameters(*SHAPES)
    sums = registry.find("gradients", "bfloat16").Config().build(group, world, overlap=True)
    for p, g in zip(group, gradients(world), strict=True):
        p.grad = g
    assert sums.finish(extra(1 + 2**-20, 3.0)) == [world.size * (1 + 2**-20), 3.0 * world.size]
    size = max(float(g.abs().max()) for rank in range(world.size) for g in gradients(world, rank=rank))
    for p, expected in zip(group, total(world), strict=True):
        wrong = float((p.grad - expected).abs().max())
        assert 0 < wrong < 2**-8 * 2 * world.size * size
        assert p.grad.dtype == torch.float32


def power_sgd(world, rank=2, exact_steps=0):
    group = parameters((40, 30), (7,), (3, 3), (30, 5, 6))
    return group, PowerSGD.Config(rank=rank, exact_steps=exact_steps).build(group, world, overlap=True)


def give(world, group, step, low_rank=None):
    """Gradients of this rank; returns their sums over all ranks."""
    whole = [torch.zeros_like(p) for p in group]
    for rank in range(world.size):
        generator = torch.Generator().manual_seed(1000 * step + rank)
        for number, p in enumerate(group):
            g = torch.randn(p.shape, generator=generator)
            if low_rank and p.dim() > 1:
                shared = torch.Generator().manual_seed(step)
                columns = torch.randn(len(p), low_rank, generator=shared)
                g = (columns @ torch.randn(low_rank, p[0].numel(), generator=generator)).view(p.shape)
            whole[number] += g
            if rank == world.rank:
                p.grad = g
    return whole


def test_power_sgd_is_exact_for_matrices_of_its_rank(world):
    group, sums = power_sgd(world)
    whole = give(world, group, 0, low_rank=2)
    sums.finish(extra(0.0, 1.0))
    for p, expected in zip(group, whole, strict=True):
        assert torch.allclose(p.grad, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_power_sgd_feeds_back_what_it_leaves_out(world):
    """What arrived, and what is still owed, make up what was sent, in units of the weighted mean."""
    group, sums = power_sgd(world)
    sent = [torch.zeros_like(p) for p in group]
    arrived = [torch.zeros_like(p) for p in group]
    for step in range(6):
        share = 1.0 + step  # of each rank: batches of different weight
        whole = give(world, group, step)
        sums.finish(extra(0.0, share))
        weight = share * world.size
        for s, a, w, p in zip(sent, arrived, whole, group, strict=True):
            s += w / weight
            a += p.grad / weight
    owed = iter(sums.state()["errors"][::-1])  # the last parameters come first
    for p, s, a in zip(group, sent, arrived, strict=True):
        if p[0].numel() > 3:
            error = next(owed).view(p.shape)
            assert float(error.abs().max()) > 0.1, "random matrices are not of low rank"
            assert torch.allclose(s, a + error, atol=1e-4)
        else:
            assert torch.allclose(s, a, atol=1e-5)


def test_power_sgd_sends_less(world):
    sent = []
    group, sums = power_sgd(world, exact_steps=1)
    add = sums.communicator.all_reduce

    class Counting(Watched):
        def all_reduce(self, tensor, operation="sum"):
            sent[-1] += tensor.numel()
            return add(tensor, operation)

    sums.communicator = Counting(world)
    for step in range(2):
        sent.append(0)
        give(world, group, step)
        sums.finish(extra(0.0, 1.0))
    assert sent[0] > 2116
    assert sent[1] < 400


def test_power_sgd_goes_on_from_its_state(world):
    group, sums = power_sgd(world)
    for step in range(3):
        give(world, group, step)
        sums.finish(extra(0.0, 1.0))
    copy, resumed = power_sgd(world)
    saved = sums.state()
    resumed.load({"steps": saved["steps"], **{k: [t.clone() for t in saved[k]] for k in ("right", "errors")}})
    for step in range(3, 5):
        for some, which in ((group, sums), (copy, resumed)):
            give(world, some, step)
            which.finish(extra(0.0, 1.0))
        for a, b in zip(group, copy, strict=True):
            np.testing.assert_array_equal(a.grad.numpy(), b.grad.numpy())


def test_nothing_to_train_is_an_error(world):
    with pytest.raises(ValueError, match="no parameter needs a gradient"):
        Exact.Config().build([nn.Parameter(torch.ones(1), requires_grad=False)], world, overlap=True)
