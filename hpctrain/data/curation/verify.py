"""Is a dataset what was written? Every byte, every checksum, every rule of the format; all that is wrong."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hpctrain.data.checksums import BLOCK_ROWS
from hpctrain.data.schema import DatasetInfo, Fields, ShardInfo
from hpctrain.data.shard_file import CURE, ShardFile
from hpctrain.errors import UserError

_PIECE = 2**24
"""Bytes that are in memory at once, about."""
Progress = Callable[[int, int], None]
"""Told how many bytes were gone through, of how many: each shard once for its SHA-256 and once for its contents."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: in which file, what, and how to cure it."""

    path: Path
    what: str
    cure: str


def verify(directory: Path, progress: Progress = lambda done, total: None) -> list[Problem]:
    """Everything wrong with the dataset; an empty list when it is whole.

    Each shard is held to its size and SHA-256, and its events, through ``ShardFile`` as training reads them, to
    the digest, the checksum of every block, the schema, the rules of offsets and indices, and to finite numbers.
    After the first thing that is wrong the search goes on. Files that are named like
    shards, but not in ``dataset.json``, are told, too. Memory: some 16 MiB.
    """
    try:
        info = DatasetInfo.read(directory)
    except UserError as error:
        return [Problem(directory / "dataset.json", error.message, error.hint)]
    problems: list[Problem] = []
    seen = _Counter(progress, 2 * sum(shard.bytes for shard in info.shards))
    names: set[str] = set()
    for shard in info.shards:
        path = directory / shard.file
        found = list(_of_shard(path, info.fields, shard, seen))
        if shard.file in names:
            found.append("stands twice in dataset.json: its events would be counted twice")
        names.add(shard.file)
        problems += [Problem(path, what, CURE) for what in found]
    return problems + [
        Problem(path, "dataset.json does not name it: no event of it is read", "Delete it, or move it away")
        for path in sorted(directory.glob("shard-*.h5"))
        if path.name not in names
    ]


class _Counter:
    """Adds up what was gone through."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, more: int) -> None:
        self._done += more
        self._progress(self._done, self._total)


def _of_shard(path: Path, fields: Fields, shard: ShardInfo, seen: Callable[[int], None]) -> Iterator[str]:
    """What is wrong with one shard, in words that need no path."""
    try:
        size = path.stat().st_size
        if size != shard.bytes:
            yield f"has {size} bytes, {shard.bytes} were written"
            seen(2 * shard.bytes)
            return
        same = _sha256(path, seen) == shard.sha256
    except OSError as error:
        yield "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        seen(2 * shard.bytes)
        return
    inside = list(_of_contents(path, fields, shard, seen))
    yield from inside
    if not same and not inside:
        yield "its SHA-256 differs, though every event in it is as it was written"


def _sha256(path: Path, seen: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
            seen(len(piece))
    return digest.hexdigest()


def _of_contents(path: Path, fields: Fields, shard: ShardInfo, seen: Callable[[int], None]) -> Iterator[str]:
    try:
        file = ShardFile(path, fields, shard)
    except UserError as error:
        yield _without(error, path)
        seen(shard.bytes)
        return
    rows = max(1, _PIECE * shard.events // max(1, shard.bytes) // BLOCK_ROWS) * BLOCK_ROWS
    try:
        for name in fields:
            found: dict[str, None] = {}
            for start in range(0, shard.events, rows):
                try:
                    file.read(start, min(start + rows, shard.events), [name])
                except UserError as error:
                    found[_without(error, path)] = None
            yield from _first_of(list(found))
            seen(shard.bytes // len(fields))
    finally:
        file.close()


def _first_of(found: list[str]) -> Iterator[str]:
    """A whole array that is wrong would fill the screen: the first place stands for the others."""
    if found:
        more = f", and {len(found) - 1} more places of this field" if len(found) > 1 else ""
        yield f"{found[0]}{more}"


def _without(error: UserError, path: Path) -> str:
    """The message less the path, which is told beside it."""
    return error.message.removeprefix(f"shard {path}").lstrip(": ")
