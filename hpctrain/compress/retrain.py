"""Training that goes on while a network is compressed: the task's own loss, the project's trainer, all ranks."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hpctrain.config import ComponentConfig
from hpctrain.data.curation.staging import staged
from hpctrain.data.loader import Batch
from hpctrain.data.order import split
from hpctrain.data.shards import ShardDataset
from hpctrain.parallel.communicator import Communicator, broadcast_state
from hpctrain.run import RunDirectory
from hpctrain.tasks.base import LossSum, Phase
from hpctrain.track import Tracker
from hpctrain.training.schedules import Cosine, Moment
from hpctrain.training.trainer import Trainer

Arrays = dict[str, NDArray[Any]]


class Retraining:
    """The data and ranks of a run at hand, to train and to judge variants of its network.

    Every rank calls the same methods in the same order; what they return is the same on every rank.
    """

    def __init__(
        self,
        task: Any,
        run: RunDirectory,
        tracker: Tracker,
        communicator: Communicator,
        *,
        global_batch_size: int,
        first_epoch: int,
        epochs: int,
    ) -> None:
        self.task = copy.copy(task)
        self.tracker = tracker
        self.communicator = communicator
        loading = run.experiment.data.build()
        self._loaders = {
            name: loading.loader(
                staged(run, name, communicator, tracker), task.fields, communicator, task.balance
            )
            for name in ("train", "validation", "test")
        }
        train = ShardDataset.open(run.data / "train")
        self.order = loading.order(train, global_batch_size, run.experiment.seed)
        self.epoch = first_epoch
        """Number of the next epoch; goes on where training stopped, so order and augmentation do too."""
        self._total = max(1, epochs) * self.order.samples
        self._done = 0

    def fit(
        self,
        network: nn.Module,
        epochs: int,
        optimizer: ComponentConfig,
        *,
        stage: str,
        penalty: Callable[[], Tensor] | None = None,
        after_epoch: Callable[[dict[str, float]], None] | None = None,
    ) -> dict[str, float]:
        """Train ``network`` for ``epochs`` with a cosine schedule; returns the figures of the last epoch.

        ``penalty`` is added to the mean loss per event. ``after_epoch`` gets the figures of each epoch
        (``train_loss``, ``loss`` and the task's other validation metrics).
        """
        broadcast_state(network, self.communicator)
        self.task.model = network
        phases = [self._with_penalty(phase, penalty) for phase in self.task.phases()]
        steps = epochs * self.order.batches
        schedule = Cosine.Config(warmup_steps=min(10, steps // 4)).build()
        trainer = Trainer(
            phases,
            [optimizer.build(phase.parameters) for phase in phases],
            self.communicator,
            factor=lambda step: schedule.factor(Moment(step, steps)),
        )
        figures: dict[str, float] = {}
        for _ in range(epochs):
            figures = self._epoch(trainer, stage)
            if after_epoch is not None:
                after_epoch(figures)
        return figures

    def _epoch(self, trainer: Trainer, stage: str) -> dict[str, float]:
        started = time.monotonic()
        self.task.start_epoch(self.epoch)
        self.task.model.train()
        loss_sum = weight_sum = 0.0
        for k, batch in enumerate(self._loaders["train"].epoch(self.order, self.epoch)):
            results = trainer.step(batch)
            loss = sum(results[phase.name] for phase in trainer.phases)
            loss_sum += loss * results["weight"]
            weight_sum += results["weight"]
            self._done += self.order.batch_size(k)
            self.tracker.progress(self._done, self._total, "samples", stage=stage, loss=round(loss, 4))
        self.epoch += 1
        figures = {"train_loss": loss_sum / weight_sum, **self.validate(self.task.model)}
        self.tracker.log("epoch", stage=stage, seconds=time.monotonic() - started, **figures)
        return figures

    def _with_penalty(self, phase: Phase, penalty: Callable[[], Tensor] | None) -> Phase:
        if penalty is None:
            return phase

        def loss(batch: Batch) -> LossSum:
            total, weight = phase.loss(batch)
            # The trainer divides by the sum of weights over all ranks, so the term is counted once.
            return LossSum(total + penalty() * weight, weight)

        return Phase(phase.name, phase.parameters, loss)

    def validate(self, network: nn.Module) -> dict[str, float]:
        """The task's metrics on the validation split."""
        figures: dict[str, float] = self.task.metrics(self.results(network, "validation"))
        return figures

    @torch.no_grad()
    def results(self, network: nn.Module, split_name: str) -> Arrays:
        """What ``task.validate`` says of every event of a split (label, score, loss, weight), in stored order."""
        self.task.model = network.eval()
        parts = [
            {name: values.cpu().numpy() for name, values in self.task.validate(batch).items()}
            for batch in self._loaders[split_name].sequential(128)
        ]
        gathered = [part for rank in self.communicator.gather(parts) for part in rank]
        return {name: np.concatenate([part[name] for part in gathered]) for name in gathered[0]}

    def input_shape(self, network: nn.Module) -> tuple[int, ...]:
        """Shape of what the network sees of one event."""
        self.task.model = network
        one = self._loaders["train"].load(np.zeros(1, dtype=np.int64))
        return tuple(self.task.inputs(one).shape[1:])

    def inputs(self, network: nn.Module, events: int) -> list[Tensor]:
        """This rank's share of about ``events`` training events spread over the split, as the network sees them."""
        self.task.model = network
        loader = self._loaders["train"]
        count = loader.dataset.events
        rows = np.unique(np.linspace(0, count - 1, min(events, count)).astype(np.int64))
        mine = split(rows, self.communicator.rank, self.communicator.size)
        return [self.task.inputs(loader.load(mine[i : i + 64])) for i in range(0, len(mine), 64)]
