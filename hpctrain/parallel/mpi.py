"""MPI through mpi4py: the default between CPU ranks of one machine, and whatever MPI a site has."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from hpctrain.config import ComponentConfig
from hpctrain.errors import UserError
from hpctrain.parallel.communicator import Operation, no_part_of_a_part
from hpctrain.parallel.environment import Ranks
from hpctrain.registry import register


class MpiGroup:
    """Collectives of one communicator of MPI, on tensors in host memory. ``close`` frees it."""

    def __init__(self, world: Any, local_rank: int) -> None:
        from mpi4py import MPI

        self._mpi = MPI
        self._world = world
        self.rank: int = world.Get_rank()
        self.size: int = world.Get_size()
        self.local_rank = local_rank
        self.device = torch.device("cpu")
        self._operations = {"sum": MPI.SUM, "max": MPI.MAX, "min": MPI.MIN}
        self._closing: list[Callable[[], None]] = []

    @property
    def world(self) -> Any:
        """The ranks of this group, as mpi4py knows them."""
        return self._world

    def at_close(self, action: Callable[[], None]) -> None:
        """Have ``close`` do this first, on every rank: what is MPI's has to go before MPI does."""
        self._closing.append(action)

    def all_reduce(self, tensor: Tensor, operation: Operation = "sum") -> Tensor:
        buffer = tensor.contiguous()
        self._world.Allreduce(self._mpi.IN_PLACE, buffer.view(-1).numpy(), op=self._operations[operation])
        return tensor if buffer is tensor else tensor.copy_(buffer)

    def start_all_reduce(self, tensor: Tensor) -> Callable[[], None]:
        flat = tensor.view(-1)
        if tensor.dtype is torch.bfloat16:
            # MPI does not know these numbers; its own integers of that width carry them.
            buffer, operation = flat.view(torch.int16), self._bfloat16_sum()
        else:
            buffer, operation = flat, self._mpi.SUM
        request = self._world.Iallreduce(self._mpi.IN_PLACE, buffer.numpy(), op=operation)
        wait: Callable[[], None] = request.Wait
        return wait

    def _bfloat16_sum(self) -> Any:
        if "bfloat16" not in self._operations:
            made = self._mpi.Op.Create(_add_bfloat16, commute=True)
            self._operations["bfloat16"] = made
            self.at_close(made.Free)
        return self._operations["bfloat16"]

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        buffer = tensor.contiguous()
        self._world.Bcast(buffer.view(-1).numpy(), root=source)
        return tensor if buffer is tensor else tensor.copy_(buffer)

    def gather(self, value: Any) -> list[Any]:
        gathered: list[Any] = self._world.allgather(value)
        return gathered

    def barrier(self) -> None:
        self._world.Barrier()

    def split(self, color: int) -> "MpiGroup":
        raise no_part_of_a_part()

    def close(self) -> None:
        while self._closing:
            self._closing.pop()()
        # mpi4py finalizes at exit; a barrier here keeps a fast rank from leaving while others still send.
        self._world.Barrier()
        self._world.Free()


def _add_bfloat16(theirs: Any, ours: Any, _: Any) -> None:
    """What MPI calls to add the numbers of one buffer to those of another."""
    if len(ours):
        numbers = torch.frombuffer(ours, dtype=torch.bfloat16)
        numbers += torch.frombuffer(theirs, dtype=torch.bfloat16)


@register("engines")
class MpiCommunicator(MpiGroup):
    """All ranks that MPI started."""

    class Config(ComponentConfig):
        kind: Literal["mpi"] = "mpi"

    def __init__(self, config: Config, ranks: Ranks) -> None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise UserError(
                f"the mpi engine needs mpi4py and an MPI library: {error}",
                hint="pip install 'hpctrain[mpi]', or launch.engine.kind=gloo",
            ) from error
        world = MPI.COMM_WORLD
        rank, size = world.Get_rank(), world.Get_size()
        if (rank, size) != (ranks.rank, ranks.size):
            raise UserError(
                f"{ranks.source} says rank {ranks.rank} of {ranks.size}, MPI says {rank} of {size}",
                hint="Start with the mpiexec of the MPI that mpi4py was built for (srun: --mpi=pmi2 or pmix)",
            )
        # A communicator of our own: what other libraries send in COMM_WORLD cannot be mistaken for ours.
        super().__init__(world.Dup(), ranks.local_rank)

    def split(self, color: int) -> MpiGroup:
        """The ranks that give the same ``color``, in the same order. Every rank calls it."""
        return MpiGroup(self._world.Split(color, self.rank), self.local_rank)
