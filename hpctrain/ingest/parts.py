"""One chunk from generator to disk: what a worker does, and what it leaves."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpctrain import machine
from hpctrain.data.columns import count
from hpctrain.data.schema import ShardInfo
from hpctrain.data.shard_file import same_file, write_shard
from hpctrain.errors import UserError
from hpctrain.files import read_json, write_json
from hpctrain.ingest.chunks import Chunk
from hpctrain.physics.generator import CrossSection

THREADS = 8
"""Parts checked at once, at most: a checksum keeps a core busy, outside of Python's lock."""


@dataclass(frozen=True)
class Part:
    """What a finished chunk left: a shard of the rows that are kept, and these numbers."""

    file: str
    fingerprint: str
    generated: int
    """Events."""
    preselected: int
    """Rows of the shard: events, or jets where each is a row of its own."""
    selected: int
    """Of these, by the field ``selected`` where there is one; else all."""
    cross_section: CrossSection
    wall_s: float
    peak_memory_bytes: int
    """Of the worker, when the chunk was finished."""
    shard: ShardInfo


def make_part(chunk: Chunk, folder: Path) -> Part:
    """Simulate a chunk and write it to ``folder``: the shard first, then the record that makes it whole.

    Raises ``UserError`` when the disk is full.
    """
    started = time.perf_counter()
    columns, cross_section = chunk.settings.simulate(chunk)
    shard = write_shard(folder / f"{chunk.name}.h5", chunk.settings.fields(), columns)
    selected: Any = columns.get("selected")
    part = Part(
        file=shard.file,
        fingerprint=chunk.fingerprint(),
        generated=chunk.events,
        preselected=shard.events,
        selected=count(columns) if selected is None else int(selected.sum()),
        cross_section=cross_section,
        wall_s=time.perf_counter() - started,
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        shard=shard,
    )
    write_json(folder / f"{chunk.name}.json", {**asdict(part), "shard": shard.model_dump(mode="json")})
    return part


def find_part(chunk: Chunk, folder: Path) -> Part | None:
    """The part of exactly this chunk if ``folder`` holds it whole, else None: it is then made again."""
    try:
        record = read_json(folder / f"{chunk.name}.json")
        if record is None or record["fingerprint"] != chunk.fingerprint():
            return None
        shard = ShardInfo.model_validate(record.pop("shard"))
        part = Part(**{**record, "cross_section": CrossSection(**record["cross_section"]), "shard": shard})
        if not same_file(folder / part.file, shard):
            return None
    except (UserError, KeyError, TypeError, ValueError):
        return None
    return part


def find_parts(
    chunks: Sequence[Chunk], folder: Path, progress: Callable[[int, int], None] = lambda done, of: None
) -> dict[int, Part]:
    """``find_part`` of every chunk, by the chunk's index and in the order of ``chunks``; those not whole are left out.

    ``progress`` hears how many chunks were looked at, of how many; never where ``folder`` holds no part at all.
    """
    if next(folder.glob("*.json"), None) is None:
        return {}
    pool = ThreadPoolExecutor(min(THREADS, machine.cores()), thread_name_prefix="parts")
    found = {}
    try:
        for number, part in enumerate(pool.map(lambda chunk: find_part(chunk, folder), chunks)):
            if part is not None:
                found[chunks[number].index] = part
            progress(number + 1, len(chunks))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for thousands
    return found
