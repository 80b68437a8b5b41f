"""Weights averaged over the steps of a training: less noisy than those of its last step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class MovingAverage:
    """Exponential moving average of the parameters of a model; buffers (running statistics) are the newest ones."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self._averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]

    def update(self) -> None:
        """After each step."""
        self._averaged.update_parameters(self.model)

    @contextmanager
    def in_place(self, task: Any) -> Iterator[None]:
        """``task.model`` is the averaged one."""
        own = task.model
        task.model = self._averaged.module.train(own.training)
        try:
            yield
        finally:
            task.model = own

    def state(self) -> dict[str, Tensor]:
        """Weights and buffers, by the names of the model, and ``n_averaged``."""
        for mean, newest in zip(self._averaged.module.buffers(), self.model.buffers(), strict=True):
            mean.copy_(newest)
        return {"n_averaged": self._averaged.n_averaged, **self._averaged.module.state_dict()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from ``state``."""
        self._averaged.n_averaged.copy_(state["n_averaged"])
        self._averaged.module.load_state_dict({k: v for k, v in state.items() if k != "n_averaged"})
