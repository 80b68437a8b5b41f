"""One optimisation step of every phase on all ranks: local sums, one message, one update that is the same everywhere."""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from hpctrain.data.batches import Batch, rows_of
from hpctrain.errors import UserError
from hpctrain.parallel.communicator import Communicator, sum_gradients
from hpctrain.tasks.base import Phase
from hpctrain.training.clock import Clock


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
        micro_batch_size: int | None = None,
        every_rank_forward: bool = False,
        clock: Clock | None = None,
    ) -> None:
        """``micro_batch_size``: most samples of one forward and backward pass; None takes a rank's share at once.

        ``every_rank_forward``: the losses themselves talk to other ranks (synchronised BatchNorm), so a rank
        whose share is empty computes them too.

        ``clock`` is told the parts of each step; None: nobody reads them.
        """
        if len(phases) != len(optimizers):
            raise ValueError("one optimizer a phase")
        self.phases = phases
        self.optimizers = optimizers
        self.communicator = communicator
        self.clip_norm = clip_norm
        self.factor = factor
        self.after_step = after_step
        self.micro_batch_size = micro_batch_size
        self.every_rank_forward = every_rank_forward
        self.clock = clock or Clock()
        self.steps = 0
        self._rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]

    def step(self, batch: Batch) -> dict[str, float]:
        """One update of each phase from this rank's share of a global batch.

        Returns the mean loss of each phase over all ranks, and ``weight``, the global sum of weights of the last
        phase. Raises ``UserError`` when a loss is not finite (parameters are then still those before).
        """
        results: dict[str, float] = {}
        lap = self.clock.lap
        lap("other")
        for phase, optimizer, rates in zip(self.phases, self.optimizers, self._rates, strict=True):
            for parameter in phase.parameters:
                parameter.grad = None
            sums = torch.zeros(2, dtype=torch.float64)
            for part in self._parts(batch):
                loss = phase.loss(part)
                lap("forward")
                loss.total.backward()  # type: ignore[no-untyped-call]
                sums += torch.stack([loss.total.detach().double(), loss.weight.detach().double()]).cpu()
                lap("backward")
            total, weight = sum_gradients(
                phase.parameters, sums.to(phase.parameters[0].device), self.communicator
            )
            lap("communication")
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
            lap("optimiser")
        if self.after_step is not None:
            self.after_step()
        self.steps += 1
        return results

    def _parts(self, batch: Batch) -> list[Batch]:
        """The batch in micro-batches. Losses and gradients are sums over samples, so those of the parts add up."""
        samples = len(next(iter(batch.values())))
        if samples == 0:
            # A rank without a share of a small last batch still takes part, in the sums alone if that will do.
            return [batch] if self.every_rank_forward else []
        if self.micro_batch_size is None or samples <= self.micro_batch_size:
            return [batch]
        starts = range(0, samples, self.micro_batch_size)
        return [rows_of(batch, start, min(start + self.micro_batch_size, samples)) for start in starts]
