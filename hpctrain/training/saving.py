"""Checkpoints written beside the training: the state is copied at the step, a thread does the rest."""

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import torch

from hpctrain.training.checkpoint import Checkpoints, State


class Saver:
    """Writes checkpoints in order, one at a time; used as a ``with`` block, which ends when the last is on disk.

    An error of writing is raised by the next ``check`` or ``save``, or at the end.
    """

    def __init__(self, checkpoints: Checkpoints, *, active: bool, saved: int = 0) -> None:
        self.checkpoints = checkpoints
        self.active = active
        """Whether this rank writes."""
        self.saved = saved
        """Step of the newest checkpoint that was given or is there."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Any] | None = None

    def save(self, state: State, step: int, *, best: bool = False) -> None:
        """Take a copy of ``state`` and have it written; waits for the one before. Raises ``UserError`` of that one."""
        self.saved = step
        if not self.active:
            return
        self.wait()
        self._writing = self._thread.submit(self.checkpoints.save, copied(state), step, best=best)

    def check(self) -> None:
        """Raise the ``UserError`` of a write that failed; waits for nothing."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Wait until what was given is on disk. Raises ``UserError``."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)
        if kind is None:  # else there is something worse to tell
            self.wait()


def copied(state: Any) -> Any:
    """A copy that training does not touch any more: tensors in host memory, containers anew."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(copied(item) for item in state)
    return state
