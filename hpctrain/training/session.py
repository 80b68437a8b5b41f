"""One process of one training: model, data and ranks at hand; where it goes on from, and how it is left."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from hpctrain import machine, stopping
from hpctrain.config import ComponentConfig
from hpctrain.data.curation.staging import staged
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import Stopped, UserError
from hpctrain.files import write_json
from hpctrain.parallel.batch_norm import has_batch_norm, synchronize_batch_norm
from hpctrain.parallel.communicator import Communicator, broadcast_state
from hpctrain.run import RunDirectory
from hpctrain.track import Tracker
from hpctrain.training.average import MovingAverage
from hpctrain.training.checkpoint import Checkpoints, State
from hpctrain.training.position import Position
from hpctrain.training.precision import Precision
from hpctrain.training.saving import Saver
from hpctrain.training.schedules import Moment, scaled_for_batch
from hpctrain.training.trainer import Trainer
from hpctrain.training.watchdog import Watchdog

if TYPE_CHECKING:
    from hpctrain.training.data_parallel import DataParallelTraining


class Session:
    """What every rank holds while it trains; all ranks make the same one, and call the same methods in turn."""

    def __init__(
        self,
        config: DataParallelTraining.Config,
        run: RunDirectory,
        tracker: Tracker,
        communicator: Communicator,
    ) -> None:
        self.config = config
        self.run = run
        self.tracker = tracker
        self.communicator = communicator
        self.checkpoints = Checkpoints(run.checkpoints, config.keep)
        experiment = run.experiment
        self.seed = experiment.seed
        train = ShardDataset.open(run.data / "train")
        self.task = experiment.task.build()
        self.task.prepare(train, experiment.seed)
        layout = torch.channels_last if config.channels_last else torch.preserve_format
        self.task.model.to(communicator.device, memory_format=layout)
        batch_norm = has_batch_norm(self.task.model)
        if batch_norm and config.micro_batch_size is not None:
            raise UserError(
                "task.model has BatchNorm, whose statistics are those of a whole batch, not of micro-batches",
                hint="Leave out training.micro_batch_size, or set task.model.normalisation=none",
            )
        synchronize_batch_norm(self.task.model, communicator)
        broadcast_state(self.task.model, communicator)
        self.average = (
            MovingAverage(self.task.model, config.average_decay) if config.average_decay is not None else None
        )
        if config.compile:
            self.task.model.compile()
        held_out = ShardDataset.open(run.data / "validation")
        self.task.check(held_out)
        loading = experiment.data.build()
        places = {split: staged(run, split, communicator, tracker) for split in ("train", "validation")}
        self.copies = {split: place for split, place in places.items() if place != run.data / split}
        self.train, self.validation = (
            loading.loader(place, self.task.fields, communicator, self.task.balance)
            for place in places.values()
        )
        self.order = loading.order(train, config.global_batch_size, experiment.seed)
        times = self.order.times_read(communicator.size)
        if times >= 2 and train.events > self.order.window:
            tracker.warn(
                f"{communicator.size} ranks read the data {times:.1f} times over: give data.lanes="
                f"{communicator.size}, or a multiple"
            )
        self.position = Position()
        phases = self.task.phases()
        self.schedule = config.schedule.build()
        scale = scaled_for_batch(
            config.learning_rate_scaling,
            config.global_batch_size,
            config.reference_batch_size or config.global_batch_size,
        )
        self.precision = Precision(config.precision, communicator.device)
        self.trainer = Trainer(
            phases,
            [config.optimizer.build(phase.parameters) for phase in phases],
            communicator,
            clip_norm=config.clip_norm,
            factor=lambda step: scale * self.schedule.factor(self.moment(step)),
            after_step=self.average.update if self.average is not None else None,
            micro_batch_size=config.micro_batch_size,
            every_rank_forward=batch_norm,
            gradients=config.gradients,
            precision=self.precision,
            asked_to_stop=stopping.requested,
        )
        self.identity = _identity(
            experiment.seed,
            [experiment.task, experiment.data, config],
            [shard.sha256 for shard in train.info.shards],
        )
        self.saver = Saver(self.checkpoints, active=communicator.rank == 0)
        self.watchdog = Watchdog(
            run.logs, "train", run.hang_path("train"),
            rank=communicator.rank, size=communicator.size, timeout_s=config.hang_timeout_s,
        )  # fmt: skip

    def moment(self, step: int) -> Moment:
        """Where training is, for the schedule."""
        metrics = [self.metric(figures) for figures in self.position.history]
        return Moment(step, self.config.epochs * self.order.batches, self.position.epoch, metrics)

    def metric(self, figures: dict[str, float]) -> float:
        """What is monitored, of the record of an epoch: the higher the better."""
        value = figures[f"validation_{self.config.monitor}"]
        return value if self.config.monitor == "auc" else -value

    def resume(self) -> None:
        """Go on from the newest whole checkpoint of the same training, if there is one."""
        with self.watchdog.meeting("the reading of the checkpoint"):
            state = self._common_state()
        if state is None:
            return
        if state["identity"] != self.identity:
            raise UserError(
                f"the checkpoints in {self.checkpoints.folder} belong to another training (data, task or settings)",
                hint="Use --force to train anew, or name=NEW to keep them",
            )
        self.task.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.trainer.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for sums, saved in zip(self.trainer.sums, state["gradients"], strict=False):
            sums.load(saved)
        self.precision.load(state["scaler"])
        if self.average is not None:
            self.average.load(state["average"])
        self.trainer.steps = self.saver.saved = state["step"]
        self.position = position = Position(**state["position"])
        newly_best = position.epoch > 0 and position.best_epoch == position.epoch - 1
        if self.communicator.rank == 0 and newly_best and not position.samples_seen:
            # A kill may have come between this checkpoint and its becoming the best.
            self.checkpoints.make_best(self.trainer.steps)
        self.tracker.log("resume", epoch=position.epoch, samples_seen=position.samples_seen)

    def _common_state(self) -> State | None:
        """The newest whole checkpoint, the same on every rank. Raises ``UserError`` on all when one cannot read it."""
        state, problem = None, ""
        if self.communicator.rank == 0:
            try:
                state = self.checkpoints.latest(warn=self.tracker.warn)
            except UserError as error:
                problem = str(error)
        step = self.communicator.gather(state["step"] if state else None)[0]
        if step is not None and self.communicator.rank != 0:
            try:
                state = self.checkpoints.load(step)
            except UserError as error:
                problem = str(error)
        problems = [text for text in self.communicator.gather(problem) if text]
        if problems:
            raise UserError(problems[0])
        return state

    def save(self, *, best: bool = False) -> None:
        """Have a checkpoint of here and now written."""
        self.saver.save(self._state(), self.trainer.steps, best=best)

    def _state(self) -> State:
        return {
            "model": self.task.model.state_dict(),
            "average": None if self.average is None else self.average.state(),
            "optimizers": [optimizer.state_dict() for optimizer in self.trainer.optimizers],
            "scaler": self.precision.state(),
            "gradients": [sums.state() for sums in self.trainer.sums],
            "step": self.trainer.steps,
            "position": vars(self.position),
            "identity": self.identity,
            "versions": {
                "python": platform.python_version(),
                **{name: machine.package_version(name) for name in ("hpctrain", "torch", "numpy")},
            },
        }

    def stop_if_asked(self, where: str, *, stepped: bool = False) -> None:
        """Leave all ranks here when one of them was asked to stop. Every rank must come here equally often.

        After a step (``stepped``) what ranks said in it is known already, and nobody is asked. A checkpoint is
        written, if a step was done since the last. Raises ``Stopped``, on every rank, and the ``UserError`` of a
        checkpoint that could not be written.
        """
        self.saver.check()
        if stepped and not self.trainer.stop:
            return
        with self.watchdog.meeting(where):
            if stepped or self._any_asked():
                self._stop(
                    next(reason for reason in self.communicator.gather(stopping.requested()) if reason)
                )

    def _any_asked(self) -> bool:
        mine = bool(stopping.requested())
        if self.communicator.size == 1:
            return mine
        flag = torch.tensor([int(mine)], dtype=torch.int32, device=self.communicator.device)
        return bool(int(self.communicator.all_reduce(flag, "max")))

    def _stop(self, reason: str) -> NoReturn:
        if self.trainer.steps != self.saver.saved:
            self.save()
        self.saver.wait()
        self.tracker.log("stop", reason=reason, global_step=self.trainer.steps)
        if self.communicator.rank == 0:
            write_json(self.run.stopped_path("train"), {"reason": reason, "step": self.trainer.steps})
        self.communicator.barrier()  # no rank ends before the checkpoint is on disk
        raise Stopped(reason)

    def summary(self, samples: int, seconds: float) -> dict[str, Any]:
        """Headline figures; validation figures are those of the best epoch."""
        position = self.position
        best = position.history[position.best_epoch]
        headline = f"validation AUC {best.get('validation_auc', float('nan')):.4f} after epoch {position.best_epoch + 1}"
        if self.copies:
            headline += f", shards staged in {self.copies['train'].parent}"
        return {
            "headline": headline,
            **(
                {"staged": {split: str(place) for split, place in self.copies.items()}} if self.copies else {}
            ),
            "ranks": self.communicator.size,
            "threads_per_rank": torch.get_num_threads(),
            "epochs": position.epoch,
            "best_epoch": position.best_epoch,
            "parameters": sum(p.numel() for p in self.task.model.parameters()),
            "steps": self.trainer.steps,
            "training_events": self.order.samples,
            **{k: v for k, v in best.items() if k != "epoch"},
            "samples_per_second": samples / seconds if samples else None,
        }


def _identity(seed: int, configs: Sequence[ComponentConfig], shards: list[str]) -> str:
    """What must be the same for a checkpoint to be gone on from."""
    parts = [seed, *(c.model_dump(mode="json", exclude=set(c.speed_keys)) for c in configs), shards]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
