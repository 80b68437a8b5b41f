"""What a run directory holds for its report: files read once, absent ones as None."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError
from hpctrain.files import read_json
from hpctrain.report.learning import History, history
from hpctrain.run import RunDirectory
from hpctrain.track import read_metrics

Arrays = dict[str, NDArray[Any]]

SPLITS = ("train", "validation", "test")
PROCESS_KEYS = {
    "label", "signal", "cross_section_mb", "cross_section_error_mb", "generated", "preselected", "weight", "in_split",
}  # fmt: skip
STEP_TITLES = {
    "generate": "Generate events",
    "train": "Train",
    "evaluate": "Evaluate",
    "compress": "Prune and quantise",
    "firmware": "Emit firmware",
}
"""Steps whose results a report shows, in the order of a run."""


class Contents:
    """The record of one run. A step that has not finished has no results here, whatever files it left."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run

    @cached_property
    def steps(self) -> dict[str, dict[str, Any]]:
        """Records of the finished steps, in the order of a run."""
        found = {name: self.run.step_record(name) for name in STEP_TITLES}
        return {name: record for name, record in found.items() if record is not None}

    @cached_property
    def config_text(self) -> str:
        """The resolved configuration as YAML text; empty when there is none."""
        path = self.run.config_path
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    @cached_property
    def config(self) -> dict[str, Any]:
        """The same, parsed but not validated: a report must open whatever components are installed."""
        parsed = yaml.safe_load(self.config_text) if self.config_text else {}
        return parsed if isinstance(parsed, dict) else {}

    @property
    def name(self) -> str:
        return str(self.config.get("name", self.run.path.name))

    @cached_property
    def environment(self) -> dict[str, Any]:
        return read_json(self.run.path / "environment.json") or {}

    @cached_property
    def datasets(self) -> dict[str, ShardDataset]:
        """The splits, all three or none."""
        if "generate" not in self.steps:
            return {}
        return {name: ShardDataset.open(self.run.data / name) for name in SPLITS}

    @property
    def provenance(self) -> dict[str, Any]:
        return self.datasets["train"].provenance if self.datasets else {}

    @property
    def processes(self) -> list[dict[str, Any]]:
        """The processes of the data with all that a table of them needs; none where a dataset says less."""
        listed = self.provenance.get("processes", [])
        return [process for process in listed if process.keys() >= PROCESS_KEYS]

    @cached_property
    def history(self) -> History:
        summary = self.steps.get("train", {}).get("summary", {})
        training = self.config.get("training")
        monitor = training.get("monitor", "auc") if isinstance(training, dict) else "auc"
        return history(
            read_metrics(self.run.metrics_path), monitor=str(monitor), best_epoch=summary.get("best_epoch")
        )

    @cached_property
    def evaluation(self) -> dict[str, Any] | None:
        return self._results("evaluate", self.run.evaluation / "results.json")

    @cached_property
    def curves(self) -> Arrays | None:
        return self._arrays("evaluate", self.run.evaluation / "curves.npz")

    @cached_property
    def scores(self) -> Arrays | None:
        return self._arrays("evaluate", self.run.evaluation / "scores.npz")

    @cached_property
    def compression(self) -> dict[str, Any] | None:
        return self._results("compress", self.run.compressed / "results.json")

    @cached_property
    def weights(self) -> Arrays | None:
        return self._arrays("compress", self.run.compressed / "weights.npz")

    @cached_property
    def verification(self) -> dict[str, Any] | None:
        """The firmware's verification; also that of a refusal, which ends the step with an error."""
        path = self.run.firmware / "verification.json"
        found = self._results("firmware", path)
        if found is None and "compress" in self.steps:
            refusal: dict[str, Any] | None = read_json(path)
            network = self.run.steps / "compress.json"
            if refusal and not refusal["passed"] and path.stat().st_mtime >= network.stat().st_mtime:
                return refusal
        return found

    def _results(self, step: str, path: Path) -> dict[str, Any] | None:
        if step not in self.steps:
            return None
        found: dict[str, Any] | None = read_json(path)
        return found

    def _arrays(self, step: str, path: Path) -> Arrays | None:
        if step not in self.steps or not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, KeyError) as error:
            raise UserError(
                f"{path} is not a readable npz file: {error}",
                hint=f"`hpctrain {step} {self.run.path} --force`",
            ) from error
