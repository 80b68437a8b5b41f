"""Parts of a generation that was stopped: found whole, in order, by any number of threads."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hpctrain import machine
from hpctrain.data.columns import Columns
from hpctrain.data.schema import DenseField, Fields
from hpctrain.ingest import parts
from hpctrain.ingest.chunks import Chunk, Settings, plan
from hpctrain.ingest.parts import Part, find_part, find_parts, make_part
from hpctrain.physics.generator import CrossSection
from hpctrain.physics.processes import Process


@dataclass(frozen=True)
class ToySettings(Settings):
    """One number an event."""

    def fields(self) -> Fields:
        return {"x": DenseField(), "event_id": DenseField(dtype="int64")}

    def simulate(self, chunk: Chunk) -> tuple[Columns, CrossSection]:
        rows = np.arange(chunk.events)
        x = chunk.random().random(chunk.events, dtype=np.float32)
        return {"x": x, "event_id": chunk.event_ids(rows)}, CrossSection(1e-12, 1e-13, chunk.events)


@pytest.fixture
def chunks() -> list[Chunk]:
    """Twenty."""
    return plan([(Process("toy", "toy", False, ()), 100)], 5, ToySettings(seed=1))


@pytest.fixture
def made(chunks: list[Chunk], tmp_path: Path) -> dict[int, Part]:
    """The parts of all but every fifth."""
    return {chunk.index: make_part(chunk, tmp_path) for chunk in chunks if chunk.index % 5}


@pytest.mark.parametrize("cores", [1, 6, 100])
def test_any_number_of_threads_finds_the_same(
    chunks: list[Chunk], made: dict[int, Part], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: cores)
    seen: list[tuple[int, int]] = []
    threads: set[int] = set()

    def late_first(chunk: Chunk, folder: Path) -> Part | None:
        threads.add(threading.get_ident())
        time.sleep(0.002 * (20 - chunk.index))  # the last are done first
        return find_part(chunk, folder)

    monkeypatch.setattr(parts, "find_part", late_first)
    found = find_parts(chunks, tmp_path, lambda done, of: seen.append((done, of)))
    assert found == made
    assert list(found) == list(made)
    assert seen == [(n, 20) for n in range(1, 21)]
    assert (1 if cores == 1 else 2) <= len(threads) <= min(cores, parts.THREADS)


def test_a_damaged_part_is_not_found(chunks: list[Chunk], made: dict[int, Part], tmp_path: Path) -> None:
    content = bytearray((tmp_path / made[7].file).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / made[7].file).write_bytes(content)
    (tmp_path / made[8].file).unlink()
    (tmp_path / made[9].file).with_suffix(".json").write_text('{"file"')
    found = find_parts(chunks, tmp_path)
    assert list(found) == [index for index in made if index not in {7, 8, 9}]


def test_where_there_are_none_nothing_is_looked_at(chunks: list[Chunk], tmp_path: Path) -> None:
    assert find_parts(chunks, tmp_path, lambda *_: pytest.fail("nothing to check")) == {}
    assert find_parts(chunks, tmp_path / "nosuch") == {}


def test_an_interruption_does_not_wait_for_all(
    chunks: list[Chunk], made: dict[int, Part], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 2)
    looked: list[int] = []
    monkeypatch.setattr(
        parts, "find_part", lambda chunk, folder: (looked.append(chunk.index), time.sleep(0.05))
    )

    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_parts(chunks, tmp_path, interrupt)
    assert len(looked) < len(chunks)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("parts")]
