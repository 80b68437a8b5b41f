"""Metrics of a run: JSON lines always, Weights & Biases and TensorBoard when asked.

One process writes (rank 0, or the only one). A line is a flat JSON object with ``time``, ``step`` (of the
pipeline), ``event`` and the values of that event; lines are never rewritten, so a killed run keeps them all.
"""

import contextlib
import importlib.util
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from hpctrain.config import TrackingConfig
from hpctrain.errors import UserError
from hpctrain.files import as_user_error


class Sink(Protocol):
    """Somewhere else that metrics go."""

    def log(self, values: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class Tracker:
    """Writes the metrics of one step; silent on every rank but the first."""

    def __init__(
        self, step: str, metrics: Path, progress: Path, *, active: bool = True, sinks: Sequence[Sink] = ()
    ) -> None:
        self.step = step
        self.active = active
        self._metrics = metrics
        self._progress = progress
        self._sinks = sinks if active else ()
        self._last_progress = 0.0
        # A line torn by a full disk or a kill must not swallow the next one.
        self._mend = b"\n" if active and _is_torn(metrics) else b""

    def log(self, event: str, **values: Any) -> None:
        """Append one line. Values are JSON types; NaN and infinity are written as null."""
        if not self.active:
            return
        line = {"time": round(time.time(), 3), "step": self.step, "event": event, **_finite(values)}
        try:
            # One write of one line, appended: readers never see half of it.
            with self._metrics.open("ab") as stream:
                stream.write(self._mend + json.dumps(line, allow_nan=False).encode() + b"\n")
            self._mend = b""
        except OSError as error:
            raise as_user_error(error, self._metrics) from error
        if self._sinks:
            numbers = {f"{self.step}/{k}": v for k, v in values.items() if isinstance(v, int | float)}
            for sink in self._sinks:
                sink.log(numbers)

    def warn(self, text: str) -> None:
        """Log what the user should know now: it is shown while the step goes on."""
        self.log("warning", text=text)

    def progress(self, done: float, total: float, unit: str = "", **values: Any) -> None:
        """Tell the user how far the step is; at most a few times a second reach the disk."""
        now = time.monotonic()
        if not self.active or (done < total and now - self._last_progress < 0.2):
            return
        self._last_progress = now
        record = {"step": self.step, "done": done, "total": total, "unit": unit, **_finite(values)}
        temporary = self._progress.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(record))
            temporary.replace(self._progress)
        except OSError:
            return  # a courtesy; what matters says by itself that the disk is full

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def require_sinks(config: TrackingConfig) -> None:
    """Raise ``UserError`` when a tracker that is asked for is not installed; imports none."""
    for name in ("wandb", "tensorboard"):
        if getattr(config, name) and importlib.util.find_spec(name) is None:
            raise UserError(
                f"tracking.{name} is on but {name} is not installed", hint="pip install 'hpctrain[tracking]'"
            )


def sinks(config: TrackingConfig, name: str, folder: Path, experiment: dict[str, Any]) -> list[Sink]:
    """Those that the configuration asks for, of the run ``name`` in ``folder``. Raises ``UserError``."""
    require_sinks(config)
    found: list[Sink] = []
    if config.wandb:
        found.append(WandbSink(config, name, folder, experiment))
    if config.tensorboard:
        found.append(TensorBoardSink(folder / "tensorboard"))
    return found


class WandbSink:
    """Weights & Biases, offline unless the configuration says otherwise."""

    def __init__(self, config: TrackingConfig, name: str, folder: Path, experiment: dict[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=config.project, name=name, dir=str(folder), mode=config.wandb_mode, config=experiment,
            resume="allow", settings=wandb.Settings(silent=True),
        )  # fmt: skip

    def log(self, values: dict[str, Any]) -> None:
        self._run.log(values)

    def close(self) -> None:
        self._run.finish()


class TensorBoardSink:
    """Event files for TensorBoard: what has a step of training stands there, else at its epoch, else one by one."""

    FLUSH_S = 10
    """A run that is killed loses so many seconds of them at most."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), flush_secs=self.FLUSH_S)
        self._count = 0

    def log(self, values: dict[str, Any]) -> None:
        places = {key.rpartition("/")[2]: value for key, value in values.items()}
        self._count += 1
        place = places.get("global_step", places.get("epoch", self._count))
        for key, value in values.items():
            if key.rpartition("/")[2] not in {"global_step", "epoch"}:
                self._writer.add_scalar(key, value, place)

    def close(self) -> None:
        self._writer.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a metrics file; a last line torn by a kill is passed over."""
    lines = []
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


class Follower:
    """The lines that a metrics file gains from now on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._place = path.stat().st_size if path.exists() else 0

    def new(self) -> list[dict[str, Any]]:
        """Whole lines since the last call."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._place)
                text, end, _ = stream.read().rpartition(b"\n")
        except OSError:
            return []
        self._place += len(text) + len(end)
        lines = []
        for line in text.splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
        return lines


def _is_torn(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            stream.seek(-1, os.SEEK_END)
            return stream.read(1) != b"\n"
    except OSError:  # absent or empty
        return False


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value
