"""The loop: epochs over the shards on all ranks, validation, checkpoints, with a look for a stop at every step."""

import time
from typing import Any

import numpy as np
import torch

from hpctrain.data.batches import Batch
from hpctrain.training.nonfinite import with_samples
from hpctrain.training.position import Drawn, seed_generators
from hpctrain.training.session import Session
from hpctrain.training.trainer import NotFinite


class Epochs:
    """Takes a session from its position to the end of its epochs."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.config = session.config
        self.position = session.position
        self.task = session.task

    def fit(self) -> int:
        """Train all epochs that are left; returns the number of samples this process group went through."""
        samples = 0
        self.session.stop_if_asked("the start of training")
        while self.position.epoch < self.config.epochs and not self._out_of_patience():
            samples += self._epoch()
        return samples

    def _out_of_patience(self) -> bool:
        waited = self.position.epoch - 1 - self.position.best_epoch
        return self.config.patience is not None and waited >= self.config.patience

    def _epoch(self) -> int:
        session, position, order = self.session, self.position, self.session.order
        rank, trainer = session.communicator.rank, session.trainer
        started, samples = time.monotonic(), 0
        seed_generators(session.seed, position.epoch, rank, Drawn.EPOCH)
        self.task.start_epoch(position.epoch)
        self.task.model.train()
        first = position.next_batch(order.global_batch_size)
        for k, batch in enumerate(session.train.epoch(order, position.epoch, first), first):
            seed_generators(session.seed, trainer.steps, rank)
            with session.watchdog.meeting(f"step {trainer.steps}"):
                results = self._step(k, batch)
            size = order.batch_size(k)
            loss = sum(results[phase.name] for phase in trainer.phases)
            samples += size
            position.samples_seen += size
            position.loss_sum += loss * results["weight"]
            position.weight_sum += results["weight"]
            self._tell(loss, results["gradient_norm"])
            every = self.config.checkpoint_steps
            if every and trainer.steps % every == 0 and position.samples_seen < order.samples:
                session.save()
            session.stop_if_asked(f"the end of step {trainer.steps - 1}", stepped=True)
        self._end_epoch(samples, time.monotonic() - started)
        return samples

    def _step(self, k: int, batch: Batch) -> dict[str, float]:
        try:
            return self.session.trainer.step(batch)
        except NotFinite as error:
            raise with_samples(error, self.session, k, batch) from error

    def _tell(self, loss: float, gradient_norm: float) -> None:
        position, order, tracker = self.position, self.session.order, self.session.tracker
        done = position.epoch * order.samples + position.samples_seen
        step = self.session.trainer.steps
        tracker.log(
            "step",
            epoch=position.epoch,
            global_step=step,
            samples_seen=done,
            loss=loss,
            gradient_norm=gradient_norm,
        )
        tracker.progress(
            done, self.config.epochs * order.samples, "samples",
            epoch=f"{position.epoch + 1}/{self.config.epochs}", loss=round(loss, 4),
        )  # fmt: skip

    def _end_epoch(self, samples: int, seconds: float) -> None:
        position, session = self.position, self.session
        figures = self.validate()
        record = {
            "epoch": position.epoch,
            "train_loss": position.loss_sum / position.weight_sum,
            **{f"validation_{name}": value for name, value in figures.items()},
        }
        metric = session.metric(record)
        best = metric > position.best_metric
        speed = {"seconds": seconds, "samples_per_second": samples / seconds}
        if session.train.balance is not None:
            speed["imbalance"] = session.train.imbalance.mean
        session.tracker.log("epoch", **record, **speed)
        if best:
            position.best_metric, position.best_epoch = metric, position.epoch
        position.end_epoch(record)
        session.save(best=best)

    def validate(self) -> dict[str, float]:
        """Metrics of the whole validation split; ranks share the work, every rank gets the same figures."""
        session, communicator = self.session, self.session.communicator
        where = f"validation after epoch {self.position.epoch + 1}"
        seed_generators(session.seed, session.trainer.steps, communicator.rank, Drawn.VALIDATION)
        if self.session.average is not None:
            with self.session.average.in_place(self.task):
                return self._validated(where)
        return self._validated(where)

    def _validated(self, where: str) -> dict[str, float]:
        session, communicator = self.session, self.session.communicator
        self.task.model.eval()
        parts: list[dict[str, Any]] = []
        size = max(64, self.config.global_batch_size)
        batches = session.validation.sequential(size)
        # The largest share says how often all ranks look for a stop: they must do so equally often.
        share = -(-session.validation.dataset.events // communicator.size)
        with torch.no_grad(), session.precision.computing():
            for _ in range(-(-share // size)):
                session.stop_if_asked(where)
                batch = next(batches, None)
                if batch is not None:
                    parts.append({k: v.cpu().numpy() for k, v in self.task.validate(batch).items()})
        with session.watchdog.meeting(where):
            gathered = [part for rank in communicator.gather(parts) for part in rank]
        results = {name: np.concatenate([part[name] for part in gathered]) for name in gathered[0]}
        figures: dict[str, float] = self.task.metrics(results)
        return figures
