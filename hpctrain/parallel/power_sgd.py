"""PowerSGD (Vogels, Karimireddy, Jaggi 2019): gradients as matrices of low rank, with what is lost fed back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from hpctrain.config import ComponentConfig
from hpctrain.parallel.communicator import Communicator
from hpctrain.parallel.gradients import State, buckets, rider, unload
from hpctrain.registry import register


@register("gradients")
class PowerSGD:
    """A gradient of (n, m) travels as (n + m) × rank numbers; biases, and weights too small to gain, as they are.

    What the approximation leaves out is added to the next gradient, in units of the weighted mean, since batches
    differ in weight. Only the sum of it over ranks matters, so that is what a checkpoint holds.
    """

    class Config(ComponentConfig):
        kind: Literal["power_sgd"] = "power_sgd"
        rank: PositiveInt = 2
        """Of the approximation: the higher, the closer, and the more there is to send."""
        exact_steps: NonNegativeInt = 100
        """First steps, whose gradients travel whole: they are large and change direction."""

    def __init__(
        self, config: Config, parameters: Sequence[nn.Parameter], communicator: Communicator, *, overlap: bool
    ) -> None:
        self.config = config
        self.communicator = communicator
        self._buckets = buckets(parameters, float("inf"), room=8)
        self._views = [view for bucket in self._buckets for view in bucket.views]
        self._steps = 0
        sizes = [(len(view), view[0].numel()) if view.dim() > 1 else (0, 0) for view in self._views]
        self._compressed = [n * m > 2 * config.rank * (n + m) for n, m in sizes]
        chosen = [
            (size, view) for size, view, low in zip(sizes, self._views, self._compressed, strict=True) if low
        ]
        generator = torch.Generator().manual_seed(0)  # the same on every rank
        self._right = [
            torch.randn(m, min(config.rank, n, m), generator=generator, dtype=torch.float64).to(view)
            for (n, m), view in chosen
        ]
        self._errors = [torch.zeros(size, dtype=view.dtype, device=view.device) for size, view in chosen]

    @contextmanager
    def overlapping(self) -> Iterator[None]:
        yield  # matrices are multiplied when all are there

    def finish(self, extra: Tensor) -> list[float]:
        for bucket in self._buckets:
            bucket.fill()
        riding = self.communicator.all_reduce(rider(self._buckets, extra))
        weight = float(riding[len(self._views) + 1])
        exact = self._steps < self.config.exact_steps
        self._steps += 1
        whole = [view for view, low in zip(self._views, self._compressed, strict=True) if exact or not low]
        if exact:
            self._sum(whole)
        else:
            self._approximate(whole, weight)
        return unload(self._buckets, riding)

    def _approximate(self, whole: list[Tensor], weight: float) -> None:
        views = [view for view, low in zip(self._views, self._compressed, strict=True) if low]
        matrices = [
            view.reshape(error.shape) + weight * error
            for view, error in zip(views, self._errors, strict=True)
        ]
        left = [matrix @ right for matrix, right in zip(matrices, self._right, strict=True)]
        self._sum([*whole, *left])
        left = [torch.linalg.qr(some).Q for some in left]
        self._right = [matrix.T @ some for matrix, some in zip(matrices, left, strict=True)]
        self._sum(self._right)
        for number, (view, matrix) in enumerate(zip(views, matrices, strict=True)):
            close = left[number] @ self._right[number].T
            view.copy_(close.reshape(view.shape))
            self._errors[number] = (matrix - close / self.communicator.size) / weight

    def _sum(self, tensors: Sequence[Tensor]) -> None:
        """Over ranks, in place, in one message of each type of number."""
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            some = [tensor for tensor in tensors if tensor.dtype == dtype]
            message = self.communicator.all_reduce(torch.cat([tensor.reshape(-1) for tensor in some]))
            parts = torch.split(message, [tensor.numel() for tensor in some])
            for tensor, part in zip(some, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))

    def state(self) -> State:
        # Every rank goes on with the mean from here, as one that begins here does.
        sums = [error.clone() for error in self._errors]
        self._sum(sums)
        self._errors = [total / self.communicator.size for total in sums]
        return {"steps": self._steps, "right": self._right, "errors": sums}

    def load(self, state: State) -> None:
        self._steps = state["steps"]
        self._right = [saved.to(own) for saved, own in zip(state["right"], self._right, strict=True)]
        self._errors = [
            saved.to(own) / self.communicator.size
            for saved, own in zip(state["errors"], self._errors, strict=True)
        ]
