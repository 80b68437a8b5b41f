"""What every generation does: chunks to workers, their parts to train, validation and test shards, a summary.

A recipe is a subclass of ``Generation`` that says what to generate (``requests``), how a chunk of it is
simulated (``settings``) and what the events are (``describe``). The rest is here, so that every sample is cut
into seeded chunks, resumed, mixed, weighted and recorded in the same way.
"""

from __future__ import annotations

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, PositiveInt, model_validator

from hpctrain import machine
from hpctrain.config import AnyComponent, ComponentConfig, component, section
from hpctrain.data.curation.feature_scale import FeatureScale
from hpctrain.files import as_user_error
from hpctrain.ingest.assemble import Sample, write_splits
from hpctrain.ingest.chunks import Chunk, Settings, plan, versions
from hpctrain.ingest.clusters.base import Cluster
from hpctrain.ingest.parts import Part, find_part, find_parts, make_part
from hpctrain.ingest.scale import Scale
from hpctrain.ingest.speed import Speed
from hpctrain.ingest.summary import empty_warning, overview
from hpctrain.ingest.workers import run_tasks
from hpctrain.physics.generator import require_physics
from hpctrain.physics.processes import Process
from hpctrain.run import RunDirectory
from hpctrain.section import Section
from hpctrain.track import Tracker

FinitePositive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SplitConfig(Section):
    """Fractions of the preselected events; each process is divided alike."""

    train: Annotated[float, Field(gt=0, lt=1)] = 0.6
    """To learn from; the scale constants come from here alone."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """To choose the best checkpoint and thresholds with."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """To report."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if abs(self.train + self.validation + self.test - 1.0) > 1e-9:
            raise ValueError("train, validation and test must add up to 1")
        return self


class GenerationConfig(ComponentConfig):
    """Keys that every generation has."""

    speed_keys: ClassVar[frozenset[str]] = frozenset({"workers", "cluster"})
    events_per_chunk: PositiveInt = 700
    """Most events of one task: what is lost when a worker dies, and how fine progress shows."""
    luminosity_fb: FinitePositive = 36.0
    """Integrated luminosity in 1/fb that the weights refer to."""
    split: SplitConfig = SplitConfig()
    """Fractions of train, validation and test."""
    events_per_shard: PositiveInt = 2048
    """Events of one HDF5 file."""
    workers: PositiveInt | None = None
    """Processes that generate; None leaves it to the cluster (``local``: one per core available)."""
    cluster: Annotated[AnyComponent, component("clusters", "local")] = section("clusters", "local")
    """Where these processes come from. It changes the speed of a generation, not its events."""


class Generation(ABC):
    """Generates events and writes them as train, validation and test shards.

    The work is cut into chunks with seeds of their own; workers write each as a part under
    ``RUN/data/parts``. A run that was killed goes on from its parts. The shards are the same for any
    number of workers and any order in which they finish.
    """

    classes: tuple[str, ...] = ("background", "signal")
    """Names of the labels 0, 1, …; each has to be in every split."""
    rows: str = "events preselected"
    """What a row of the data is, for the line that a user sees: ``900 ROWS of 1,000``."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.cluster: Cluster = config.cluster.build()

    @abstractmethod
    def requests(self) -> list[tuple[Process, int]]:
        """What to generate: processes with their numbers of events, before any selection."""

    @abstractmethod
    def settings(self, seed: int) -> Settings:
        """How a chunk is simulated."""

    @abstractmethod
    def describe(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The recipe's part of the provenance; ``label`` says in one line what the events are.

        Nothing in it may depend on the number of workers or on the clock.
        """

    def scale(self, settings: Settings) -> Scale:
        """The constants to gather from the train split: mean and spread of every named feature."""
        return FeatureScale(settings.fields())

    def figures(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The recipe's figures for the summary; ``headline`` is the line that a user sees."""
        return overview(samples, self.config.luminosity_fb, self.rows)

    def check(self) -> None:
        """Raise ``UserError`` when a package that generating needs is missing; imports nothing."""
        require_physics()
        self.cluster.check()

    def run(self, run: RunDirectory, tracker: Tracker) -> dict[str, Any]:
        """Generate, simulate, select and write the shards; returns the figures of the summary."""
        self.check()
        started = time.perf_counter()
        seed = run.experiment.seed
        settings = self.settings(seed)
        requests = self.requests()
        chunks = plan(requests, self.config.events_per_chunk, settings)
        folder = run.data.resolve() / "parts"  # workers may start elsewhere
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise as_user_error(error, folder) from error
        parts, throughput = self._make_parts(chunks, folder, run.logs, tracker)
        samples = [
            Sample(process, tuple(parts[c.index] for c in chunks if c.process.key == process.key))
            for process, _ in requests
        ]
        for sample in samples:
            if sample.preselected == 0:
                tracker.warn(empty_warning(sample, self.config.luminosity_fb))
        counts = write_splits(
            samples,
            fields=settings.fields(),
            scale=self.scale(settings),
            data=run.data,
            parts=folder,
            fractions=self.config.split.model_dump(),
            luminosity_fb=self.config.luminosity_fb,
            seed=seed,
            provenance=self._provenance(samples, seed),
            events_per_shard=self.config.events_per_shard,
            classes=self.classes,
            progress=lambda done, of: tracker.progress(done, of, "events assembled"),
        )
        shutil.rmtree(folder)
        figures = self.figures(samples)
        figures.update(events=counts, **throughput, wall_s=round(time.perf_counter() - started, 3))
        tracker.log("generated", **figures)
        return figures

    def _make_parts(
        self, chunks: Sequence[Chunk], folder: Path, logs: Path, tracker: Tracker
    ) -> tuple[dict[int, Part], dict[str, Any]]:
        """Every chunk's part by the chunk's index, made now or found from before; and how fast it went."""
        for stale in folder.glob("dask-*"):  # of a run that was killed
            shutil.rmtree(stale, ignore_errors=True)
        parts = find_parts(chunks, folder, lambda done, of: tracker.progress(done, of, "parts checked"))
        missing = [chunk for chunk in chunks if chunk.index not in parts]
        found = sum(part.generated for part in parts.values())
        if parts:
            tracker.log("resumed", parts=len(parts), of=len(chunks), events=found)
        speed, memory = Speed(tracker, found, sum(chunk.events for chunk in chunks)), 0
        for chunk, part in _generate(missing, folder, self.cluster, self.config.workers, logs, speed.watch):
            parts[chunk.index] = part
            memory = max(memory, part.peak_memory_bytes)
            tracker.log(
                "chunk", process=chunk.process.key, number=chunk.number, generated=part.generated,
                preselected=part.preselected, wall_s=round(part.wall_s, 3),
            )  # fmt: skip
            speed.add(part.generated)
        rate = speed.events_per_second
        return parts, {
            "generated_now": speed.done - found,
            "events_per_second": None if rate is None else round(rate, 2),
            "workers": speed.most_workers,
            "worker_peak_memory_bytes": memory,
        }

    def _provenance(self, samples: Sequence[Sample], seed: int) -> Mapping[str, Any]:
        """Where the events come from. Nothing here depends on the number of workers or on the clock."""
        return {
            "generator": {"tune": "Monash 2013 (Tune:pp = 14)", "beams": "pp, 13 TeV", **versions()},
            "luminosity_fb": self.config.luminosity_fb,
            "classes": list(self.classes),
            **self.describe(samples),
            "seed": seed,
            "commit": machine.commit(),
        }


def pythia_label(what: str) -> str:
    """``Pythia 8.317, WHAT``: the one line that says what generated events are."""
    return f"Pythia {str(versions()['pythia8mc']).rsplit('.', 1)[0]}, {what}"


def _generate(
    chunks: Sequence[Chunk],
    folder: Path,
    cluster: Cluster,
    workers: int | None,
    logs: Path,
    watch: Callable[[int], None],
) -> Iterator[tuple[Chunk, Part]]:
    """Make the parts of ``chunks``, given back as they get done. Longest processes first, so none straggles."""
    order = sorted(chunks, key=lambda chunk: (-chunk.events, chunk.index))
    yield from run_tasks(
        partial(_make, folder=folder),
        order,
        cluster=cluster,
        workers=workers,
        scratch=folder,
        logs=logs,
        name=lambda chunk: chunk.name,
        watch=watch,
    )


def _make(chunk: Chunk, folder: Path) -> tuple[Chunk, Part]:
    """The chunk's part: there already when its worker died after it was written and before it could say so."""
    return chunk, find_part(chunk, folder) or make_part(chunk, folder)
