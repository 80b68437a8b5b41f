"""A trained task back from a run directory."""

from typing import Any, Literal

from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError
from hpctrain.run import RunDirectory
from hpctrain.training.checkpoint import Checkpoints, weights


def load_task(run: RunDirectory, checkpoint: Literal["best", "last"] = "best") -> Any:
    """The run's task with the weights of a checkpoint, in evaluation mode. Raises ``UserError``."""
    task = run.experiment.task.build()
    task.prepare(ShardDataset.open(run.data / "train"), run.experiment.seed)
    checkpoints = Checkpoints(run.checkpoints)
    state = checkpoints.best() if checkpoint == "best" else checkpoints.latest()
    if state is None:
        raise UserError(
            f"no checkpoint in {run.checkpoints}", hint=f"Train first: `hpctrain train {run.path}`"
        )
    try:
        task.model.load_state_dict(weights(state))
    except RuntimeError as error:
        raise UserError(
            f"the checkpoint in {run.checkpoints} is of another network than {run.config_path} describes",
            hint=f"Train again: `hpctrain train {run.path} --force`",
        ) from error
    task.model.eval()
    return task
