"""What goes wrong on one rank is said on all of them, so that none waits for one that has given up."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpctrain.errors import InternalError, UserError
from hpctrain.files import as_user_error
from hpctrain.parallel.communicator import Communicator


@contextmanager
def together(communicator: Communicator) -> Iterator[None]:
    """Every rank goes through the block; if it fails on some, all raise what failed on the first of them.

    The block may use collective operations only where no rank can have failed before. A rank whose own error
    is not a user's mistake raises that error itself, with its traceback.
    """
    problem: Exception | None = None
    try:
        yield
    except Exception as error:  # noqa: BLE001 - raised again below
        problem = error
    told = [error for error in communicator.gather(_told(problem, communicator.rank)) if error is not None]
    if problem is not None and not isinstance(problem, UserError | OSError):
        raise problem
    if told:
        raise told[0] from problem


def _told(problem: Exception | None, rank: int) -> UserError | None:
    """The error as it travels to the other ranks."""
    if problem is None or isinstance(problem, UserError):
        return problem
    if isinstance(problem, OSError):
        return as_user_error(problem, Path(problem.filename or "."))
    return InternalError(f"rank {rank}: {type(problem).__name__}: {problem}")
