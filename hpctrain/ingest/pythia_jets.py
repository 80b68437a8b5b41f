"""Gluon, quark, W, Z and top jets of about 1 TeV: expert features and constituents for the jet taggers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from hpctrain.data.columns import Columns, RaggedRows
from hpctrain.data.schema import DenseField, Fields, RaggedField
from hpctrain.ingest.assemble import Sample
from hpctrain.ingest.generation import FinitePositive, Generation, GenerationConfig, pythia_label
from hpctrain.ingest.jet_settings import JetBatch, JetSettings
from hpctrain.physics.jet_features import (
    CONSTITUENT_FEATURES,
    EXPERT_FEATURES,
    MAX_CONSTITUENTS,
    constituent_features,
    expert_features,
)
from hpctrain.physics.jet_processes import JET_CLASS_NAMES, jet_class_process
from hpctrain.physics.particle_jets import Z_CUT
from hpctrain.physics.processes import Process
from hpctrain.registry import register

JetClass = Literal["g", "q", "W", "Z", "t"]


@dataclass(frozen=True)
class TaggingSettings(JetSettings):
    """Jets with expert features and constituents."""

    max_constituents: int

    def jet_fields(self) -> Fields:
        """``features`` and ``particles``."""
        return {
            "features": DenseField(shape=(len(EXPERT_FEATURES),), features=EXPERT_FEATURES),
            "particles": RaggedField(shape=(len(CONSTITUENT_FEATURES),), features=CONSTITUENT_FEATURES),
        }

    def columns(self, batch: JetBatch, rng: np.random.Generator) -> Columns:
        """Features of the whole jet; of its constituents the hardest are kept, by falling pT."""
        constituents = batch.jets.constituents(batch.particles)
        values = constituent_features(constituents)
        order = constituents.order(self.max_constituents)
        return {
            "features": expert_features(constituents),
            "particles": RaggedRows(constituents.sorted_by_pt(self.max_constituents).offsets, values[order]),
        }


@register("ingest")
class PythiaJets(Generation):
    """Jets of five classes at particle level, named after the parton of the hard process that they come from."""

    class Config(GenerationConfig):
        kind: Literal["pythia_jets"] = "pythia_jets"
        classes: Annotated[tuple[JetClass, ...], Field(min_length=2)] = ("g", "q", "W", "Z", "t")
        """Classes to generate; a jet's label is the position of its class here."""
        events: PositiveInt = 4000
        """Events to generate of each class; at most one jet of each is kept, of 0.93 to 0.99 of them."""
        pthat: tuple[FinitePositive, FinitePositive] = (950.0, 1050.0)
        """Range of the hard process' transverse momentum in GeV."""
        jet_pt: tuple[FinitePositive, FinitePositive] = (800.0, 1200.0)
        """Range of the jets' transverse momentum in GeV."""
        jet_eta_max: FinitePositive = 2.0
        """Largest pseudorapidity of a jet."""
        radius: FinitePositive = 0.8
        """Of the anti-kT jets."""
        max_constituents: PositiveInt = MAX_CONSTITUENTS
        """Constituents kept of each jet, hardest first; features are of all."""

        @model_validator(mode="after")
        def _makes_sense(self) -> Self:
            if len(set(self.classes)) < len(self.classes):
                raise ValueError("classes: one stands twice")
            for name, (low, high) in (("pthat", self.pthat), ("jet_pt", self.jet_pt)):
                if low >= high:
                    raise ValueError(f"{name}: {low:g} is not below {high:g}")
            return self

    rows = "jets, one an event at most,"
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.classes = config.classes

    def requests(self) -> list[tuple[Process, int]]:
        return [
            (jet_class_process(name, self.config.pthat, number), self.config.events)
            for number, name in enumerate(self.config.classes)
        ]

    def settings(self, seed: int) -> TaggingSettings:
        c = self.config
        return TaggingSettings(
            seed=seed,
            radius=c.radius,
            pt_min=c.jet_pt[0],
            pt_max=c.jet_pt[1],
            eta_max=c.jet_eta_max,
            match_radius=0.5 * c.radius,
            max_constituents=c.max_constituents,
        )

    def describe(self, samples: Sequence[Sample]) -> dict[str, Any]:
        c = self.config
        return {
            "label": pythia_label("particle level, no detector"),
            "class_names": [JET_CLASS_NAMES[name] for name in c.classes],
            "units": {"px": "GeV", "py": "GeV", "pz": "GeV", "e": "GeV", "pt": "GeV", "mass": "GeV"},
            "jets": f"anti-kT R={c.radius:g} of all visible final-state particles, "
            f"{c.jet_pt[0]:g} < pT < {c.jet_pt[1]:g} GeV, |eta| < {c.jet_eta_max:g}; one of each event at most",
            "classes_by": f"parton of the hard process within {0.5 * c.radius:g} of the jet's axis, one to one",
            "features": f"after the modified mass drop (z_cut {Z_CUT:g}), but zlogz and multiplicity; "
            "0 where a ratio is not defined",
            "not_generated": "detector; pileup; other processes, and other momenta, that make such jets",
        }
