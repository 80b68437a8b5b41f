"""Whole-detector images made here: Pythia events through a parametrised detector, spread over the cores."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from hpctrain import machine
from hpctrain.config import AnyComponent, ComponentConfig, Section, component, section
from hpctrain.errors import UserError
from hpctrain.files import as_user_error
from hpctrain.ingest.assemble import Sample, write_splits
from hpctrain.ingest.chunks import Chunk, Settings, plan, versions
from hpctrain.ingest.clusters.base import Cluster
from hpctrain.ingest.simulate import Part, find_part, make_part
from hpctrain.ingest.summary import empty_warning, summarise
from hpctrain.ingest.workers import run_tasks
from hpctrain.physics.detector import DETECTOR_LABEL, describe_detector
from hpctrain.physics.generator import require_physics
from hpctrain.physics.processes import Process, find_process, uncovered_pthat
from hpctrain.registry import register
from hpctrain.run import RunDirectory
from hpctrain.track import Tracker

FinitePositive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ProcessConfig(Section):
    """One process to generate."""

    process: str
    """Name of the recipe: ``rpv_gluino`` or a QCD slice ``jz3`` … ``jz12``."""
    events: PositiveInt
    """Events to generate, before any selection."""
    masses: dict[str, FinitePositive] = Field(default_factory=dict)
    """GeV; ``rpv_gluino`` takes ``m_gluino`` (1400) and ``m_neutralino`` (850)."""

    def recipe(self) -> Process:
        """The process. Raises ``UserError`` for an unknown name or mass."""
        return find_process(self.process, **self.masses)


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


_DEFAULT_PROCESSES = (
    ProcessConfig(process="rpv_gluino", events=2100),
    ProcessConfig(process="jz4", events=10000),
    ProcessConfig(process="jz5", events=4200),
    ProcessConfig(process="jz6", events=4700),
    ProcessConfig(process="jz7", events=4700),
)


@register("ingest")
class PythiaWholeDetector:
    """Generates signal and background and writes them as train, validation and test shards.

    The work is cut into chunks with seeds of their own; workers write each as a part under
    ``RUN/data/parts``. A run that was killed goes on from its parts. The shards are the same for any
    number of workers.
    """

    class Config(ComponentConfig):
        speed_keys: ClassVar[frozenset[str]] = frozenset({"workers", "cluster"})
        kind: Literal["pythia_whole_detector"] = "pythia_whole_detector"
        processes: tuple[ProcessConfig, ...] = _DEFAULT_PROCESSES
        """What to generate; at least one signal and one background process. The default gives about
        2,000 preselected signal and 3,000 background events."""
        events_per_chunk: PositiveInt = 700
        """Most events of one task: what is lost when a worker dies, and how fine progress shows."""
        luminosity_fb: FinitePositive = 36.0
        """Integrated luminosity in 1/fb that the weights refer to."""
        image_bins: Annotated[int, Field(ge=4, le=1024)] = 64
        """Cells of the image in η and in φ."""
        trimmed: bool = True
        """Trim the fat jets (R 0.2, pT fraction 0.05) before cuts and masses. False keeps them whole."""
        split: SplitConfig = SplitConfig()
        """Fractions of train, validation and test."""
        events_per_shard: PositiveInt = 2048
        """Events of one HDF5 file."""
        workers: PositiveInt | None = None
        """Processes that generate; None leaves it to the cluster (``local``: one per core available)."""
        cluster: Annotated[AnyComponent, component("clusters", "local")] = section("clusters", "local")
        """Where these processes come from. It changes the speed of a generation, not its events."""

        @model_validator(mode="after")
        def _both_classes(self) -> Self:
            try:
                recipes = [entry.recipe() for entry in self.processes]
            except UserError as error:
                # Validation gathers errors with the key they belong to; this is how one is reported.
                raise ValueError(str(error)) from error
            if {process.signal for process in recipes} != {True, False}:
                raise ValueError("processes need at least one signal and one background")
            return self

    def __init__(self, config: Config) -> None:
        self.config = config
        self.cluster: Cluster = config.cluster.build()

    def check(self) -> None:
        """Raise ``UserError`` when a package that generating needs is missing; imports nothing."""
        require_physics()
        self.cluster.check()

    def run(self, run: RunDirectory, tracker: Tracker) -> dict[str, Any]:
        """Generate, simulate, select and write the shards; returns the figures of the summary."""
        self.check()
        started = time.perf_counter()
        seed = run.experiment.seed
        settings = Settings(seed=seed, image_bins=self.config.image_bins, trimmed=self.config.trimmed)
        requests = [(entry.recipe(), entry.events) for entry in self.config.processes]
        chunks = plan(requests, self.config.events_per_chunk, settings)
        folder = run.data / "parts"
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
                tracker.log("warning", message=empty_warning(sample, self.config.luminosity_fb))
        counts = write_splits(
            samples,
            data=run.data,
            parts=folder,
            fractions=self.config.split.model_dump(),
            luminosity_fb=self.config.luminosity_fb,
            image_bins=self.config.image_bins,
            seed=seed,
            provenance=self._provenance(samples, seed),
            events_per_shard=self.config.events_per_shard,
        )
        shutil.rmtree(folder)
        figures = summarise(samples, self.config.luminosity_fb)
        figures.update(
            events=counts,
            **throughput,
            wall_s=round(time.perf_counter() - started, 3),
            trimmed=self.config.trimmed,
        )
        tracker.log("generated", **figures)
        return figures

    def _make_parts(
        self, chunks: Sequence[Chunk], folder: Path, logs: Path, tracker: Tracker
    ) -> tuple[dict[int, Part], dict[str, Any]]:
        """Every chunk's part by the chunk's index, made now or found from before; and how fast it went."""
        for stale in folder.glob("dask-*"):  # of a run that was killed
            shutil.rmtree(stale, ignore_errors=True)
        parts: dict[int, Part] = {}
        for chunk in chunks:
            part = find_part(chunk, folder)
            if part is not None:
                parts[chunk.index] = part
        missing = [chunk for chunk in chunks if chunk.index not in parts]
        total = sum(chunk.events for chunk in chunks)
        found = sum(part.generated for part in parts.values())
        if parts:
            tracker.log("resumed", parts=len(parts), of=len(chunks), events=found)
        tracker.progress(found, total, "events")
        workers = self.cluster.workers(self.config.workers)
        done, memory, started = found, 0, time.perf_counter()
        for chunk, part in _generate(missing, folder, self.cluster, workers, logs):
            parts[chunk.index] = part
            done += part.generated
            memory = max(memory, part.peak_memory_bytes)
            rate = (done - found) / (time.perf_counter() - started)
            tracker.log(
                "chunk", process=chunk.process.key, number=chunk.number, generated=part.generated,
                preselected=part.preselected, wall_s=round(part.wall_s, 3),
            )  # fmt: skip
            tracker.progress(done, total, "events", events_per_second=round(rate, 1))
        elapsed = time.perf_counter() - started
        return parts, {
            "generated_now": done - found,
            "events_per_second": round((done - found) / elapsed, 2) if missing else None,
            "workers": min(workers, len(missing)) if missing else 0,
            "worker_peak_memory_bytes": memory,
        }

    def _provenance(self, samples: Sequence[Sample], seed: int) -> Mapping[str, Any]:
        """Where the events come from. Nothing here depends on the number of workers or on the clock."""
        pythia = str(versions()["pythia8mc"]).rsplit(".", 1)[0]
        return {
            "label": f"Pythia {pythia}, {DETECTOR_LABEL}",
            "generator": {"tune": "Monash 2013 (Tune:pp = 14)", "beams": "pp, 13 TeV", **versions()},
            "luminosity_fb": self.config.luminosity_fb,
            "detector": describe_detector(),
            "jets": "anti-kT R=1.0"
            + (", trimmed R=0.2, pT fraction 0.05" if self.config.trimmed else ", untrimmed"),
            "preselection": "leading fat jet pT > 440 GeV, more than 2 fat jets (pT > 200 GeV, |eta| < 2.0)",
            "not_generated": not_generated([s.process for s in samples]),
            "seed": seed,
            "commit": machine.commit(),
        }


def not_generated(processes: Sequence[Process]) -> str:
    """What the sums of the weights leave out, in words: every p̂T range of QCD without a slice, and the rest."""
    ranges = [
        f"below {high:g} GeV"
        if low == 0
        else f"above {low:g} GeV"
        if high == math.inf
        else f"{low:g}-{high:g} GeV"
        for low, high in uncovered_pthat(processes)
    ]
    return f"QCD with pT-hat {', '.join(ranges)}; other backgrounds; pileup"


def _generate(
    chunks: Sequence[Chunk], folder: Path, cluster: Cluster, workers: int, logs: Path
) -> Iterator[tuple[Chunk, Part]]:
    """Make the parts of ``chunks``, given back as they get done. Longest processes first, so none straggles."""
    order = sorted(chunks, key=lambda chunk: (-chunk.events, chunk.index))
    work = partial(_make, folder=folder)
    yield from run_tasks(
        work,
        order,
        cluster=cluster,
        workers=workers,
        scratch=folder,
        logs=logs,
        name=lambda chunk: chunk.name,
    )


def _make(chunk: Chunk, folder: Path) -> tuple[Chunk, Part]:
    """The chunk's part: there already when its worker died after it was written and before it could say so."""
    return chunk, find_part(chunk, folder) or make_part(chunk, folder)
