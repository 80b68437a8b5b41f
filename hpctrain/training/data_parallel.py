"""The training step of a run: synchronous data parallelism on all ranks, which may be stopped and killed anywhere."""

import time
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from hpctrain.config import AnyComponent, ComponentConfig, component, section
from hpctrain.parallel.communicator import Communicator
from hpctrain.registry import register
from hpctrain.run import RunDirectory
from hpctrain.track import Tracker
from hpctrain.training.epochs import Epochs
from hpctrain.training.precision import Name as PrecisionName
from hpctrain.training.schedules import Scaling
from hpctrain.training.session import Session

Below1 = Annotated[float, Field(gt=0, lt=1)]


@register("training")
class DataParallelTraining:
    """Synchronous data-parallel training: every rank holds the model and takes its share of each global batch."""

    stops_when_asked: ClassVar[bool] = True
    """A stop signal to any rank ends all of them at the next step, with a checkpoint."""

    class Config(ComponentConfig):
        speed_keys: ClassVar[frozenset[str]] = frozenset(
            {"keep", "checkpoint_steps", "hang_timeout_s", "channels_last", "compile"}
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
        schedule: Annotated[AnyComponent, component("schedules", "cosine")] = section("schedules", "cosine")
        """How the learning rate changes in the course of training."""
        learning_rate_scaling: Scaling = "none"
        """The learning rate grows with the batch: ``linear`` (SGD) or ``sqrt`` (Adam) in ``global_batch_size`` /
        ``reference_batch_size``."""
        reference_batch_size: PositiveInt | None = None
        """Batch that the learning rate was chosen for; needed to scale it."""
        clip_norm: PositiveFloat | None = None
        """Largest norm of the gradient; None leaves it."""
        average_decay: Below1 | None = None
        """Validate, and keep beside the weights, their moving average over steps with this decay (0.999, say); it is
        what later steps take. None takes the weights as they are."""
        gradients: Annotated[AnyComponent, component("gradients", "exact")] = section("gradients", "exact")
        """How gradients are summed over ranks."""
        precision: PrecisionName = "float32"
        """``bf16`` or ``fp16``: matrix products and convolutions with 16 bits, weights and sums with 32. Faster where
        the processor has such units; another result."""
        channels_last: bool = False
        """Images and filters with the channel as the fastest index in memory: often faster for convolutions."""
        compile: bool = False
        """Compile the network (torch.compile): a minute at the start, less overhead afterwards. Needs a C++ compiler
        on CPUs."""
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

        @model_validator(mode="after")
        def _fits(self) -> Self:
            if self.learning_rate_scaling != "none" and self.reference_batch_size is None:
                raise ValueError("learning_rate_scaling needs reference_batch_size")
            if self.precision == "fp16" and self.gradients.kind == "power_sgd":
                raise ValueError(
                    "gradients of fp16 change their scale, which power_sgd cannot follow; use bf16"
                )
            return self

    def __init__(self, config: Config) -> None:
        self.config = config

    def run(self, run: RunDirectory, tracker: Tracker, communicator: Communicator) -> dict[str, Any]:
        """Train to the end or from the last checkpoint to the end; returns the summary of the step.

        Raises ``Stopped``, on every rank, when one of them was asked to stop.
        """
        session = Session(self.config, run, tracker, communicator)
        session.resume()
        started = time.monotonic()
        with session.saver, session.watchdog:
            samples = Epochs(session).fit()
        return session.summary(samples, time.monotonic() - started)
