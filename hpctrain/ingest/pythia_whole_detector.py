"""Whole-detector images made here: Pythia events through a parametrised detector, with pileup if asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from hpctrain.data.curation.image_scale import ImageScale
from hpctrain.errors import UserError
from hpctrain.ingest.assemble import Sample
from hpctrain.ingest.chunks import Settings
from hpctrain.ingest.generation import FinitePositive, Generation, GenerationConfig, pythia_label
from hpctrain.ingest.scale import Scale
from hpctrain.ingest.simulate import WholeDetectorSettings
from hpctrain.ingest.summary import summarise
from hpctrain.physics.detector import DETECTOR_LABEL, describe_detector
from hpctrain.physics.pileup import describe_pileup
from hpctrain.physics.processes import Process, find_process, uncovered_pthat
from hpctrain.registry import register
from hpctrain.section import Section


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


_DEFAULT_PROCESSES = (
    ProcessConfig(process="rpv_gluino", events=2100),
    ProcessConfig(process="jz4", events=10000),
    ProcessConfig(process="jz5", events=4200),
    ProcessConfig(process="jz6", events=4700),
    ProcessConfig(process="jz7", events=4700),
)


@register("ingest")
class PythiaWholeDetector(Generation):
    """Signal and background of the RPV search as images of the whole detector, with the variables of its analysis."""

    class Config(GenerationConfig):
        kind: Literal["pythia_whole_detector"] = "pythia_whole_detector"
        processes: tuple[ProcessConfig, ...] = _DEFAULT_PROCESSES
        """What to generate; at least one signal and one background process. The default gives about
        2,000 preselected signal and 3,000 background events."""
        image_bins: Annotated[int, Field(ge=4, le=1024)] = 64
        """Cells of the image in η and in φ."""
        trimmed: bool = True
        """Trim the fat jets (R 0.2, pT fraction 0.05) before cuts and masses. False keeps them whole."""
        pileup_mu: Annotated[float, Field(ge=0, le=300)] = 0.0
        """Mean number of minimum-bias collisions overlaid on each event; 0: none."""
        pileup_pool: PositiveInt = 1000
        """Minimum-bias collisions generated for each chunk, from which its pileup is drawn."""

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

    def requests(self) -> list[tuple[Process, int]]:
        return [(entry.recipe(), entry.events) for entry in self.config.processes]

    def settings(self, seed: int) -> WholeDetectorSettings:
        c = self.config
        return WholeDetectorSettings(seed, c.image_bins, c.trimmed, c.pileup_mu, c.pileup_pool)

    def scale(self, settings: Settings) -> Scale:
        return ImageScale(settings.fields())

    def figures(self, samples: Sequence[Sample]) -> dict[str, Any]:
        return {**summarise(samples, self.config.luminosity_fb), "trimmed": self.config.trimmed}

    def describe(self, samples: Sequence[Sample]) -> dict[str, Any]:
        mu = self.config.pileup_mu
        pileup = f", pileup mu = {mu:g}" if mu else ""
        return {
            "label": pythia_label(DETECTOR_LABEL + pileup),
            "units": {"sum_mass": "GeV"},
            "detector": {
                **describe_detector(),
                "pileup": describe_pileup(mu, self.config.pileup_pool) if mu else 0,
            },
            "jets": "anti-kT R=1.0"
            + (", trimmed R=0.2, pT fraction 0.05" if self.config.trimmed else ", untrimmed"),
            "preselection": "leading fat jet pT > 440 GeV, more than 2 fat jets (pT > 200 GeV, |eta| < 2.0)",
            "not_generated": not_generated([s.process for s in samples], pileup=bool(mu)),
        }


def not_generated(processes: Sequence[Process], *, pileup: bool = False) -> str:
    """What the sums of the weights leave out, in words: every p̂T range of QCD without a slice, and the rest."""
    ranges = [
        f"below {high:g} GeV"
        if low == 0
        else f"above {low:g} GeV"
        if high == math.inf
        else f"{low:g}-{high:g} GeV"
        for low, high in uncovered_pthat(processes)
    ]
    return f"QCD with pT-hat {', '.join(ranges)}; other backgrounds" + ("" if pileup else "; pileup")
