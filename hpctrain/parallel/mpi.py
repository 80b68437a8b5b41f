"""MPI through mpi4py: the default between CPU ranks of one machine, and whatever MPI a site has."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from hpctrain.config import ComponentConfig
from hpctrain.errors import UserError
from hpctrain.parallel.communicator import Operation
from hpctrain.parallel.environment import Ranks
from hpctrain.registry import register


@register("engines")
class MpiCommunicator:
    """Collectives of MPI on tensors in host memory."""

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
        self._mpi = MPI
        self._world = MPI.COMM_WORLD
        self.rank = self._world.Get_rank()
        self.size = self._world.Get_size()
        self.local_rank = ranks.local_rank
        self.device = torch.device("cpu")
        if (self.rank, self.size) != (ranks.rank, ranks.size):
            raise UserError(
                f"{ranks.source} says rank {ranks.rank} of {ranks.size}, MPI says {self.rank} of {self.size}",
                hint="Start with the mpiexec of the MPI that mpi4py was built for (srun: --mpi=pmi2 or pmix)",
            )
        self._operations = {"sum": MPI.SUM, "max": MPI.MAX, "min": MPI.MIN}
        self._closing: list[Callable[[], None]] = []

    @property
    def world(self) -> Any:
        """All ranks, as mpi4py knows them."""
        return self._world

    def at_close(self, action: Callable[[], None]) -> None:
        """Have ``close`` do this first, on every rank: what is MPI's has to go before MPI does."""
        self._closing.append(action)

    def all_reduce(self, tensor: Tensor, operation: Operation = "sum") -> Tensor:
        buffer = tensor.contiguous()
        self._world.Allreduce(self._mpi.IN_PLACE, buffer.view(-1).numpy(), op=self._operations[operation])
        return tensor if buffer is tensor else tensor.copy_(buffer)

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        buffer = tensor.contiguous()
        self._world.Bcast(buffer.view(-1).numpy(), root=source)
        return tensor if buffer is tensor else tensor.copy_(buffer)

    def gather(self, value: Any) -> list[Any]:
        gathered: list[Any] = self._world.allgather(value)
        return gathered

    def barrier(self) -> None:
        self._world.Barrier()

    def close(self) -> None:
        while self._closing:
            self._closing.pop()()
        # mpi4py finalizes at exit; a barrier here keeps a fast rank from leaving while others still send.
        self._world.Barrier()
