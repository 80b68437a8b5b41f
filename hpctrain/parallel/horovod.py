"""Horovod (Sergeev, Del Balso 2018): an option, for sites that have it built; docs/parallel.md says how to build it."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from hpctrain.config import ComponentConfig
from hpctrain.errors import UserError
from hpctrain.parallel.communicator import Operation, colors_of, no_part_of_a_part
from hpctrain.parallel.environment import Ranks
from hpctrain.parallel.torch_distributed import gpu_of
from hpctrain.registry import register


class HorovodGroup:
    """Collectives of one process set of Horovod."""

    def __init__(
        self, horovod: Any, process_set: Any, members: tuple[int, ...], local_rank: int, device: torch.device
    ) -> None:
        self._horovod = horovod
        self._set = process_set
        self._members = members
        self.rank = members.index(horovod.rank())
        self.size = len(members)
        self.local_rank = local_rank
        self.device = device
        self._operations = {"sum": horovod.Sum, "max": horovod.Max, "min": horovod.Min}

    def all_reduce(self, tensor: Tensor, operation: Operation = "sum") -> Tensor:
        buffer = tensor.contiguous()
        self._horovod.allreduce_(buffer, op=self._operations[operation], process_set=self._set)
        return tensor if buffer is tensor else tensor.copy_(buffer)

    def start_all_reduce(self, tensor: Tensor) -> Callable[[], None]:
        handle = self._horovod.allreduce_async_(tensor, op=self._horovod.Sum, process_set=self._set)
        return lambda: self._horovod.synchronize(handle)

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        buffer = tensor.contiguous()
        self._horovod.broadcast_(buffer, root_rank=self._members[source], process_set=self._set)
        return tensor if buffer is tensor else tensor.copy_(buffer)

    def gather(self, value: Any) -> list[Any]:
        values: list[Any] = self._horovod.allgather_object(value, process_set=self._set)
        return values

    def barrier(self) -> None:
        self._horovod.barrier(process_set=self._set)

    def split(self, color: int) -> "HorovodGroup":
        raise no_part_of_a_part()

    def close(self) -> None:
        self.barrier()


@register("engines")
class HorovodCommunicator(HorovodGroup):
    """All ranks that Horovod knows; on a GPU when it was built for one and there is one."""

    class Config(ComponentConfig):
        kind: Literal["horovod"] = "horovod"

    def __init__(self, config: Config, ranks: Ranks) -> None:
        try:
            import horovod.torch as horovod
        except ImportError as error:
            raise UserError(
                f"the horovod engine needs Horovod, built for this torch: {error}",
                hint="docs/parallel.md says how to build it; launch.engine=mpi or gloo does the same without",
            ) from error
        horovod.init(process_sets="dynamic")
        if (horovod.rank(), horovod.size()) != (ranks.rank, ranks.size):
            raise UserError(
                f"{ranks.source} says rank {ranks.rank} of {ranks.size}, Horovod says {horovod.rank()} of {horovod.size()}",
                hint="Start with the mpiexec of the MPI that Horovod was built on",
            )
        gpus = torch.cuda.device_count() if horovod.nccl_built() else 0
        device = gpu_of(ranks.local_rank, gpus) if gpus else torch.device("cpu")
        everyone = tuple(range(ranks.size))
        super().__init__(horovod, horovod.global_process_set, everyone, ranks.local_rank, device)

    def split(self, color: int) -> HorovodGroup:
        """The ranks that give the same ``color``, in the same order. Every rank calls it."""
        ours = None
        for members in colors_of(self.gather(color)):  # every rank makes every set, Horovod wants it so
            made = self._horovod.add_process_set(members)
            if self.rank in members:
                ours = HorovodGroup(self._horovod, made, members, self.local_rank, self.device)
        if ours is None:
            raise RuntimeError("a rank is in no group")
        return ours

    def close(self) -> None:
        super().close()
        self._horovod.shutdown()
