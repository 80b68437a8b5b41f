"""Events that somebody wrote as shards already: linked into the run, read where they lie."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path
from typing import Any, Literal

from hpctrain.config import ComponentConfig
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError
from hpctrain.registry import register
from hpctrain.run import RunDirectory
from hpctrain.track import Tracker

SPLITS = ("train", "validation", "test")


@register("ingest")
class ExistingShards:
    """Uses the shard directories ``train``, ``validation`` and ``test`` under ``path``; nothing is copied."""

    class Config(ComponentConfig):
        kind: Literal["shards"] = "shards"
        path: Path | None = None
        """Folder that holds the three; relative to where hpctrain is started."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self) -> None:
        """Raise ``UserError`` when a split is not there, not whole or empty."""
        folder = self._folder()
        for split in SPLITS:
            if not (folder / split / "dataset.json").is_file():
                one = (folder / "dataset.json").is_file()
                raise UserError(
                    f"generate.path: {folder} {'is one dataset, not three' if one else f'has no {split}/dataset.json'}",
                    hint=f"`hpctrain data split {shlex.quote(str(folder))} --output NEW` makes train, validation and test"
                    if one
                    else "A ShardWriter writes it when it is closed; docs/data.md shows how",
                )
            dataset = ShardDataset.open(folder / split)
            if not dataset.events:
                raise UserError(
                    f"{dataset.directory} holds no events",
                    hint="Write some into it: each of the three is needed",
                )

    def inputs(self) -> list[str]:
        """Checksum of each ``dataset.json``, which has those of the shards: other data are other inputs."""
        if self.config.path is None:
            return []
        paths = [self._folder() / split / "dataset.json" for split in SPLITS]
        return [hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in paths]

    def reads(self) -> list[Path]:
        """What is read from outside the run."""
        return [self._folder(), *(self._folder() / split for split in SPLITS)]

    def run(self, run: RunDirectory, tracker: Tracker) -> dict[str, Any]:
        """Link the splits into ``RUN/data`` after every shard was read and agreed with its checksum."""
        folder = self._folder()
        events = {}
        run.data.mkdir(parents=True, exist_ok=True)
        for number, split in enumerate(SPLITS, 1):
            dataset = ShardDataset.open(folder / split)
            if dataset.events:
                dataset.column("label" if "label" in dataset.fields else next(iter(dataset.fields)))
            link = run.data / split
            link.unlink(missing_ok=True)
            link.symlink_to(folder / split, target_is_directory=True)
            events[split] = dataset.events
            tracker.progress(number, len(SPLITS), "splits")
        total = sum(events.values())
        return {"headline": f"{total:,} events of {folder}", "path": str(folder), "events": events}

    def _folder(self) -> Path:
        if self.config.path is None:
            raise UserError(
                "generate.path is not given",
                hint="generate.path=FOLDER that holds train, validation and test",
            )
        return self.config.path.resolve()
