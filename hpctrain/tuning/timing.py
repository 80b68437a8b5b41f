"""One rank of a measurement: the training step of a run, again and again on batches that are in memory."""

import time
from pathlib import Path
from typing import Any

import torch
from pydantic import PositiveFloat, PositiveInt

from hpctrain.data.batches import Batch
from hpctrain.parallel.communicator import Communicator
from hpctrain.run import RunDirectory
from hpctrain.section import Section, read_yaml
from hpctrain.steps import Step
from hpctrain.track import Tracker
from hpctrain.training.position import Drawn, seed_generators
from hpctrain.training.session import Session

TUNE = Step("tune", "Tune", ("launch",), (), (), parallel=True)
"""What the launcher starts ranks for; no step of a run."""


class Stretches(Section):
    """How long is measured."""

    warmup_steps: PositiveInt = 3
    """Steps that are not counted, after the first."""
    stretches: PositiveInt = 5
    seconds: PositiveFloat = 1.5
    """Of all stretches together."""
    batches: PositiveInt = 8
    """Most batches kept in memory; gone through in turn."""

    @staticmethod
    def path(run: RunDirectory) -> Path:
        """Where a run that is only measured has them."""
        return run.path / "stretches.yaml"


class Timing:
    """Steps a training that leaves nothing, and takes the time."""

    def run(self, run: RunDirectory, tracker: Tracker, communicator: Communicator) -> dict[str, Any]:
        """Samples a second of each stretch, the same on every rank (by the clock of rank 0)."""
        asked = Stretches.model_validate(read_yaml(Stretches.path(run)))
        session = Session(run.experiment.training, run, tracker, communicator)  # type: ignore[arg-type]
        batches = self._batches(session, asked.batches)
        seed_generators(session.seed, 0, communicator.rank, Drawn.EPOCH)
        session.task.start_epoch(0)
        session.task.model.train()
        first = self._steps(session, batches, 1)
        warm = self._steps(session, batches, asked.warmup_steps)
        each = asked.seconds / asked.stretches
        steps = max(1, round(each / (warm / asked.warmup_steps)))
        steps = communicator.gather(steps)[0]
        size = sum(n for _, n in batches) / len(batches)
        rates = [steps * size / self._steps(session, batches, steps) for _ in range(asked.stretches)]
        return {
            "rates": communicator.gather(rates)[0],
            "first_step_s": first,
            "threads": torch.get_num_threads(),
        }

    @staticmethod
    def _batches(session: Session, most: int) -> list[tuple[Batch, int]]:
        """This rank's shares of the first global batches, with the sizes of those; the last one, which may be
        smaller, only when it is the only one."""
        order = session.order
        number = min(most, max(1, order.batches - 1))
        shares = session.train.epoch(order, 0)
        return [(next(shares), order.batch_size(k)) for k in range(number)]

    @staticmethod
    def _steps(session: Session, batches: list[tuple[Batch, int]], steps: int) -> float:
        """Seconds that so many steps take, from when every rank is here."""
        session.communicator.barrier()
        started = time.perf_counter()
        for _ in range(steps):
            session.trainer.step(batches[session.trainer.steps % len(batches)][0])
        return time.perf_counter() - started
