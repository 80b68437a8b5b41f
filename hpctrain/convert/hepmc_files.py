"""Reading HepMC ASCII files, plain or compressed, event by event through pyhepmc (HepMC3, arXiv:1912.08005)."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

from hpctrain.convert.one_file import DAMAGED
from hpctrain.errors import UserError

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
GZIP_MAGIC = b"\x1f\x8b"
BEGIN = b"HepMC::Asciiv3-START_EVENT_LISTING"
NEXT = b"\nE "
BEGINS = re.compile(rb"^E ", re.MULTILINE)
EVENT = re.compile(rb"E -?\d+ \d+ (\d+)[\s@]")
"""First line of an event: its number, vertices, particles."""
NUMBER = rb" [-+]?(?:\d[\d.]*(?:[eE][-+]?\d+)?|nan|inf|NAN|INF)"
"""NaN and infinity are for whoever reads the events to judge."""
LINES = {
    "particle": (b"P", re.compile(rb"^P \d+ -?\d+ -?\d+(?:" + NUMBER + rb"){5} -?\d+\r?\n", re.MULTILINE)),
    "vertex": (
        b"V",
        re.compile(rb"^V -\d+ -?\d+ \[[-\d,]*\](?: @(?:" + NUMBER + rb"){4})?\r?\n", re.MULTILINE),
    ),
    "unit": (b"U", re.compile(rb"^U (?:GEV|MEV) (?:MM|CM)\r?\n", re.MULTILINE)),
}
"""Lines that pyhepmc would take for others when they are damaged: zeros for letters, the usual units for unknown ones."""
BUFFER = 2**16
DAMAGES = (OSError, EOFError, zlib.error)
"""What decompressing damaged data raises."""


class HepMcInput:
    """The events of one file. Use in ``with``, iterate once.

    Every event that the file begins is given, or an error is raised.
    """

    def __init__(self, path: Path) -> None:
        import pyhepmc

        self.path = path
        self.events = 0
        self._raw: IO[bytes] = path.open("rb")
        self._size = path.stat().st_size
        self._text = _WholeEvents(_decompressed(self._raw, path))
        try:
            start = self._text.peek()
        except DAMAGES as error:
            self._raw.close()
            raise self._damaged(error) from error
        if BEGIN not in start:
            self._raw.close()
            what = "HepMC2" if b"HepMC::IO_GenEvent" in start else "no HepMC3 ASCII"
            raise UserError(
                f"{path} is {what}",
                hint="HepMC3 in ASCII, plain, .gz or .zst, is read; HepMC3's convert_example makes it of other kinds",
            )
        # What is wrong is said here, in one line.
        pyhepmc.Setup.print_errors = pyhepmc.Setup.print_warnings = False
        pyhepmc.Setup.debug_level = 0
        stream = pyhepmc.io.pyiostream(self._text, BUFFER)
        self._reader = pyhepmc.io.ReaderAscii(stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()
        self._raw.close()

    def __iter__(self) -> Iterator[Any]:
        """pyhepmc.GenEvent after GenEvent. Raises ``UserError`` when the file is damaged or not whole."""
        while (event := self._reader.read()) is not None:
            self.events += 1
            yield event
        self._text.drain()
        if self._text.error is not None:
            raise self._damaged(self._text.error) from self._text.error
        if self._text.passed != self.events:
            raise UserError(
                f"{self.path}: event {self.events} (of {self._text.passed}) cannot be read", hint=DAMAGED
            )

    @property
    def progress(self) -> float:
        """Part of the file that is read, 0 to 1."""
        return min(1.0, self._raw.tell() / self._size)

    def _damaged(self, error: Exception) -> UserError:
        count = f"{self.events} event{'' if self.events == 1 else 's'}"
        return UserError(
            f"{self.path} is damaged after {count}: {' '.join(str(error).split())}",
            hint=DAMAGED,
        )


def _decompressed(raw: IO[bytes], path: Path) -> Any:
    """A readable stream of the text, by what the first bytes say."""
    magic = raw.read(4)
    raw.seek(0)
    if magic == ZSTD_MAGIC:
        return _Zstd(raw, path)
    return gzip.GzipFile(fileobj=raw) if magic[:2] == GZIP_MAGIC else raw


class _Zstd:
    """Zstandard frames, one after the other; python-zstandard's own reader takes a cut frame for a whole one."""

    def __init__(self, raw: IO[bytes], path: Path) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise UserError(f"reading {path} needs zstandard", hint="pip install 'hpctrain[data]'") from error
        self._raw = raw
        self._decompressor = zstandard.ZstdDecompressor()
        self._error = zstandard.ZstdError
        self._frame: Any = None
        self._text = b""

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, none at the end. Raises ``EOFError`` when the last frame is cut."""
        while not self._text:
            block = self._raw.read(BUFFER)
            if not block:
                if self._frame is not None:
                    raise EOFError("the compressed data end early")
                return b""
            while block:
                self._frame = self._frame or self._decompressor.decompressobj()
                try:
                    self._text += self._frame.decompress(block)
                except self._error as error:
                    raise OSError(str(error)) from error
                block = b""
                if self._frame.eof:
                    block, self._frame = self._frame.unused_data, None
        data, self._text = self._text[:size], self._text[size:]
        return data


class _WholeEvents(io.RawIOBase):
    """Passes the text on event by event, each only when it has as many particles as its first line says.

    So pyhepmc, which takes damage for the end of the file and complains about it elsewhere, never sees it.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream
        self._ready = b""
        self._pending = b""
        self._ended = False
        self.passed = 0
        """Events passed on."""
        self.error: Exception | None = None

    def peek(self, size: int = 256) -> bytes:
        """The first bytes, which will be read again."""
        while len(self._pending) < size and (more := self._stream.read(size - len(self._pending))):
            self._pending += more
        return self._pending

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer; less only at the end, which is what pyhepmc takes less for."""
        while len(self._ready) < len(buffer) and not self._ended:
            self._advance()
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def drain(self) -> None:
        """Read what is left."""
        while not self._ended:
            self._advance()
            self._ready = b""

    def _advance(self) -> None:
        try:
            more = self._stream.read(BUFFER)
        except DAMAGES as error:
            self.error, self._ended = error, True
            return
        known = max(0, len(self._pending) - len(NEXT))
        self._pending += more
        self._ended = not more
        end = len(self._pending) if self._ended else self._pending.rfind(NEXT, known) + 1
        if end <= 0:
            return
        whole, self._pending = self._pending[:end], self._pending[end:]
        starts = [match.start() for match in BEGINS.finditer(whole)]
        for start, stop in zip(starts, [*starts[1:], len(whole)], strict=True):
            problem = _problem(whole[start:stop])
            if problem:
                self.error = EOFError(f"the next event has {problem}")
                self._ended = True
                whole = whole[:start]
                break
            self.passed += 1
        self._ready += whole


def _problem(event: bytes) -> str:
    """What is wrong with the text of an event; empty when nothing is."""
    first = EVENT.match(event)
    if first is None:
        return "a first line without numbers of vertices and particles"
    declared, found = int(first[1]), event.count(b"\nP ")
    if found != declared:
        return f"{found} of its {declared} particles"
    for name, (letter, line) in LINES.items():
        wrong = event.count(b"\n" + letter + b" ") - len(line.findall(event))
        if wrong:
            return f"{wrong} damaged {name} line{'s' if wrong > 1 else ''}"
    return ""
