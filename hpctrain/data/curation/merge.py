"""Datasets joined into one: shards are linked under new names, no event is read or written again."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hpctrain.data.curation.provenance import join, join_scale
from hpctrain.data.curation.whole_directory import whole_directory
from hpctrain.data.schema import DatasetInfo, Fields, ShardInfo
from hpctrain.data.shard_file import CURE, ShardFile
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError
from hpctrain.files import as_user_error, write_json

Progress = Callable[[int, int], None]
"""Told how much is done, of how much."""

_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP}
"""Answers of a file system that cannot link this file here; it is copied then."""
_PIECE = 2**22


def merge(
    parts: Sequence[Path],
    output: Path,
    *,
    copy: bool = False,
    progress: Progress = lambda done, total: None,
    warn: Callable[[str], None] = lambda line: None,
) -> DatasetInfo:
    """Join datasets of the same fields into one at ``output``, their events one after the other.

    Shards are hard links to the parts' files, which may be deleted afterwards; ``copy`` (or another file system)
    copies them instead, held to their SHA-256. ``output`` appears whole or not at all. Memory: what the
    ``dataset.json`` of the parts hold. ``warn`` is told of each scale constant that differs between the parts and
    is left out. Raises ``UserError`` when fields differ, an event would be in twice, a shard is not what its dataset
    says, or the disk is full.
    """
    opened = [(str(part), ShardDataset.open(part).info) for part in parts]
    _check_fields(opened)
    _check_repeats(parts, opened)
    provenance = join(opened)
    scale, differ = join_scale(opened)
    fields = opened[0][1].fields
    shards: list[ShardInfo] = []
    total = sum(len(info.shards) for _, info in opened)
    with whole_directory(output) as folder:
        for part, (_, info) in zip(parts, opened, strict=True):
            for shard in info.shards:
                name = f"shard-{len(shards):05d}.h5"
                _place(part / shard.file, folder / name, fields, shard, copy=copy)
                shards.append(shard.model_copy(update={"file": name}))
                progress(len(shards), total)
        merged = DatasetInfo(
            events=sum(shard.events for shard in shards),
            fields=fields,
            shards=tuple(shards),
            provenance=provenance,
            scale=scale,
        )
        write_json(folder / "dataset.json", merged.model_dump(mode="json"))
    for line in differ:
        warn(line)
    return merged


def _check_fields(opened: Sequence[tuple[str, DatasetInfo]]) -> None:
    first, reference = opened[0]
    for part, info in opened[1:]:
        for name in [*reference.fields, *(n for n in info.fields if n not in reference.fields)]:
            ours, theirs = reference.fields.get(name), info.fields.get(name)
            if ours != theirs:
                raise UserError(
                    f"field '{name}' is {_describe(ours)} in {first} and {_describe(theirs)} in {part}",
                    hint="Only datasets of the same fields can be joined: convert or generate both alike",
                )


def _describe(field: Any) -> str:
    if field is None:
        return "missing"
    features = f" ({', '.join(field.features)})" if field.features else ""
    return f"{field.kind} {field.dtype}{list(field.shape)}{features}"


def _check_repeats(parts: Sequence[Path], opened: Sequence[tuple[str, DatasetInfo]]) -> None:
    """Events that are in twice would be counted twice, and might lie in training and test at once."""
    places: dict[str, int] = {}
    for number, (path, (part, info)) in enumerate(zip(parts, opened, strict=True)):
        for content in {str(path.resolve()), *(shard.sha256 for shard in info.shards)}:
            other = places.setdefault(content, number)
            if other != number:
                raise UserError(
                    f"{part} holds events that {opened[other][0]} holds, too", hint="Name each part once"
                )


def _place(source: Path, target: Path, fields: Fields, shard: ShardInfo, *, copy: bool) -> None:
    ShardFile(
        source, fields, shard
    ).close()  # is it the file that the dataset means? Its table of checksums says
    if not copy:
        try:
            os.link(source.resolve(), target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise as_user_error(error, target) from error
        else:
            return
    _copy(source, target, shard)


def _copy(source: Path, target: Path, shard: ShardInfo) -> None:
    found = hashlib.sha256()
    try:
        with target.open("wb") as out:
            for piece in _pieces(source):
                found.update(piece)
                out.write(piece)
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            target.unlink()
        raise as_user_error(error, target, shard.bytes) from error
    if found.hexdigest() != shard.sha256:
        raise UserError(f"shard {source} is not what was written: its SHA-256 differs", hint=CURE)


def _pieces(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb", buffering=0) as stream:
            while piece := stream.read(_PIECE):
                yield piece
    except OSError as error:
        raise UserError(f"cannot read shard {path}: {error.strerror}", hint=CURE) from error
