"""The training step of a run: epochs over the shards on all ranks, validation, checkpoints, going on after a stop."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from hpctrain import machine
from hpctrain.config import AnyComponent, ComponentConfig, component, section
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError
from hpctrain.parallel.batch_norm import has_batch_norm, synchronize_batch_norm
from hpctrain.parallel.communicator import Communicator, broadcast_state
from hpctrain.registry import register
from hpctrain.run import RunDirectory
from hpctrain.track import Tracker
from hpctrain.training.checkpoint import Checkpoints, State
from hpctrain.training.optimizers import schedule_factor
from hpctrain.training.trainer import Trainer


@dataclass
class Position:
    """Where training is: all that the order needs, whatever the number of ranks."""

    epoch: int = 0
    samples_seen: int = 0
    """Of this epoch."""
    best_metric: float = -np.inf
    best_epoch: int = -1
    loss_sum: float = 0.0
    """Weighted loss of this epoch so far, and its weight: a resumed epoch reports its whole loss."""
    weight_sum: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


@register("training")
class DataParallelTraining:
    """Synchronous data-parallel training: every rank holds the model and takes its share of each global batch."""

    class Config(ComponentConfig):
        speed_keys: ClassVar[frozenset[str]] = frozenset({"keep", "checkpoint_steps"})
        kind: Literal["data_parallel"] = "data_parallel"
        epochs: PositiveInt = 12
        """Passes over the training split."""
        global_batch_size: PositiveInt = 64
        """Samples of one update, over all ranks together; ranks do not change it."""
        micro_batch_size: PositiveInt | None = None
        """Most samples that a rank takes at once: it accumulates the gradient of its share in parts of this size,
        which needs less memory. None takes the share whole."""
        optimizer: Annotated[AnyComponent, component("optimizers", "adam")] = section("optimizers", "adam")
        """How parameters move."""
        schedule: Literal["constant", "cosine"] = "cosine"
        """Learning rate after the warm-up: constant, or half a cosine down towards 0 at the last step."""
        warmup_steps: NonNegativeInt = 20
        """Steps over which the learning rate rises in equal parts."""
        clip_norm: PositiveFloat | None = None
        """Largest norm of the gradient; None leaves it."""
        monitor: Literal["auc", "loss"] = "auc"
        """Validation metric that says which checkpoint is best."""
        patience: PositiveInt | None = None
        """Stop after so many epochs without a better metric; None trains all epochs."""
        checkpoint_steps: PositiveInt | None = None
        """Also write a checkpoint every so many steps; None writes one an epoch."""
        keep: PositiveInt = 2
        """Checkpoints kept beside the best."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def run(self, run: RunDirectory, tracker: Tracker, communicator: Communicator) -> dict[str, Any]:
        """Train to the end or from the last checkpoint to the end; returns the summary of the step."""
        session = _Session(self.config, run, tracker, communicator)
        session.resume()
        started = time.monotonic()
        samples = session.fit()
        return session.summary(samples, time.monotonic() - started)


class _Session:
    """One process of one training: what ``run`` needs at hand."""

    def __init__(
        self,
        config: DataParallelTraining.Config,
        run: RunDirectory,
        tracker: Tracker,
        communicator: Communicator,
    ) -> None:
        self.config = config
        self.tracker = tracker
        self.communicator = communicator
        self.checkpoints = Checkpoints(run.checkpoints, config.keep)
        experiment = run.experiment
        self.seed = experiment.seed
        train = ShardDataset.open(run.data / "train")
        self.task = experiment.task.build()
        self.task.prepare(train, experiment.seed)
        self.task.model.to(communicator.device)
        batch_norm = has_batch_norm(self.task.model)
        if batch_norm and config.micro_batch_size is not None:
            raise UserError(
                "task.model has BatchNorm, whose statistics are those of a whole batch, not of micro-batches",
                hint="Leave out training.micro_batch_size, or set task.model.normalisation=none",
            )
        synchronize_batch_norm(self.task.model, communicator)
        broadcast_state(self.task.model, communicator)
        held_out = ShardDataset.open(run.data / "validation")
        self.task.check(held_out)
        loading = experiment.data.build()
        self.train, self.validation = (
            loading.loader(run.data / split, self.task.fields, communicator, self.task.balance)
            for split in ("train", "validation")
        )
        self.order = loading.order(train, config.global_batch_size, experiment.seed)
        times = self.order.times_read(communicator.size)
        if times >= 2 and train.events > self.order.window:
            tracker.log(
                "warning",
                text=f"{communicator.size} ranks read the data {times:.1f} times over: give data.lanes="
                f"{communicator.size}, or a multiple",
            )
        self.position = Position()
        phases = self.task.phases()
        steps = config.epochs * self.order.batches
        self.trainer = Trainer(
            phases,
            [config.optimizer.build(phase.parameters) for phase in phases],
            communicator,
            clip_norm=config.clip_norm,
            factor=lambda step: schedule_factor(config.schedule, step, steps, config.warmup_steps),
            micro_batch_size=config.micro_batch_size,
            every_rank_forward=batch_norm,
        )
        self.identity = _identity(
            experiment.seed,
            [experiment.task, experiment.data, config],
            [shard.sha256 for shard in train.info.shards],
        )

    def resume(self) -> None:
        """Go on from the newest whole checkpoint of the same training, if there is one."""
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
        self.trainer.steps = state["step"]
        self.position = Position(**state["position"])
        position = self.position
        if (
            self.communicator.rank == 0
            and position.best_epoch == position.epoch - 1
            and not position.samples_seen
        ):
            # A kill may have come between this checkpoint and its becoming the best.
            self.checkpoints.make_best(self.trainer.steps)
        self.tracker.log("resume", epoch=self.position.epoch, samples_seen=self.position.samples_seen)

    def _common_state(self) -> State | None:
        """The newest whole checkpoint, the same on every rank. Raises ``UserError`` on all when one cannot read it."""
        state, problem = None, ""
        if self.communicator.rank == 0:
            try:
                state = self.checkpoints.latest(warn=lambda text: self.tracker.log("warning", text=text))
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

    def fit(self) -> int:
        """Train all epochs that are left; returns the number of samples this process group went through."""
        samples = 0
        while self.position.epoch < self.config.epochs and not self._out_of_patience():
            samples += self._epoch()
        return samples

    def _out_of_patience(self) -> bool:
        waited = self.position.epoch - 1 - self.position.best_epoch
        return self.config.patience is not None and waited >= self.config.patience

    def _epoch(self) -> int:
        position, order = self.position, self.order
        started, samples = time.monotonic(), 0
        self.task.start_epoch(position.epoch)
        self.task.model.train()
        first = position.samples_seen // order.global_batch_size
        for k, batch in enumerate(self.train.epoch(order, position.epoch, first), first):
            torch.manual_seed(_step_seed(self.seed, self.trainer.steps, self.communicator.rank))
            results = self.trainer.step(batch)
            size = order.batch_size(k)
            loss = sum(results[phase.name] for phase in self.trainer.phases)
            samples += size
            position.samples_seen += size
            position.loss_sum += loss * results["weight"]
            position.weight_sum += results["weight"]
            done = position.epoch * order.samples + position.samples_seen
            self.tracker.log(
                "step", epoch=position.epoch, global_step=self.trainer.steps, samples_seen=done, loss=loss
            )
            self.tracker.progress(
                done, self.config.epochs * order.samples, "samples",
                epoch=f"{position.epoch + 1}/{self.config.epochs}", loss=round(loss, 4),
            )  # fmt: skip
            every = self.config.checkpoint_steps
            if every and self.trainer.steps % every == 0 and position.samples_seen < order.samples:
                self._save(best=False)
        seconds = time.monotonic() - started
        self._end_epoch(samples, seconds)
        return samples

    def _end_epoch(self, samples: int, seconds: float) -> None:
        position = self.position
        figures = self.validate()
        metric = figures["auc"] if self.config.monitor == "auc" else -figures["loss"]
        best = metric > position.best_metric
        record = {
            "epoch": position.epoch,
            "train_loss": position.loss_sum / position.weight_sum,
            **{f"validation_{name}": value for name, value in figures.items()},
            "seconds": seconds,
            "samples_per_second": samples / seconds,
        }
        if self.train.balance is not None:
            record["imbalance"] = self.train.imbalance.mean
        self.tracker.log("epoch", **record)
        if best:
            position.best_metric, position.best_epoch = metric, position.epoch
        position.history.append(
            {k: v for k, v in record.items() if k not in {"seconds", "samples_per_second", "imbalance"}}
        )
        position.epoch += 1
        position.samples_seen, position.loss_sum, position.weight_sum = 0, 0.0, 0.0
        self._save(best=best)

    def validate(self) -> dict[str, float]:
        """Metrics of the whole validation split; ranks share the work, every rank gets the same figures."""
        self.task.model.eval()
        parts: list[dict[str, Any]] = []
        with torch.no_grad():
            for batch in self.validation.sequential(max(64, self.config.global_batch_size)):
                parts.append({k: v.cpu().numpy() for k, v in self.task.validate(batch).items()})
        gathered = [part for rank in self.communicator.gather(parts) for part in rank]
        results = {name: np.concatenate([part[name] for part in gathered]) for name in gathered[0]}
        figures: dict[str, float] = self.task.metrics(results)
        return figures

    def _save(self, *, best: bool) -> None:
        if self.communicator.rank == 0:
            self.checkpoints.save(self._state(), self.trainer.steps, best=best)
        self.communicator.barrier()  # no rank runs ahead of what is safely on disk

    def _state(self) -> State:
        return {
            "model": self.task.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.trainer.optimizers],
            "step": self.trainer.steps,
            "position": vars(self.position),
            "identity": self.identity,
            "versions": {name: machine.package_version(name) for name in ("hpctrain", "torch", "numpy")},
        }

    def summary(self, samples: int, seconds: float) -> dict[str, Any]:
        """Headline figures; validation figures are those of the best epoch."""
        position = self.position
        best = position.history[position.best_epoch]
        return {
            "headline": f"validation AUC {best.get('validation_auc', float('nan')):.4f} after epoch {position.best_epoch + 1}",
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


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of what the model itself draws (dropout) in a step: the same after a resume, another on every rank."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))
