"""The work of a generation cut into chunks: each a process, a number of events and seeds of its own.

A chunk's result follows from the chunk alone, so it does not matter which worker makes it, when, or beside
how many others. Its fingerprint covers all that the result depends on: settings, seed, versions of the
generator and the text of our own simulation code.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import hpctrain.physics
from hpctrain.data.columns import Columns
from hpctrain.data.schema import Fields
from hpctrain.errors import UserError
from hpctrain.machine import package_version
from hpctrain.physics.generator import MAX_SEED, CrossSection
from hpctrain.physics.processes import Process

GENERATOR_PACKAGES = ("pythia8mc", "fastjet", "awkward", "numpy")


@dataclass(frozen=True)
class Settings(ABC):
    """What every chunk of a generation shares: its numbers as fields, and how a chunk is simulated.

    A subclass is a frozen dataclass of plain values; all of them enter the fingerprint.
    """

    seed: int
    """The experiment's."""

    @abstractmethod
    def fields(self) -> Fields:
        """Fields of a part. ``event_id`` is among them; label, weight and process come with the assembly."""

    @abstractmethod
    def simulate(self, chunk: Chunk) -> tuple[Columns, CrossSection]:
        """The chunk's rows that are kept, as ``fields`` says, and the cross section."""


@dataclass(frozen=True)
class Chunk:
    """One task: ``events`` events of ``process``."""

    index: int
    """Among all chunks of the generation; the upper half of ``event_id``."""
    number: int
    """Among the chunks of the process."""
    process: Process
    events: int
    settings: Settings

    @property
    def name(self) -> str:
        """Stem of the part's file name."""
        return f"{self.process.key.replace('=', '-')}-{self.number:06d}"

    @property
    def pythia_seed(self) -> int:
        """From (experiment seed, process, number): no two chunks of a process share one."""
        start = int(np.random.SeedSequence(self._entropy()).generate_state(1)[0])
        return 1 + (start + self.number) % MAX_SEED

    def random(self) -> np.random.Generator:
        """The random numbers of this chunk beside the generator's: detector, pileup."""
        return np.random.default_rng([*self._entropy(), self.number])

    def pool_seed(self) -> int:
        """Pythia's seed for the chunk's pool of pileup collisions, another one than that of its events."""
        entropy = [*self._entropy(), stable_hash("pileup"), self.number]
        return 1 + int(np.random.SeedSequence(entropy).generate_state(1)[0]) % MAX_SEED

    def event_ids(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """``event_id`` of events of this chunk by their number in it."""
        return (self.index << 32) + numbers.astype(np.int64)

    def _entropy(self) -> list[int]:
        return [self.settings.seed, stable_hash(self.process.key)]

    def fingerprint(self) -> str:
        """Hexadecimal digest of everything that this chunk's events depend on."""
        content = {
            "process": asdict(self.process),
            "index": self.index,
            "number": self.number,
            "events": self.events,
            "settings": asdict(self.settings),
            "versions": versions(),
            "code": _code_digest(type(self.settings)),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def stable_hash(text: str) -> int:
    """A 64-bit number that is the same in every Python process (``hash`` is not)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def plan(requests: Iterable[tuple[Process, int]], events_per_chunk: int, settings: Settings) -> list[Chunk]:
    """Chunks of at most ``events_per_chunk`` events and nearly equal size for (process, events) pairs.

    Raises ``UserError`` when a process stands twice: its events would be counted for one cross section
    each time.
    """
    chunks: list[Chunk] = []
    seen: set[str] = set()
    for process, events in requests:
        if process.key in seen:
            raise UserError(f"generate.processes: {process.key} stands twice", hint="add up its events")
        seen.add(process.key)
        count = -(-events // events_per_chunk)
        for number in range(count):
            size = events // count + (number < events % count)
            chunks.append(Chunk(len(chunks), number, process, size, settings))
    return chunks


@cache  # reading them takes milliseconds, and every chunk asks
def versions() -> dict[str, Any]:
    """Versions of hpctrain and of the packages that make events."""
    return {
        "hpctrain": hpctrain.__version__,
        **{name: package_version(name) for name in GENERATOR_PACKAGES},
    }


@cache
def _code_digest(settings: type[Settings]) -> str:
    """Digest of the source of physics/ and of the chunk simulation: parts of other code are not reused."""
    own = {
        Path(inspect.getfile(c)) for c in settings.__mro__ if issubclass(c, Settings) and c is not Settings
    }
    sources = [*sorted(Path(hpctrain.physics.__path__[0]).glob("*.py")), *sorted(own)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
