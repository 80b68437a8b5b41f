"""W jets of W′ → WZ against QCD jets of the same momentum and mass: images, constituents, N-subjettiness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveInt, model_validator

from hpctrain.data.columns import Columns, RaggedRows, SparseRows, index_dtype
from hpctrain.data.curation.feature_scale import FeatureScale
from hpctrain.data.curation.image_scale import ImageScale
from hpctrain.data.schema import DenseField, Fields, RaggedField, SparseField
from hpctrain.ingest.assemble import Sample
from hpctrain.ingest.chunks import Settings
from hpctrain.ingest.generation import FinitePositive, Generation, GenerationConfig, pythia_label
from hpctrain.ingest.jet_settings import JetBatch, JetSettings
from hpctrain.ingest.scale import Scale
from hpctrain.physics.jet_features import CONSTITUENT_FEATURES, MAX_CONSTITUENTS, constituent_features
from hpctrain.physics.jet_images import PIXEL, TRIM_FRACTION, TRIM_RADIUS, jet_images, n_subjettiness, trim
from hpctrain.physics.jet_processes import qcd, wprime_to_wz
from hpctrain.physics.particle_jets import ParticleJets
from hpctrain.physics.particles import Particles
from hpctrain.physics.processes import Process
from hpctrain.registry import register


@dataclass(frozen=True)
class JetImageSettings(JetSettings):
    """Jets in a window of trimmed momentum and mass."""

    trimmed_pt: tuple[float, float]
    trimmed_mass: tuple[float, float]
    image_bins: int

    def jet_fields(self) -> Fields:
        """``image``, ``particles``, trimmed pT and mass, τ₂₁."""
        return {
            "image": SparseField(shape=(1, self.image_bins, self.image_bins)),
            "particles": RaggedField(shape=(len(CONSTITUENT_FEATURES),), features=CONSTITUENT_FEATURES),
            "trimmed": DenseField(shape=(2,), features=("pt", "mass")),
            "tau21": DenseField(),
        }

    def accepted(self, particles: Particles, jets: ParticleJets) -> npt.NDArray[np.bool_]:
        """Trimmed pT and mass in their windows."""
        total = trim(jets.constituents(particles)).constituents.total()
        (pt_low, pt_high), (m_low, m_high) = self.trimmed_pt, self.trimmed_mass
        return (total.pt > pt_low) & (total.pt < pt_high) & (total.mass > m_low) & (total.mass < m_high)

    def columns(self, batch: JetBatch, rng: np.random.Generator) -> Columns:
        """All of the trimmed jet; constituents by falling pT."""
        trimmed = trim(batch.jets.constituents(batch.particles))
        constituents = trimmed.constituents.sorted_by_pt()
        kept = constituents.sorted_by_pt(MAX_CONSTITUENTS)
        images = jet_images(trimmed, bins=self.image_bins)
        total = constituents.total()
        one, two = (n_subjettiness(constituents, n, radius=self.radius) for n in (1, 2))
        return {
            "image": SparseRows(
                images.offsets, images.indices.astype(index_dtype(self.image_bins**2)), images.values
            ),
            "particles": RaggedRows(
                kept.offsets, constituent_features(constituents)[constituents.order(MAX_CONSTITUENTS)]
            ),
            "trimmed": np.stack([total.pt, total.mass], axis=1).astype(np.float32),
            "tau21": np.divide(two, one, out=np.zeros_like(two), where=one > 0.0).astype(np.float32),
        }


@register("ingest")
class PythiaJetImages(Generation):
    """W′ → WZ (label 1, ``wprime_wz``) against QCD (label 0): the two-class sample of the jet-image studies."""

    classes = ("QCD", "W′ → WZ")
    rows = "jets, one an event at most,"

    class Config(GenerationConfig):
        kind: Literal["pythia_jet_images"] = "pythia_jet_images"
        wprime_events: PositiveInt = 7500
        """W′ → WZ events to generate; about 0.14 of them give a jet in the window."""
        qcd_events: PositiveInt = 33_000
        """QCD events to generate; about 0.03 of them give a jet in the window."""
        m_wprime: FinitePositive = 550.0
        """GeV; the W's pT then peaks near 250 GeV."""
        qcd_pthat: tuple[FinitePositive, FinitePositive] = (200.0, 350.0)
        """Range of p̂T of QCD in GeV."""
        events_per_chunk: PositiveInt = 3000
        """Most events of one task."""
        jet_pt: tuple[FinitePositive, FinitePositive] = (240.0, 260.0)
        """Window of the trimmed jet's transverse momentum in GeV."""
        jet_mass: tuple[Annotated[float, Field(ge=0)], FinitePositive] = (65.0, 95.0)
        """Window of the trimmed jet's mass in GeV."""
        jet_eta_max: FinitePositive = 2.0
        """Largest pseudorapidity of a jet."""
        radius: FinitePositive = 1.0
        """Of the anti-kT jets."""
        image_bins: Annotated[int, Field(ge=5, le=200)] = 25
        """Pixels of the image each way, 0.1 wide."""

        @model_validator(mode="after")
        def _windows(self) -> Self:
            for name in ("qcd_pthat", "jet_pt", "jet_mass"):
                low, high = getattr(self, name)
                if low >= high:
                    raise ValueError(f"{name}: {low:g} is not below {high:g}")
            return self

    config: Config

    def requests(self) -> list[tuple[Process, int]]:
        c = self.config
        return [(wprime_to_wz(c.m_wprime), c.wprime_events), (qcd(c.qcd_pthat), c.qcd_events)]

    def settings(self, seed: int) -> JetImageSettings:
        c = self.config
        return JetImageSettings(
            seed=seed,
            radius=c.radius,
            pt_min=c.jet_pt[0],  # trimming only takes away
            pt_max=1e5,
            eta_max=c.jet_eta_max,
            match_radius=0.5 * c.radius,
            trimmed_pt=c.jet_pt,
            trimmed_mass=c.jet_mass,
            image_bins=c.image_bins,
        )

    def scale(self, settings: Settings) -> Scale:
        return _ImagesAndFeatures(settings.fields())

    def describe(self, samples: Sequence[Sample]) -> dict[str, Any]:
        c = self.config
        return {
            "label": pythia_label("particle level, no detector"),
            "class_names": list(self.classes),
            "units": {"pt": "GeV", "mass": "GeV"},
            "jets": f"anti-kT R={c.radius:g} of all visible final-state particles, trimmed (kT R={TRIM_RADIUS:g}, pT "
            f"fraction {TRIM_FRACTION:g}), {c.jet_pt[0]:g} < pT < {c.jet_pt[1]:g} GeV, {c.jet_mass[0]:g} < m < "
            f"{c.jet_mass[1]:g} GeV, |eta| < {c.jet_eta_max:g}; one of each event at most; signal within "
            f"{0.5 * c.radius:g} of the W boson",
            "image": f"pT [GeV] in pixels of {PIXEL:g}; hardest prong in the centre, next one below, right half "
            "the harder; not normalised",
            "not_generated": f"QCD outside p-hat_T {c.qcd_pthat[0]:g}-{c.qcd_pthat[1]:g} GeV; detector; pileup",
        }


class _ImagesAndFeatures:
    """Constants of the image and of the named features."""

    def __init__(self, fields: Fields) -> None:
        self._both: tuple[Scale, Scale] = (ImageScale(fields), FeatureScale(fields))

    def add(self, columns: Columns) -> None:
        for scale in self._both:
            scale.add(columns)

    def constants(self) -> dict[str, Any]:
        return {**self._both[0].constants(), **self._both[1].constants()}
