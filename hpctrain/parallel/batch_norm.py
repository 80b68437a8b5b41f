"""BatchNorm over the global batch: the statistics of all ranks together, each weighted by its share.

What torch.nn.BatchNorm computes on one rank (Ioffe, Szegedy 2015), so the number of ranks does not change it.
torch.nn.SyncBatchNorm does this on GPUs only.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hpctrain.errors import UserError
from hpctrain.parallel.communicator import Communicator


class SynchronizedBatchNorm(_BatchNorm):
    """A BatchNorm layer whose batch is that of all ranks. In evaluation it is the layer that it was made of.

    Every rank calls it as often, also with an empty share: it sums over ranks twice forward and once backward.
    """

    def __init__(self, layer: _BatchNorm, communicator: Communicator) -> None:
        super().__init__(
            layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats
        )
        # The same tensors, so that optimisers and checkpoints do not notice.
        for name, parameter in layer.named_parameters(recurse=False):
            setattr(self, name, parameter)
        for name, buffer in layer.named_buffers(recurse=False):
            setattr(self, name, buffer)
        self.train(layer.training)
        self._communicator = communicator
        self._check = layer._check_input_dim

    def _check_input_dim(self, input: Tensor) -> None:
        self._check(input)  # type: ignore[no-untyped-call]

    def forward(self, input: Tensor) -> Tensor:
        """(n, C, …) → the same shape. Raises ``UserError`` when all ranks together have one value per channel."""
        if not (self.training or self.running_mean is None):
            return super().forward(input)
        self._check_input_dim(input)
        output, mean, variance, count = _Normalise.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.bias, self.eps, self._communicator
        )
        if self.training and self.running_mean is not None and self.running_var is not None:
            self._follow(mean, variance * count / (count - 1))
        result: Tensor = output
        return result

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if self.num_batches_tracked is None or self.running_mean is None or self.running_var is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.mul_(1 - share).add_(mean.to(self.running_mean), alpha=share)
        self.running_var.mul_(1 - share).add_(variance.to(self.running_var), alpha=share)


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) · weight + bias, with mean and variance over all ranks, and its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        communicator: Communicator,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dims = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        local = torch.tensor([x.numel() // x.shape[1]], dtype=x.dtype, device=x.device)
        # Two messages rather than the sums of x and x² in one: their difference would lose half the digits.
        sums = communicator.all_reduce(torch.cat([x.sum(dims), local]))
        count = sums[-1]
        if count <= 1:
            raise UserError(
                "BatchNorm needs more than one value per channel, and a global batch has one",
                hint="Choose training.global_batch_size so that the last batch is not a single event",
            )
        mean = sums[:-1] / count
        centred = x - mean.view(shape)
        variance = communicator.all_reduce((centred * centred).sum(dims)) / count
        inverse = torch.rsqrt(variance + eps)
        normal = centred * inverse.view(shape)
        ctx.save_for_backward(normal, weight, inverse, count)
        ctx.communicator, ctx.dims, ctx.shape = communicator, dims, shape
        ctx.mark_non_differentiable(mean, variance, count)
        output = normal if weight is None else normal * weight.view(shape)
        output = output if bias is None else output + bias.view(shape)
        return output, mean, variance, count

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        normal, weight, inverse, count = ctx.saved_tensors
        shape, dims = ctx.shape, ctx.dims
        # Of this rank's part of the loss alone: the trainer sums gradients of parameters over ranks.
        grad_bias, grad_weight = grad.sum(dims), (grad * normal).sum(dims)
        sums = ctx.communicator.all_reduce(torch.cat([grad_bias, grad_weight])) / count
        mean_grad, mean_product = sums.chunk(2)
        scale = inverse if weight is None else inverse * weight
        grad_x = (grad - mean_grad.view(shape) - normal * mean_product.view(shape)) * scale.view(shape)
        return (
            grad_x,
            None if weight is None else grad_weight,
            None if weight is None else grad_bias,
            None,
            None,
        )


def has_batch_norm(model: nn.Module) -> bool:
    """Whether the loss of an event depends on the rest of its batch."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def synchronize_batch_norm(model: nn.Module, communicator: Communicator) -> None:
    """Replace every BatchNorm inside ``model`` by one over all ranks, in place; on one rank nothing is to do.

    Names, parameters and buffers stay, so checkpoints fit the model as it was. Raises ``UserError`` when the
    model itself is a BatchNorm.
    """
    if communicator.size == 1:
        return
    if isinstance(model, _BatchNorm):
        raise UserError("the model is a single BatchNorm layer, which cannot be replaced in place")
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                setattr(module, name, SynchronizedBatchNorm(child, communicator))
