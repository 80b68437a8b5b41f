"""A directory that appears whole or not at all, whatever happens while it is written."""

import contextlib
import fcntl
import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from hpctrain.errors import UserError
from hpctrain.files import as_user_error


@contextlib.contextmanager
def whole_directory(output: Path) -> Iterator[Path]:
    """A folder beside ``output`` to write into; it takes that name on a clean exit and is removed after an error.

    What a process that was killed left behind goes when the next one writes the same ``output``.
    A link is followed. Raises ``UserError`` when ``output`` cannot be one (see ``usable``), or cannot be written.
    """
    output = usable(output)
    folder = output.with_name(f".{output.name}.{uuid.uuid4().hex[:12]}.writing")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(output)
        folder.mkdir()
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise as_user_error(error, output) from error
    try:
        with contextlib.suppress(OSError):  # without locks nobody removes what was abandoned
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # for as long as this process lives
        yield folder
        usable(output)
        try:
            folder.rename(output)  # takes the place of an empty folder, of no other
        except OSError as error:
            raise as_user_error(error, output) from error
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def usable(output: Path) -> Path:
    """Where ``output`` is, links followed. Raises ``UserError`` when a new directory cannot take that name.

    That is when it holds anything, is no folder, is a mount point (which nothing can take the place of) or lies in
    a dataset, whose folder is never changed.
    """
    path = Path(os.path.realpath(output))
    try:
        if path.is_symlink():
            raise UserError(f"{output} is a link to itself", hint="Write elsewhere")
        if path.is_dir() and any(path.iterdir()):
            what = (
                "already holds a dataset" if (path / "dataset.json").exists() else "exists and is not empty"
            )
            raise UserError(f"{output} {what}", hint="Delete it or write elsewhere")
        if path.exists() and not path.is_dir():
            raise UserError(f"{output} exists and is no folder", hint="Write elsewhere")
        if path.is_mount():
            raise UserError(
                f"{output} is a mount point", hint=f"Write into a new folder in it: {output / 'NAME'}"
            )
        dataset = next((parent for parent in path.parents if (parent / "dataset.json").exists()), None)
    except OSError as error:
        raise as_user_error(error, output) from error
    if dataset is not None:
        raise UserError(f"{output} lies in the dataset {dataset}", hint="Write elsewhere")
    return path


def _remove_abandoned(output: Path) -> None:
    for folder in output.parent.glob(f".{glob.escape(output.name)}.*.writing"):
        with contextlib.suppress(OSError):  # another process is writing it, or removed it first
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)
