"""The one thing the package knows of other ranks: sums, broadcasts and barriers between them."""

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from hpctrain.config import ComponentConfig
from hpctrain.parallel.environment import Ranks, detect

Operation = Literal["sum", "max", "min"]


class Communicator(Protocol):
    """Rank, size and the collective operations; every rank calls the same ones in the same order."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    def all_reduce(self, tensor: Tensor, operation: Operation = "sum") -> Tensor:
        """Combine ``tensor`` over ranks, in place, the same on all; returns it."""
        ...

    def start_all_reduce(self, tensor: Tensor) -> Callable[[], None]:
        """Begin to sum ``tensor``, contiguous, over ranks in place; what is returned waits until that is done.

        Nothing touches ``tensor`` in between. Sums that were begun are waited for in the same order on every rank.
        """
        ...

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """Make ``tensor`` what it is on ``source``, in place; returns it."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """Every rank's (picklable) value, by rank, on every rank."""
        ...

    def barrier(self) -> None:
        """Wait until every rank is here."""
        ...

    def split(self, color: int) -> "Communicator":
        """The ranks that give the same ``color`` as a group of their own, numbered in the same order.

        Every rank calls it; each closes its part before the whole. A part is not split again (``ValueError``):
        torch.distributed makes groups only of the whole.
        """
        ...

    def close(self) -> None:
        """Leave the group in good order. Every rank of it calls it."""
        ...


class SingleCommunicator:
    """One rank: nothing to combine."""

    rank = 0
    size = 1
    local_rank = 0

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")

    def all_reduce(self, tensor: Tensor, operation: Operation = "sum") -> Tensor:
        return tensor

    def start_all_reduce(self, tensor: Tensor) -> Callable[[], None]:
        return nothing

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        return tensor

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def barrier(self) -> None:
        pass

    def split(self, color: int) -> "SingleCommunicator":
        return SingleCommunicator(self.device)

    def close(self) -> None:
        pass


def nothing() -> None:
    """What waits for something that is done already."""


def no_part_of_a_part() -> ValueError:
    """What ``split`` of a part raises, with every engine alike."""
    return ValueError("a part of the ranks is not split again: split the whole")


def colors_of(colors: Sequence[int]) -> list[tuple[int, ...]]:
    """The ranks of each colour, in order; ``colors`` is by rank.

    >>> colors_of([1, 0, 1])
    [(1,), (0, 2)]
    """
    return [tuple(r for r, c in enumerate(colors) if c == color) for color in sorted(set(colors))]


def connect(engine: ComponentConfig, ranks: Ranks | None = None) -> Communicator:
    """Join the ranks that the environment describes with the engine configured; alone, no engine is needed."""
    ranks = ranks or detect(os.environ)
    if ranks.size == 1:
        return SingleCommunicator()
    communicator: Communicator = engine.build(ranks)
    return communicator


def broadcast_state(module: nn.Module, communicator: Communicator) -> None:
    """Make parameters and buffers of every rank those of rank 0."""
    if communicator.size > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            communicator.broadcast(tensor.detach())
