"""What the trainer knows of a task: phases, each with its parameters and a loss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from hpctrain.data.balance import Balance
from hpctrain.data.loader import Batch
from hpctrain.data.shards import ShardDataset


class LossSum(NamedTuple):
    """Sum over a batch of weighted losses, and the sum of the weights.

    The trainer divides one by the other after summing both over ranks, so uneven shares cannot skew a mean.
    """

    total: Tensor
    """Scalar, differentiable."""
    weight: Tensor | float
    """Scalar."""


@dataclass(frozen=True)
class Phase:
    """One optimisation problem of a task; most tasks have one, a GAN or an adversary has two."""

    name: str
    parameters: Sequence[nn.Parameter]
    loss: Callable[[Batch], LossSum]


class Task(Protocol):
    """A model plus what it is trained for."""

    model: nn.Module
    fields: Sequence[str]
    """Dataset fields that a batch must hold."""
    balance: Balance | None
    """What an event costs, where that differs much from event to event (graphs); ranks then share work, not events."""

    def prepare(self, dataset: ShardDataset, seed: int) -> None:
        """Build the model for this dataset, take its constants (scales) from it. Same on every rank."""
        ...

    def check(self, dataset: ShardDataset) -> None:
        """Raise ``UserError`` when held-out data cannot be validated on."""
        ...

    def phases(self) -> Sequence[Phase]:
        """What is optimised, in the order of one step."""
        ...

    def start_epoch(self, epoch: int) -> None:
        """Told before each epoch (augmentation follows it)."""
        ...

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Per-sample results on held-out data, gathered over ranks and given to ``metrics``."""
        ...

    def metrics(self, results: dict[str, Any]) -> dict[str, float]:
        """Figures of a whole validation set: ``loss``, and whatever else; names as in checkpoints and reports."""
        ...
