"""Writing files so that a reader sees the old one or the new one, whole, whatever happens in between."""

import contextlib
import errno
import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

from hpctrain.errors import UserError


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write to a temporary file beside ``path``, flush it to disk, rename it into place.

    Raises ``UserError`` when the disk is full or the folder cannot be written; ``path`` is then as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        _flush_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise as_user_error(error, path, len(data)) from error


def write_json(path: Path, value: Any) -> None:
    """``write_atomically`` of a JSON document; NaN and infinity are refused (they are not JSON)."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path, hint: str = "Delete it to have it written again") -> Any:
    """Parse a JSON file; None when it does not exist. Raises ``UserError`` with ``hint`` when it is not whole JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror or error}", hint="Check the file and its permissions"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable JSON: {error}", hint=hint) from error


def as_user_error(error: OSError, path: Path, size: int | None = None) -> UserError:
    """The one line a user needs when ``path`` cannot be written."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        facts = [] if size is None else [f"{size / 1e6:.1f} MB needed"]
        with contextlib.suppress(OSError):
            facts.append(f"{shutil.disk_usage(path.parent).free / 1e6:.1f} MB free")
        return UserError(
            f"disk full while writing {path} ({', '.join(facts)}): {error.strerror}; what was written before is whole",
            hint="Free space, then give the same command again: it goes on from what is whole",
        )
    return UserError(
        f"cannot write {path}: {error.strerror or error}", hint="Check the folder and its permissions"
    )


def _flush_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
