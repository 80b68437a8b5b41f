"""Gloo through torch.distributed: needs nothing beside torch."""

import os
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from pydantic import PositiveFloat
from torch import Tensor

from hpctrain.config import ComponentConfig
from hpctrain.errors import UserError
from hpctrain.parallel.communicator import Operation
from hpctrain.parallel.environment import Ranks
from hpctrain.registry import register


@register("engines")
class GlooCommunicator:
    """Collectives of Gloo; ranks meet at MASTER_ADDR:MASTER_PORT."""

    class Config(ComponentConfig):
        kind: Literal["gloo"] = "gloo"
        timeout_s: PositiveFloat = 300.0
        """A rank that waits longer than this for another gives up."""

    def __init__(self, config: Config, ranks: Ranks) -> None:
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            if name not in os.environ:
                raise UserError(
                    f"the gloo engine needs {name} to find rank 0",
                    hint=f"export {name} on every rank (hpctrain's own launcher and torchrun do)",
                )
        self.rank = ranks.rank
        self.size = ranks.size
        self.local_rank = ranks.local_rank
        self.device = torch.device("cpu")
        dist.init_process_group(
            "gloo", rank=ranks.rank, world_size=ranks.size, timeout=timedelta(seconds=config.timeout_s)
        )
        self._operations = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}

    def all_reduce(self, tensor: Tensor, operation: Operation = "sum") -> Tensor:
        dist.all_reduce(tensor, self._operations[operation])
        return tensor

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        dist.broadcast(tensor, source)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        dist.barrier()

    def close(self) -> None:
        dist.barrier()
        dist.destroy_process_group()
