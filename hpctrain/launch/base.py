"""What the pipeline knows of a launcher: it starts the ranks of a step and says how they ended."""

from pathlib import Path
from typing import Protocol

from hpctrain.config import ComponentConfig


class Job(Protocol):
    """The running processes of one step."""

    def poll(self) -> int | None:
        """Exit code when all have ended (0: every rank succeeded; ``stopping.GO_ON_LATER``: they stopped as asked),
        None while they run."""
        ...

    def stop(self) -> None:
        """End every process: politely, then not."""
        ...

    def killed_by(self) -> int | None:
        """After a failure: the signal from outside that killed a rank; None when none did."""
        ...

    def obituary(self) -> str:
        """Who ended the job and how, in a few words, after a failure that no rank could report itself."""
        ...


class Launcher(Protocol):
    """Starts ``python -m hpctrain …`` on one or several ranks."""

    ranks: int
    engine: ComponentConfig
    """How the ranks talk to each other."""

    def check(self, *, parallel: bool) -> None:
        """Raise ``UserError`` when ranks cannot be started here; nothing is started."""
        ...

    def start(self, arguments: list[str], log: Path, *, parallel: bool) -> Job:
        """Start all ranks (one process unless ``parallel``); what they print goes to ``log``."""
        ...
