"""One optimisation step of every phase on all ranks: local sums, one update that is the same everywhere."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hpctrain.config import ComponentConfig
from hpctrain.data.batches import Batch, rows_of
from hpctrain.errors import UserError
from hpctrain.parallel.communicator import Communicator
from hpctrain.parallel.gradients import Exact, GradientSum
from hpctrain.tasks.base import LossSum, Phase
from hpctrain.training.precision import Precision


class NotFinite(UserError):
    """A loss or a gradient is NaN or infinite. Every rank raises it; parameters are those before the step."""


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
        gradients: ComponentConfig | None = None,
        precision: Precision | None = None,
        asked_to_stop: Callable[[], object] = bool,
    ) -> None:
        """``micro_batch_size``: most samples of one forward and backward pass; None takes a rank's share at once.

        ``every_rank_forward``: the losses themselves talk to other ranks (synchronised BatchNorm), so a rank
        whose share is empty computes them too. ``gradients``: how they are summed (a ``gradients`` component).
        ``asked_to_stop``: whether this rank was; ``stop`` says after each step whether any was.
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
        self.precision = precision or Precision()
        self.asked_to_stop = asked_to_stop
        self.steps = 0
        self.stop = False
        """Any rank was asked to stop before it ended the last step."""
        self._rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        how = gradients or Exact.Config()
        self.sums: list[GradientSum] = (
            [how.build(phase.parameters, communicator, overlap=not every_rank_forward) for phase in phases]
            if communicator.size > 1
            else []
        )

    def step(self, batch: Batch) -> dict[str, float]:
        """One update of each phase from this rank's share of a global batch.

        Returns the mean loss of each phase over all ranks, and of the last phase ``weight``, the global sum of
        weights, and ``gradient_norm``, before clipping. Raises ``NotFinite``.
        """
        results: dict[str, float] = {}
        self.stop = False
        for number, (phase, optimizer) in enumerate(zip(self.phases, self.optimizers, strict=True)):
            total, weight = self._backward(number, phase, batch)
            mean = total / weight if weight else math.nan
            if not math.isfinite(mean):
                raise self._not_finite(f"the loss of phase '{phase.name}' is {mean}")
            norm = self._update(phase, optimizer, weight, self._rates[number])
            results |= {phase.name: mean, "weight": weight, "gradient_norm": norm}
        if self.precision.scaler is not None:
            self.precision.scaler.update()
        if self.after_step is not None:
            self.after_step()
        self.steps += 1
        return results

    def _backward(self, number: int, phase: Phase, batch: Batch) -> tuple[float, float]:
        """Gradients of the sum of losses over all ranks, left in ``grad``; that sum, and that of the weights."""
        for parameter in phase.parameters:
            parameter.grad = None
        parts = self._parts(batch)
        sums = self.sums[number] if self.sums else None
        losses: list[LossSum] = []
        for place, part in enumerate(parts, 1):
            with self.precision.computing():
                loss = phase.loss(part)
            overlapping = sums.overlapping() if sums is not None and place == len(parts) else nullcontext()
            with overlapping:
                self.precision.scaled(loss.total).backward()  # type: ignore[no-untyped-call]
            losses.append(LossSum(loss.total.detach(), loss.weight.detach()))
        extra = self._added_up(losses, float(bool(self.asked_to_stop())))
        total, weight, asked = sums.finish(extra) if sums is not None else extra.tolist()
        self.stop = self.stop or asked > 0
        return total, weight

    def _added_up(self, losses: Sequence[LossSum], asked: float) -> Tensor:
        if self.communicator.device.type == "cpu":
            total, weight = (math.fsum(float(loss[i]) for loss in losses) for i in (0, 1))
            return torch.tensor([total, weight, asked], dtype=torch.float64)
        # Nothing waits for a GPU here.
        found = torch.zeros(3, dtype=torch.float64, device=self.communicator.device)
        found[2] = asked
        for loss in losses:
            found[0] += loss.total
            found[1] += loss.weight
        return found

    def _update(self, phase: Phase, optimizer: Optimizer, weight: float, rates: Sequence[float]) -> float:
        """From the sum of gradients to the next parameters; the norm of the mean gradient."""
        scaler = self.precision.scaler
        if scaler is not None:
            scaler.unscale_(optimizer)
        gradients = [p.grad for p in phase.parameters if p.grad is not None]
        torch._foreach_div_(gradients, weight)
        norm = nn.utils.get_total_norm(gradients)
        if self.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(phase.parameters, self.clip_norm, norm)
        size = float(norm)
        if scaler is None and not math.isfinite(size):
            raise self._not_finite(f"the gradient of phase '{phase.name}' has the norm {size}")
        factor = self.factor(self.steps)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)  # not when a gradient is not finite: the scale was too high
        return size

    def _not_finite(self, what: str) -> NotFinite:
        return NotFinite(
            f"{what} at step {self.steps}",
            hint="Lower training.optimizer.learning_rate, or set training.clip_norm=1",
        )

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
