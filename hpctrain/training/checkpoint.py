"""Checkpoints: all that a run needs to go on exactly, written whole, never executed when read."""

import hashlib
import io
import os
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpctrain.errors import UserError
from hpctrain.files import as_user_error, write_atomically

State = dict[str, Any]
"""Tensors, numbers, strings, lists and dicts of them."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run: the last ``keep`` as ``step-N.pt``, and ``best.pt``; each beside its ``.sha256``."""

    folder: Path
    keep: int = 2

    def save(self, state: State, step: int, *, best: bool = False) -> Path:
        """Write ``step-N.pt`` (and make it the best). Raises ``UserError``; older checkpoints then still stand."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        path = self._path(step)
        write_atomically(path, content)
        # The checksum comes second: a checkpoint without one was not finished and is passed over.
        write_atomically(_sum(path), f"{hashlib.sha256(content).hexdigest()}  {path.name}\n")
        if best:
            self.make_best(step)
        for old in self._steps()[: -self.keep]:
            _sum(old).unlink(missing_ok=True)
            old.unlink(missing_ok=True)
        return path

    def load(self, step: int) -> State:
        """The checkpoint of ``step``. Raises ``UserError``."""
        return load(self._path(step))

    def latest(self, warn: Callable[[str], None] | None = None) -> State | None:
        """The newest whole checkpoint; ``warn(text)`` hears of each torn or corrupt one passed over.

        None when there never was one. Raises ``UserError`` when there are some and none is whole.
        """
        paths = self._steps()
        for path in reversed(paths):
            try:
                return load(path)
            except UserError as error:
                if warn is not None:
                    warn(str(error))
        if paths:
            raise UserError(
                f"none of the {len(paths)} checkpoints in {self.folder} is whole",
                hint="Bring them back from a copy, or train anew with --force",
            )
        return None

    def best(self) -> State:
        """The checkpoint with the best validation metric. Raises ``UserError``."""
        path = self.folder / "best.pt"
        if not path.exists():
            raise UserError(f"no best checkpoint in {self.folder}", hint="Train first: `hpctrain train RUN`")
        return load(path)

    def _steps(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("step-*.pt") if re.fullmatch(r"step-\d{8}\.pt", p.name))

    def make_best(self, step: int) -> None:
        """Make the checkpoint of ``step`` the best; safe to be done again after a kill in between."""
        best = self.folder / "best.pt"
        path = self._path(step)
        digest = _sum(path).read_text().split()[0]
        temporary = self.folder / ".best.pt.tmp"
        try:
            temporary.unlink(missing_ok=True)
            os.link(path, temporary)
            temporary.replace(best)
        except OSError as error:
            raise as_user_error(error, best) from error
        write_atomically(_sum(best), f"{digest}  {best.name}\n")

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.pt"


def weights(state: State) -> dict[str, Tensor]:
    """What a checkpoint's model is to be judged by: the average over steps where training kept one."""
    average = state["average"]
    if average is None:
        return dict(state["model"])
    return {name: value for name, value in average.items() if name != "n_averaged"}


def load(path: Path) -> State:
    """Read a checkpoint without running anything in it. Raises ``UserError`` (missing, torn, corrupt, hostile)."""
    try:
        content = path.read_bytes()
        expected = _sum(path).read_text().split()[0]
    except (OSError, IndexError) as error:
        raise UserError(f"checkpoint {path} is not whole: {error}") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise UserError(f"checkpoint {path} is not what was written: its checksum differs")
    try:
        state: State = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(
            f"checkpoint {path} holds more than tensors and numbers, or is not a checkpoint: it is not loaded"
        ) from error
    return state


def _sum(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
