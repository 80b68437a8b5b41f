"""The same tests on one rank and under ``mpiexec -n N``."""

import numpy as np
import pytest
import torch
from torch import nn

from hpctrain.errors import UserError
from hpctrain.parallel.communicator import SingleCommunicator, broadcast_state
from hpctrain.parallel.environment import Ranks
from hpctrain.parallel.mpi import MpiCommunicator

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_all_reduce(world, dtype):
    values = torch.arange(6, dtype=dtype).view(2, 3) + world.rank
    ranks = list(range(world.size))
    expected = {
        "sum": world.size * torch.arange(6, dtype=dtype) + sum(ranks),
        "max": torch.arange(6, dtype=dtype) + max(ranks),
        "min": torch.arange(6, dtype=dtype),
    }
    for operation, result in expected.items():
        assert torch.equal(world.all_reduce(values.clone(), operation), result.view(2, 3))


def test_all_reduce_of_a_strided_view_changes_the_view_in_place(world):
    base = torch.ones(4, 4)
    world.all_reduce(base[:, 1])
    assert base[:, 1].tolist() == [world.size] * 4
    assert base[:, 0].tolist() == [1.0] * 4
    world.broadcast(base.fill_(world.rank)[:, 1], world.size - 1)
    assert base.tolist() == [[world.rank, world.size - 1, world.rank, world.rank]] * 4


def test_broadcast(world):
    source = world.size - 1
    assert world.broadcast(torch.tensor([float(world.rank)]), source).item() == source


def test_gather_keeps_the_order_of_ranks(world):
    assert world.gather({"rank": world.rank}) == [{"rank": rank} for rank in range(world.size)]


def test_broadcast_state_makes_ranks_alike(world):
    torch.manual_seed(world.rank)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    module[1].running_mean += world.rank
    broadcast_state(module, world)
    states = world.gather({k: v.numpy() for k, v in module.state_dict().items()})
    for state in states:
        for name in states[0]:
            np.testing.assert_array_equal(state[name], states[0][name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_sums_may_be_begun_and_waited_for_later(world, dtype):
    first = torch.full((5,), world.rank + 1.0, dtype=dtype)
    second = torch.ones(2, 3, dtype=dtype)
    waits = [world.start_all_reduce(first), world.start_all_reduce(second)]
    for wait in waits:
        wait()
    assert first.tolist() == [sum(range(1, world.size + 1))] * 5
    assert second.tolist() == [[world.size] * 3] * 2


def test_a_single_rank_needs_nothing():
    alone = SingleCommunicator()
    tensor = torch.arange(3)
    assert alone.all_reduce(tensor) is tensor
    assert alone.gather(1) == [1]


def test_split_makes_groups_of_their_own(world):
    """Even and odd ranks, at the same time, with different messages."""
    color = world.rank % 2
    group = world.split(color)
    members = list(range(color, world.size, 2))
    assert (group.size, members[group.rank]) == (len(members), world.rank)
    assert group.all_reduce(torch.tensor([float(world.rank)])).item() == sum(members)
    assert group.broadcast(torch.tensor([world.rank]), group.size - 1).item() == members[-1]
    assert group.gather(world.rank) == members
    group.barrier()
    group.close()
    world.barrier()  # the whole goes on without its parts


def test_a_part_is_not_split_again(world):
    if world.size == 1:
        return
    part = world.split(0)
    with pytest.raises(ValueError, match="split the whole"):
        part.split(0)
    part.close()


def test_groups_come_and_go(world):
    """More of them than would fit if they were not given back."""
    for turn in range(40):
        group = world.split((world.rank + turn) % 2)
        group.barrier()
        group.close()


def test_an_mpi_that_was_started_by_somebody_else_is_refused():
    with pytest.raises(UserError, match="says rank 5 of 8, MPI says"):
        MpiCommunicator(MpiCommunicator.Config(), Ranks(5, 8, 5, "Slurm"))


def test_a_single_rank_splits_into_itself():
    assert SingleCommunicator().split(3).size == 1
