"""The training step of a run: synchronous data parallelism on all ranks, which may be stopped and killed anywhere."""

import time
from typing import Annotated, Any, ClassVar, Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from hpctrain.config import AnyComponent, ComponentConfig, component, section
from hpctrain.parallel.communicator import Communicator
from hpctrain.registry import register
from hpctrain.run import RunDirectory
from hpctrain.track import Tracker
from hpctrain.training.epochs import Epochs
from hpctrain.training.session import Session


@register("training")
class DataParallelTraining:
    """Synchronous data-parallel training: every rank holds the model and takes its share of each global batch."""

    stops_when_asked: ClassVar[bool] = True
    """A stop signal to any rank ends all of them at the next step, with a checkpoint."""

    class Config(ComponentConfig):
        speed_keys: ClassVar[frozenset[str]] = frozenset(
            {"keep", "checkpoint_steps", "hang_timeout_s", "insight"}
        )
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
        hang_timeout_s: PositiveFloat | None = 240.0
        """A rank that waits longer than this for others ends the job and names them; None waits for ever. Keep it
        below the engine's own timeout (gloo: ``timeout_s``), which cannot name anyone."""
        insight: bool = True
        """Say where the time of each epoch goes, its MFU and its energy; measuring the peak takes 0.3 s at the start."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def run(self, run: RunDirectory, tracker: Tracker, communicator: Communicator) -> dict[str, Any]:
        """Train to the end or from the last checkpoint to the end; returns the summary of the step.

        Raises ``Stopped``, on every rank, when one of them was asked to stop.
        """
        session = Session(self.config, run, tracker, communicator)
        session.resume()
        started = time.monotonic()
        with session.watchdog.meeting("the measuring of the peak"):
            share = -(-self.config.global_batch_size // communicator.size)
            session.insight.measure(
                session.trainer.phases, session.task.model, session.train,
                at_once=min(share, self.config.micro_batch_size or share), warn=tracker.warn,
            )  # fmt: skip
        with session.saver, session.watchdog, session.insight, session.trace:
            samples = Epochs(session).fit()
        summary = session.summary(samples, time.monotonic() - started)
        return {**summary, **session.insight.summary(), **session.trace.tell(tracker.warn)}
