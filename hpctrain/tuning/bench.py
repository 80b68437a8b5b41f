"""Measures a setting: real ranks of the user's network, in a run of its own that is thrown away."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from hpctrain.config import Experiment, apply_override
from hpctrain.errors import LostRank, UserError
from hpctrain.files import read_json, write_atomically
from hpctrain.run import RunDirectory
from hpctrain.stopping import Warned
from hpctrain.supervision import supervise
from hpctrain.tuning.measurement import Measurement
from hpctrain.tuning.search import TimeIsUp
from hpctrain.tuning.settings import Setting
from hpctrain.tuning.timing import TUNE, Stretches

LONGEST_S = 180.0
"""A setting that takes longer has failed."""


class TooLong(Exception):
    """A measurement was given up."""


class Bench:
    """Starts the ranks of one setting after the other; ``TimeIsUp`` when the time left is less than one takes."""

    def __init__(
        self, experiment: Experiment, data: Path, scratch: Path, *, minutes: float, stretches: Stretches, warned: Warned
    ) -> None:  # fmt: skip
        self.experiment = experiment
        self.data = data
        self.scratch = scratch
        self.stretches = stretches
        self.warned = warned
        self._deadline = time.monotonic() + 60 * minutes
        self._longest = 0.0
        self._number = 0

    def measure(self, setting: Setting) -> Measurement:
        """Run it. A setting that fails or takes too long is a measurement too."""
        started = time.monotonic()
        if self._number and started + self._longest > self._deadline:
            raise TimeIsUp
        until = min(started + LONGEST_S, max(self._deadline, started + 60))
        try:
            result = self._run(setting, until)
        except (UserError, LostRank) as error:
            return Measurement(setting, error=error.message)
        except TooLong:
            return Measurement(setting, error=f"took longer than {until - started:.0f} s")
        self._longest = max(self._longest, time.monotonic() - started)
        summary = result["summary"]
        return Measurement(
            setting, tuple(summary["rates"]), summary["first_step_s"], result["peak_memory_bytes"]
        )

    def _run(self, setting: Setting, until: float) -> dict[str, Any]:
        run = self._make(setting)
        log = run.logs / f"{TUNE.name}.log"
        launcher = run.experiment.launch.build()
        launcher.check(parallel=True)
        job = launcher.start(["worker", TUNE.name, str(run.path)], log, parallel=True)
        supervise(run, TUNE, job, log, self.warned, lambda record: None, _give_up_after(until))
        found = read_json(run.logs / f"{TUNE.name}.result.json")
        if found is None:
            raise UserError(f"{setting}: the ranks ended without a result")
        result: dict[str, Any] = found
        return result

    def _make(self, setting: Setting) -> RunDirectory:
        """A run directory with the events of the user's and this setting."""
        self._number += 1
        settings = self.experiment.model_dump(mode="json")
        for key, value in setting.keys().items():
            apply_override(settings, f"{key}={json.dumps(value)}")
        settings |= {"name": f"setting-{self._number}", "output": str(self.scratch)}
        settings["tracking"]["wandb"] = False
        with suppress(KeyError):
            settings["data"]["stage"] = []
        run = RunDirectory.create(Experiment.from_mapping(settings, source=str(setting)))
        run.data.symlink_to(self.data.resolve(), target_is_directory=True)
        write_atomically(Stretches.path(run), yaml.safe_dump(self.stretches.model_dump(mode="json")))
        return run


def _give_up_after(until: float) -> Callable[[], None]:
    def look() -> None:
        if time.monotonic() > until:
            raise TooLong

    return look
