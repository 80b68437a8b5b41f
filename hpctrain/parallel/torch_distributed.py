"""torch.distributed: Gloo between CPUs, NCCL between NVIDIA GPUs. Needs nothing beside torch."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from pydantic import PositiveFloat
from torch import Tensor

from hpctrain.config import ComponentConfig
from hpctrain.errors import UserError
from hpctrain.parallel.communicator import Operation, colors_of, no_part_of_a_part, nothing
from hpctrain.parallel.environment import Ranks
from hpctrain.parallel.meeting import meeting_point
from hpctrain.registry import register

_OPERATIONS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}


class TorchGroup:
    """Collectives of a torch.distributed group; which library does them follows from the device."""

    def __init__(self, group: dist.ProcessGroup, local_rank: int, device: torch.device) -> None:
        self.group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self.local_rank = local_rank
        self.device = device

    def all_reduce(self, tensor: Tensor, operation: Operation = "sum") -> Tensor:
        # Gloo takes what is not contiguous for contiguous, without a word.
        buffer = tensor.contiguous()
        dist.all_reduce(buffer, _OPERATIONS[operation], group=self.group)
        return tensor if buffer is tensor else tensor.copy_(buffer)

    def start_all_reduce(self, tensor: Tensor) -> Callable[[], None]:
        work = dist.all_reduce(tensor, group=self.group, async_op=True)
        return nothing if work is None else lambda: _finish(work)

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        buffer = tensor.contiguous()
        dist.broadcast(buffer, group=self.group, group_src=source)
        return tensor if buffer is tensor else tensor.copy_(buffer)

    def gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def barrier(self) -> None:
        dist.barrier(group=self.group)

    def split(self, color: int) -> "TorchGroup":
        raise no_part_of_a_part()

    def close(self) -> None:
        dist.barrier(group=self.group)
        dist.destroy_process_group(self.group)


def _finish(work: dist.Work) -> None:
    work.wait()


class TorchCommunicator(TorchGroup):
    """All ranks, which meet where the environment says; ``cuda`` devices speak NCCL, others Gloo."""

    def __init__(self, ranks: Ranks, device: torch.device, timeout_s: float) -> None:
        super().__init__(join(ranks, device, timeout_s), ranks.local_rank, device)

    def split(self, color: int) -> TorchGroup:
        """The ranks that give the same ``color``, in the same order. Every rank calls it."""
        # Every rank takes part in making every group, its own or not: torch wants it so.
        groups = {members: dist.new_group(list(members)) for members in colors_of(self.gather(color))}
        ours = next(group for members, group in groups.items() if self.rank in members)
        return TorchGroup(ours, self.local_rank, self.device)


def join(ranks: Ranks, device: torch.device, timeout_s: float) -> dist.ProcessGroup:
    """The group of all ranks, which meet where the environment says. Raises ``UserError``."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    host, port = meeting_point(os.environ)
    try:
        dist.init_process_group(
            backend,
            init_method=f"tcp://{f'[{host}]' if ':' in host else host}:{port}",
            rank=ranks.rank,
            world_size=ranks.size,
            timeout=timedelta(seconds=timeout_s),
            device_id=device if device.type == "cuda" else None,
        )
    except dist.DistError as error:
        raise UserError(
            f"rank {ranks.rank} of {ranks.size} did not meet the others at {host}:{port} within {timeout_s:g} s: {error}",
            hint="Look whether every rank was started and can reach that host; launch.engine.timeout_s is the patience",
        ) from error
    group = dist.group.WORLD
    if group is None:
        raise RuntimeError("torch.distributed has no group after it was made")
    return group


@register("engines")
class GlooCommunicator(TorchCommunicator):
    """Collectives of Gloo, between CPUs."""

    class Config(ComponentConfig):
        kind: Literal["gloo"] = "gloo"
        timeout_s: PositiveFloat = 300.0
        """A rank that waits longer than this for another gives up."""

    def __init__(self, config: Config, ranks: Ranks) -> None:
        device = torch.device("cpu")
        super().__init__(ranks, device, config.timeout_s)


@register("engines")
class NcclCommunicator(TorchCommunicator):
    """Collectives of NCCL, between NVIDIA GPUs: one GPU a rank."""

    class Config(ComponentConfig):
        kind: Literal["nccl"] = "nccl"
        timeout_s: PositiveFloat = 300.0
        """A rank that waits longer than this for another gives up."""

    def __init__(self, config: Config, ranks: Ranks) -> None:
        device = gpu_of(ranks.local_rank, torch.cuda.device_count())
        torch.cuda.set_device(device)
        super().__init__(ranks, device, config.timeout_s)


def gpu_of(local_rank: int, visible: int) -> torch.device:
    """The GPU of a rank, of those it sees: its own number, or the only one (as with --gpus-per-task=1).

    Raises ``UserError`` when there is none for it: NCCL does not share a GPU between ranks.
    """
    if visible == 1:
        return torch.device("cuda", 0)
    if local_rank < visible:
        return torch.device("cuda", local_rank)
    raise UserError(
        f"rank {local_rank} of this machine has no GPU: torch sees {visible}",
        hint="Start as many ranks on a machine as it has GPUs, or set launch.engine=gloo to train on CPUs",
    )
