"""One dataset copied into one folder: only what is missing, each shard whole or not at all, checked on the way."""

import contextlib
import fcntl
import hashlib
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import IO, TypeVar

from hpctrain import machine
from hpctrain.data.schema import DatasetInfo, ShardInfo
from hpctrain.data.shard_file import CURE, same_file
from hpctrain.errors import UserError
from hpctrain.files import as_user_error

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Told (bytes that are in place, bytes in all), from threads, one at a time."""

COPY_BYTES = 2**23
THREADS = 4
"""Shards copied at once: checksums keep a core busy, parallel file systems like several readers."""


class Stopped(Exception):
    """Another shard failed, or nobody waits for the copy any more."""


class ShardCopy:
    """One dataset on its way into one folder."""

    def __init__(
        self, source: Path, info: DatasetInfo, content: bytes, target: Path, progress: Progress | None
    ) -> None:
        self.source = source
        self.info = info
        self.content = content
        self.target = target
        self.stopped = threading.Event()
        self._host = socket.gethostname()
        self._progress = progress
        self._total = sum(shard.bytes for shard in info.shards)
        self._done = 0
        self._counting = threading.Lock()

    def make(self) -> None:
        """Bring every shard into place, then ``dataset.json``."""
        with self._alone(), ThreadPoolExecutor(min(THREADS, machine.cores())) as pool:
            right = self._each(pool, self._is_there, self.info.shards)
            missing = [shard for shard, there in zip(self.info.shards, right, strict=True) if not there]
            self._require_room([shard.bytes for shard in missing])
            self._each(pool, self._copy, missing)
            if not _holds(self.target / "dataset.json", self.content):
                with self._writing("dataset.json", len(self.content)) as stream:
                    stream.write(self.content)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait for other jobs that stage into this folder; clear away what a killed one left half done."""
        with (self.target / ".lock").open("a") as stream:
            while (alone := _locked(stream)) is False:
                if self.stopped.wait(0.2):
                    raise Stopped
            if alone:
                for left in self.target.glob(f".*.{self._host}.*.part"):
                    left.unlink(missing_ok=True)
            yield

    def _each(
        self, pool: ThreadPoolExecutor, action: Callable[[ShardInfo], T], shards: Sequence[ShardInfo]
    ) -> list[T]:
        """What ``action`` returns for each shard; the first that fails ends them all."""
        futures = [pool.submit(action, shard) for shard in shards]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            self.stopped.set()
            for future in futures:
                future.cancel()
            raise
        return [future.result() for future in futures]

    def _is_there(self, shard: ShardInfo) -> bool:
        there = same_file(self.target / shard.file, shard)
        if there:
            self._count(shard.bytes)
        return there

    def _require_room(self, sizes: Sequence[int]) -> None:
        disk = os.statvfs(self.target)
        block = disk.f_frsize
        needed = sum(-(-size // block) * block for size in (*sizes, len(self.content)))
        free = disk.f_bavail * block
        if needed > free:
            raise UserError(
                f"staging {self.source} needs {needed / 1e6:.1f} MB, {self.target.parent} on {self._host} has "
                f"{free / 1e6:.1f} MB free",
                hint="Free space there, or name another folder in data.stage",
            )

    def _copy(self, shard: ShardInfo) -> None:
        source, digest = self.source / shard.file, hashlib.sha256()
        with self._writing(shard.file, shard.bytes) as stream:
            for piece in _contents(source):
                if self.stopped.is_set():
                    raise Stopped
                digest.update(piece)
                stream.write(piece)
                self._count(len(piece))
            if digest.hexdigest() != shard.sha256:
                raise UserError(
                    f"shard {source} is not what was written: its SHA-256 differs",
                    hint=CURE,
                )

    @contextlib.contextmanager
    def _writing(self, name: str, size: int) -> Iterator[IO[bytes]]:
        """A file under a name of its own, which is renamed at the end. Raises ``UserError`` (full disk)."""
        path = self.target / name
        temporary = self.target / f".{name}.{self._host}.{uuid.uuid4().hex}.part"
        try:
            # Not flushed to the disk: what a power cut takes away, the next check finds missing.
            with temporary.open("wb") as stream:
                yield stream
            temporary.replace(path)
        except OSError as error:
            raise as_user_error(error, path, size) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _count(self, size: int) -> None:
        with self._counting:
            self._done += size
            if self._progress is not None:
                self._progress(self._done, self._total)


def _contents(path: Path) -> Iterator[memoryview]:
    """The bytes of a file, in pieces that are gone when the next is asked for."""
    buffer = memoryview(bytearray(COPY_BYTES))
    try:
        with path.open("rb", buffering=0) as stream:
            while count := stream.readinto(buffer):
                yield buffer[:count]
    except OSError as error:
        raise UserError(
            f"cannot read shard {path}: {error.strerror}", hint="Check the file system it lies on"
        ) from error


def _locked(stream: IO[str]) -> bool | None:
    """Whether this process has the lock now; None on a file system that has none.

    Without locks two jobs may copy the same shards twice, which is right all the same.
    """
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False
