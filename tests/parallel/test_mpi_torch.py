"""torch.distributed on MPI, on the ranks this test run was started on; alone it is skipped, with mpiexec it is not."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from hpctrain.parallel.mpi import MpiCommunicator

pytestmark = pytest.mark.mpi

# torch 2.13 gave these new names, and warns of the old ones.
GATHER = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
SCATTER = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@pytest.fixture(scope="module")
def torch_world(world):
    if not isinstance(world, MpiCommunicator):
        pytest.skip("started on one rank, or with another engine")
    from hpctrain.parallel.mpi_torch import use_mpi_for_torch

    use_mpi_for_torch(world)
    return world


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8])
def test_collectives(torch_world, dtype):
    rank, size = torch_world.rank, torch_world.size
    strided = torch.zeros(3, 2, dtype=dtype)
    strided[:, 1] = rank + 1
    dist.all_reduce(strided[:, 1])
    assert strided.tolist() == [[0, size * (size + 1) / 2]] * 3
    source = torch.full((2,), rank, dtype=dtype)
    dist.broadcast(source, src=size - 1)
    assert source.tolist() == [size - 1] * 2
    parts = [torch.zeros(2, dtype=dtype) for _ in range(size)]
    dist.all_gather(parts, torch.full((2,), rank, dtype=dtype))
    assert [part.tolist() for part in parts] == [[r, r] for r in range(size)]
    whole = torch.zeros(2 * size, dtype=dtype)
    GATHER(whole, torch.full((2,), rank, dtype=dtype))
    assert whole.tolist() == [r for r in range(size) for _ in range(2)]
    mine = torch.zeros(2, dtype=dtype)
    SCATTER(mine, whole.clone())
    assert mine.tolist() == [rank * size] * 2


def test_operations(torch_world):
    size = torch_world.size
    expected = {"MAX": size, "MIN": 1, "AVG": (size + 1) / 2}
    for name, value in expected.items():
        tensor = torch.tensor([torch_world.rank + 1.0])
        dist.all_reduce(tensor, getattr(dist.ReduceOp, name))
        assert tensor.item() == value
    dist.barrier()


def test_objects_and_subgroups(torch_world):
    everyone = [None] * torch_world.size
    dist.all_gather_object(everyone, {"rank": torch_world.rank})
    assert everyone == [{"rank": r} for r in range(torch_world.size)]
    for members in ([0], list(range(1, torch_world.size))):
        group = dist.new_group(members)
        if torch_world.rank in members:
            tensor = torch.tensor([torch_world.rank])
            dist.all_reduce(tensor, group=group)
            assert tensor.item() == sum(members)


@pytest.mark.parametrize(("hook", "tolerance"), [(None, 1e-6), (fp16_compress_hook, 2e-2)])
def test_ddp_trains_as_one_rank(torch_world, hook, tolerance):
    torch.manual_seed(0)
    model, alone = (nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)) for _ in range(2))
    alone.load_state_dict(model.state_dict())
    ddp = DistributedDataParallel(model)
    if hook is not None:
        ddp.register_comm_hook(None, hook)
    x = torch.randn(2 * torch_world.size, 4)
    share = x[2 * torch_world.rank : 2 * torch_world.rank + 2]
    for module, inputs in ((ddp, share), (alone, x)):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            (module(inputs) ** 2).mean().backward()
            optimizer.step()
    for ours, theirs in zip(model.parameters(), alone.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance)
