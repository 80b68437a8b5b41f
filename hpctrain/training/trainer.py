"""One optimisation step of every phase on all ranks: local sums, one message, one update that is the same everywhere."""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from hpctrain.data.loader import Batch
from hpctrain.errors import UserError
from hpctrain.parallel.communicator import Communicator, sum_gradients
from hpctrain.tasks.base import Phase


class Trainer:
    """Steps the phases of a task.

    The gradient is that of (sum of weighted losses) / (sum of weights) over the whole global batch, whatever the
    shares of the ranks, so it does not depend on their number (to float summation order).
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        optimizers: Sequence[Optimizer],
        communicator: Communicator,
        *,
        clip_norm: float | None = None,
        factor: Callable[[int], float] = lambda step: 1.0,
        after_step: Callable[[], None] | None = None,
    ) -> None:
        if len(phases) != len(optimizers):
            raise ValueError("one optimizer a phase")
        self.phases = phases
        self.optimizers = optimizers
        self.communicator = communicator
        self.clip_norm = clip_norm
        self.factor = factor
        self.after_step = after_step
        self.steps = 0
        self._rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]

    def step(self, batch: Batch) -> dict[str, float]:
        """One update of each phase from this rank's share of a global batch.

        Returns the mean loss of each phase over all ranks, and ``weight``, the global sum of weights of the last
        phase. Raises ``UserError`` when a loss is not finite (parameters are then still those before).
        """
        results: dict[str, float] = {}
        for phase, optimizer, rates in zip(self.phases, self.optimizers, self._rates, strict=True):
            for parameter in phase.parameters:
                parameter.grad = None
            sums = torch.zeros(2, dtype=torch.float64)
            if len(
                next(iter(batch.values()))
            ):  # a rank without a share of a small last batch still takes part
                loss = phase.loss(batch)
                loss.total.backward()  # type: ignore[no-untyped-call]
                sums = torch.stack([loss.total.detach().double(), loss.weight.detach().double()]).cpu()
            total, weight = sum_gradients(
                phase.parameters, sums.to(phase.parameters[0].device), self.communicator
            )
            mean = float(total / weight)
            if not torch.isfinite(total / weight):
                raise UserError(
                    f"the loss of phase '{phase.name}' is {mean} at step {self.steps}",
                    hint="Lower training.optimizer.learning_rate, or set training.clip_norm=1",
                )
            for parameter in phase.parameters:
                if parameter.grad is not None:
                    parameter.grad.div_(weight)
            if self.clip_norm is not None:
                nn.utils.clip_grad_norm_(phase.parameters, self.clip_norm)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * self.factor(self.steps)
            optimizer.step()
            results[phase.name] = mean
            results["weight"] = float(weight)
        if self.after_step is not None:
            self.after_step()
        self.steps += 1
        return results
