"""Asked to stop: SIGTERM, SIGUSR1 and SIGUSR2 become a request that work looks at where it can be left whole.

Batch systems warn before they kill. The C side of Python writes a signal into a pipe at once, and a thread reads it:
so a rank that waits for others inside a library hears the second signal too. NCCL may catch SIGUSR1: on GPUs ask
for SIGUSR2.
"""

import contextlib
import os
import select
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
GO_ON_LATER = os.EX_TEMPFAIL
"""Exit code of every process that was asked to stop and did (75): the same command goes on from there."""
_POLL_S = 0.2


class Request:
    """Whether this process has been asked to stop, by a signal or by a file. A second signal ends it at once."""

    def __init__(self) -> None:
        self.reason = ""
        """Which signal to whom; empty while nobody has asked."""
        self.who = f"process {os.getpid()}"
        self._file: Path | None = None
        self._signals = 0
        self._reader, writer = os.pipe()
        os.set_blocking(writer, False)
        for signum in STOP_SIGNALS:
            signal.signal(signum, lambda *_: None)
            signal.siginterrupt(signum, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, daemon=True, name="stop signals").start()
        # Those that came while this program was still being loaded are delivered now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def watch(self, file: Path, who: str) -> None:
        """Take the appearance of ``file`` as a request too: so hpctrain asks ranks, wherever they are."""
        self._file, self.who = file, who

    def _listen(self) -> None:
        while True:
            if select.select([self._reader], [], [], _POLL_S)[0]:
                for number in os.read(self._reader, 256):
                    if number in STOP_SIGNALS:
                        self._signals += 1
                        if self._signals > 1:
                            os._exit(GO_ON_LATER)
                        self.reason = self.reason or f"{signal.Signals(number).name} to {self.who}"
            elif not self.reason and self._file is not None:
                with contextlib.suppress(OSError):
                    self.reason = self._file.read_text().strip()


_request: Request | None = None


def listen() -> None:
    """Have signals and requests heard from here on; before any work, in the main thread."""
    global _request  # noqa: PLW0603 - a process has one set of signal handlers
    if _request is None:
        _request = Request()


def watch(file: Path, who: str) -> None:
    """``Request.watch`` of this process; nothing when it does not listen."""
    if _request is not None:
        _request.watch(file, who)


def requested() -> str:
    """Why this process was asked to stop; empty when it was not, or does not listen."""
    return "" if _request is None else _request.reason


def end_at_once() -> None:
    """For work that has no place to stop at: end now when asked already, and from now on at the first signal."""
    if _request is None:
        return
    if _request.reason:
        os._exit(GO_ON_LATER)
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_DFL)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Processes started inside begin with these signals held back until they ``listen``: none is lost or deadly."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Warned:
    """Counts the stop signals that reach this process while a ``with`` block runs; elsewhere they act as before."""

    def __init__(self) -> None:
        self.signals: list[str] = []
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for signum in STOP_SIGNALS:
                self._before[signum] = signal.signal(
                    signum, lambda number, _: self.signals.append(signal.Signals(number).name)
                )
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
