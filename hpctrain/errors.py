"""What may go wrong, in the user's words."""


class HpctrainError(Exception):
    """Base of every error this package raises on purpose."""


class UserError(HpctrainError):
    """A mistake or a missing thing that the user can cure: shown as one line, exit code 2, no traceback.

    ``message`` says what is wrong and where (file, key, dataset); ``hint`` says how to cure it.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        if not self.hint:
            return self.message
        end = "" if self.message.endswith("?") else "."
        return f"{self.message.rstrip('.')}{end} {self.hint}"

    def __reduce__(self) -> tuple[object, ...]:
        # Errors travel between processes (ranks, Dask workers); keyword arguments need this to survive pickling.
        return _rebuild, (type(self), self.message, self.hint)


class InternalError(UserError):
    """A mistake of ours: shown as one line with the log that has the traceback, exit code 1."""


class LostRank(UserError):
    """A rank died or hung: nobody's mistake, so the same may be tried again. Shown as one line, exit code 2."""


class InUse(UserError):
    """Another hpctrain works in the same directory."""


class Stopped(HpctrainError):
    """Work was asked to stop (a signal) and was left whole: one line, exit code ``stopping.GO_ON_LATER``."""


def _rebuild(cls: type[UserError], message: str, hint: str) -> UserError:
    return cls(message, hint=hint)
