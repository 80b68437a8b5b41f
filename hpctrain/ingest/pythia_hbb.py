"""H → bb̄ jets against QCD: tracks and secondary vertices from the generator's vertices, smeared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from hpctrain.data.columns import Columns, RaggedRows
from hpctrain.data.schema import DenseField, Fields, RaggedField
from hpctrain.ingest.assemble import Sample
from hpctrain.ingest.generation import FinitePositive, Generation, GenerationConfig, pythia_label
from hpctrain.ingest.jet_settings import JetBatch, JetSettings
from hpctrain.physics.b_jets import REPLACED, TRACK_FEATURES, b_jet_inputs
from hpctrain.physics.impact_parameters import SMEARING_LABEL
from hpctrain.physics.jet_processes import higgs_to_bb, qcd
from hpctrain.physics.particle_jets import modified_mass_drop
from hpctrain.physics.partons import heavy_hadrons_in
from hpctrain.physics.processes import Process
from hpctrain.physics.secondary_vertices import VERTEX_FEATURES
from hpctrain.registry import register


@dataclass(frozen=True)
class HiggsJetSettings(JetSettings):
    """Jets with tracks and secondary vertices."""

    def jet_fields(self) -> Fields:
        """``tracks``, ``vertices``, the groomed mass, and the numbers of b and c hadrons."""
        return {
            "tracks": RaggedField(shape=(len(TRACK_FEATURES),), features=TRACK_FEATURES),
            "vertices": RaggedField(shape=(len(VERTEX_FEATURES),), features=VERTEX_FEATURES),
            "groomed_mass": DenseField(),
            "n_b_hadrons": DenseField(dtype="int64"),
            "n_c_hadrons": DenseField(dtype="int64"),
        }

    def columns(self, batch: JetBatch, rng: np.random.Generator) -> Columns:
        """Tracks by falling significance of the impact parameter, vertices by that of their flight."""
        found = b_jet_inputs(batch.particles, batch.jets, rng)
        constituents = batch.jets.constituents(batch.particles)
        jets = batch.jets.jets
        return {
            "tracks": RaggedRows(found.track_offsets, found.tracks),
            "vertices": RaggedRows(found.vertex_offsets, found.vertices),
            "groomed_mass": modified_mass_drop(constituents).total().mass.astype(np.float32),
            "n_b_hadrons": heavy_hadrons_in(jets, batch.record, 5, radius=self.radius),
            "n_c_hadrons": heavy_hadrons_in(jets, batch.record, 4, radius=self.radius),
        }


@register("ingest")
class PythiaHbb(Generation):
    """Boosted H → bb̄ (label 1) and QCD jets (label 0) with up to 60 tracks and 5 secondary vertices each."""

    classes = ("QCD", "H → bb̄")
    rows = "jets, one an event at most,"

    class Config(GenerationConfig):
        kind: Literal["pythia_hbb"] = "pythia_hbb"
        pthat: Annotated[tuple[FinitePositive, ...], Field(min_length=2)] = (350.0, 450.0, 600.0, 800.0)
        """Edges in GeV of the slices of p̂T; in both classes alike, so that pT tells them little apart."""
        higgs_events: PositiveInt = 2000
        """H → bb̄ events to generate in each slice; about 0.9 of them give a jet."""
        qcd_events: PositiveInt = 2000
        """QCD events to generate in each slice; nearly all give a jet."""
        m_higgs: FinitePositive = 125.0
        """GeV."""
        jet_pt: tuple[FinitePositive, FinitePositive] = (300.0, 1000.0)
        """Range of the jets' transverse momentum in GeV."""
        jet_eta_max: FinitePositive = 2.0
        """Largest pseudorapidity of a jet: its tracks are measured to 2.5."""
        radius: FinitePositive = 0.8
        """Of the anti-kT jets."""

        @model_validator(mode="after")
        def _makes_sense(self) -> Self:
            if any(low >= high for low, high in pairwise(self.pthat)):
                raise ValueError("pthat: the edges must rise")
            if self.jet_pt[0] >= self.jet_pt[1]:
                raise ValueError(f"jet_pt: {self.jet_pt[0]:g} is not below {self.jet_pt[1]:g}")
            return self

    config: Config

    def requests(self) -> list[tuple[Process, int]]:
        c = self.config
        slices = list(pairwise(c.pthat))
        return [
            *((higgs_to_bb(pthat, c.m_higgs), c.higgs_events) for pthat in slices),
            *((qcd(pthat), c.qcd_events) for pthat in slices),
        ]

    def settings(self, seed: int) -> HiggsJetSettings:
        c = self.config
        return HiggsJetSettings(
            seed=seed,
            radius=c.radius,
            pt_min=c.jet_pt[0],
            pt_max=c.jet_pt[1],
            eta_max=c.jet_eta_max,
            match_radius=0.5 * c.radius,
        )

    def describe(self, samples: Sequence[Sample]) -> dict[str, Any]:
        c = self.config
        return {
            "label": pythia_label(f"particle level, {SMEARING_LABEL}"),
            "class_names": list(self.classes),
            "units": {"pt": "GeV", "mass": "GeV", "groomed_mass": "GeV"},
            "jets": f"anti-kT R={c.radius:g} of all visible final-state particles, "
            f"{c.jet_pt[0]:g} < pT < {c.jet_pt[1]:g} GeV, |eta| < {c.jet_eta_max:g}; one of each event at most; "
            f"signal within {0.5 * c.radius:g} of the Higgs boson",
            "tracks": "charged, pT > 0.95 GeV, |eta| < 2.5, efficiency of the parametrised tracker; toy resolution "
            "(10 um first layer at 30 mm, 2.5 mrad GeV scattering); by falling |Sip2dSig|",
            "vertices": "true decay points that two tracks share, 0.1 to 50 mm from the beam, smeared by 0.2 mm "
            "along the flight and 0.02 mm across; by falling d3dsig",
            "not_as_in_cms": {**REPLACED, "fakes": "no fake tracks, no fake or merged vertices, no material"},
            "not_generated": f"p-hat_T outside {c.pthat[0]:g}-{c.pthat[-1]:g} GeV; gluon fusion; pileup; detector",
        }
