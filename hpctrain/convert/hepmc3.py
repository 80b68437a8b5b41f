"""HepMC3 events: final-state particles, and what our parametrised detector makes of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from hpctrain import registry
from hpctrain.convert.base import Converter, ConverterConfig, Finite, Piece, listed
from hpctrain.convert.detector_fields import (
    GEV,
    PRESELECTION,
    TOWER_FEATURES,
    by_first,
    cloud_field,
    fat_jet_columns,
    image_field,
    image_rows,
    jet_fields,
    tower_rows,
)
from hpctrain.convert.hepmc_files import HepMcInput
from hpctrain.convert.hepmc_particles import final_state
from hpctrain.convert.rows import falling, ragged_of
from hpctrain.data.columns import Array, Columns, RaggedRows, offsets_of, take
from hpctrain.data.schema import Fields, RaggedField
from hpctrain.errors import UserError
from hpctrain.physics.detector import DETECTOR_LABEL, describe_detector, simulate
from hpctrain.physics.jets import cluster_fat_jets
from hpctrain.physics.particles import Particles
from hpctrain.physics.propagation import pseudorapidity
from hpctrain.physics.selection import jet_variables
from hpctrain.registry import register

PARTICLE_FEATURES = ("pt", "eta", "phi", "e", "charge", "x", "y", "z")
TRACK_FEATURES = ("pt", "eta", "phi")
QUANTITIES = ("px", "py", "pz", "e", "x", "y", "z")


@register("converters")
class HepMc3(Converter):
    """HepMC3: generated events as particles, and simulated here as images, towers, tracks and fat jets."""

    default_weight = "weight"
    what = "quantity"
    packages = ("numpy", "pyhepmc", "particle", "zstandard", "fastjet")
    units: ClassVar[Mapping[str, str]] = {**GEV, "x": "mm", "y": "mm", "z": "mm"}
    modules = ("pyhepmc", "particle")

    class Config(ConverterConfig):
        speed_keys: ClassVar[frozenset[str]] = frozenset()
        kind: Literal["hepmc3"] = "hepmc3"
        particles: bool = True
        """Make the fields ``particles`` (pt, eta, phi, e, charge and production point x, y, z; GeV, mm) and
        ``particles_pdg``: the final state, by falling pT."""
        eta_max: PositiveFloat = 10.0
        """Particles nearer to the beam than this are left out of ``particles``; the detector sees them."""
        neutral: tuple[int, ...] = ()
        """PDG codes to take as neutral: those that the numbering scheme gives no charge."""
        simulate: bool = True
        """Simulate the detector: fields ``image``, ``towers`` and ``tracks``."""
        image_bins: Annotated[int, Field(ge=4, le=1024)] = 64
        """Cells of the image in η and in φ."""
        fat_jets: bool = True
        """Cluster fat jets of the simulated towers: jets, n_jets, sum_mass, delta_eta, selected."""
        trimmed: bool = True
        """Trim them (R 0.2, pT fraction 0.05)."""
        preselect: bool = False
        """Keep only events with a leading fat jet above 440 GeV and at least 3 fat jets."""
        seed: NonNegativeInt = 1
        """Of the detector's random numbers, which follow from it, the file's number among the inputs and ``batch``."""
        batch: PositiveInt = 100
        """Events in memory, and simulated, at a time."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._jets = config.simulate and config.fat_jets

    def check(self) -> None:
        super().check()
        config = self.config
        if self._jets and importlib.util.find_spec("fastjet") is None:
            raise UserError(
                "fat jets need fastjet", hint="pip install 'hpctrain[physics]', or fat_jets=false"
            )
        if config.preselect and not self._jets:
            raise UserError("preselect needs simulate and fat_jets", hint="Leave them true")
        if not (config.particles or config.simulate):
            raise UserError(
                "neither particles nor simulate is wanted: nothing is left", hint="Leave one true"
            )

    def fields(self, path: Path) -> Fields:
        with HepMcInput(path):
            pass  # not HepMC3: better said before anything is converted
        fields: dict[str, Any] = {}
        if self.config.simulate:
            fields["image"] = image_field(self.config.image_bins)
        if self._jets:
            fields.update(jet_fields(fat=True))
        if self.config.particles:
            fields["particles"] = cloud_field(PARTICLE_FEATURES)
            fields["particles_pdg"] = RaggedField(dtype="int32")
        if self.config.simulate:
            fields["towers"] = cloud_field(TOWER_FEATURES)
            fields["tracks"] = cloud_field(TRACK_FEATURES)
        return fields

    def pieces(self, path: Path, number: int, scalars: Sequence[str]) -> Iterator[Piece]:
        with HepMcInput(path) as file:
            events = iter(file)
            batch = start = 0
            while some := list(islice(events, self.config.batch)):
                found = final_state(some, self.config.neutral, str(path))
                rows = np.arange(start, start + len(some), dtype=np.int64)
                offsets = offsets_of(np.bincount(found.event, minlength=len(some)))
                finite = Finite(self.config.non_finite, path, self.what)
                good = finite.keep(rows, {q: RaggedRows(offsets, getattr(found, q)) for q in QUANTITIES})
                chosen = np.flatnonzero(good)
                if not len(chosen):
                    yield Piece.nothing(scalars, len(some), finite.dropped, file.progress)
                    start, batch = start + len(some), batch + 1
                    continue
                random = np.random.default_rng([self.config.seed, number, batch])
                columns, passed = self._columns(_only(found, good), random)
                if self.config.preselect:
                    columns, chosen = take(columns, passed), chosen[passed]
                yield Piece(
                    columns=columns,
                    rows=rows[chosen],
                    scalars={
                        name: np.array([_number(event, name, path) for event in some])[chosen]
                        for name in scalars
                    },
                    read=len(some),
                    dropped=finite.dropped,
                    progress=file.progress,
                )
                start, batch = start + len(some), batch + 1

    def scalar(self, path: Path, name: str | None) -> Iterator[Array]:
        with HepMcInput(path) as file:
            events = iter(file)
            while some := [
                1.0 if name is None else _number(event, name, path) for event in islice(events, 1000)
            ]:
                yield np.array(some)

    def label(self, names: Sequence[str], about: Sequence[Mapping[str, Any]]) -> str:
        what = self.config.description or f"HepMC3 {listed(names)}"
        return f"{what}, {DETECTOR_LABEL}" if self.config.simulate else what

    def describe(self) -> dict[str, Any]:
        config = self.config
        if not config.simulate:
            return {}
        trimmed = "trimmed R=0.2, pT fraction 0.05" if config.trimmed else "untrimmed"
        return {
            "detector": describe_detector(),
            "seed": config.seed,
            **({"jets": f"anti-kT R=1.0, {trimmed}"} if self._jets else {}),
            **({"preselection": PRESELECTION} if config.preselect else {}),
        }

    def about(self, path: Path) -> dict[str, Any]:
        with HepMcInput(path) as file:
            for event in file:
                tools = [f"{tool.name} {tool.version}".strip() for tool in event.run_info.tools]
                return {
                    "generators": tools,
                    "weights": list(event.run_info.weight_names),
                    "units": f"{event.momentum_unit.name} {event.length_unit.name}",
                }
        return {}

    def _columns(self, found: Particles, random: np.random.Generator) -> tuple[Columns, NDArray[np.int64]]:
        """Columns of all fields, and the numbers of the events that pass the preselection (all without fat jets)."""
        columns: Columns = {}
        passed = np.arange(found.n_events)
        if self.config.particles:
            columns.update(_particle_rows(found, self.config.eta_max))
        if self.config.simulate:
            seen = simulate(found, random)
            tracks = seen.tracks
            columns["image"] = image_rows(
                seen.towers, tracks.event, tracks.eta, tracks.phi, self.config.image_bins
            )
            columns["towers"] = tower_rows(seen.towers)
            parts = (tracks.pt, tracks.eta, tracks.phi)
            columns["tracks"] = by_first(ragged_of(tracks.event, parts, found.n_events))
            if self._jets:
                variables = jet_variables(cluster_fat_jets(seen.towers, trimmed=self.config.trimmed))
                columns.update(fat_jet_columns(variables))
                passed = np.flatnonzero(variables.preselected)
        return columns, passed


def _only(found: Particles, good: NDArray[np.bool_]) -> Particles:
    """The particles of the good events, which are numbered anew."""
    if good.all():
        return found
    kept = found.where(good[found.event])
    fields = {name: getattr(kept, name) for name in ("pdg", "charge", "px", "py", "pz", "e", "x", "y", "z")}
    return Particles(n_events=int(good.sum()), event=(np.cumsum(good) - 1)[kept.event], **fields)


def _particle_rows(found: Particles, eta_max: float) -> Columns:
    pt = np.hypot(found.px, found.py)
    eta = pseudorapidity(pt, found.pz)
    kept = np.abs(eta) <= eta_max  # not those on the beam axis, whose η is infinite (or no number)
    only = found.where(kept)
    features = (
        pt[kept], eta[kept], np.arctan2(only.py, only.px), only.e, only.charge, only.x, only.y, only.z,
    )  # fmt: skip
    rows = ragged_of(only.event, features, found.n_events)
    order = falling(rows, pt[kept])
    return {
        "particles": RaggedRows(rows.offsets, rows.values[order]),
        "particles_pdg": RaggedRows(rows.offsets, only.pdg[order].astype(np.int32)),
    }


def _number(event: Any, name: str, path: Path) -> float:
    """The event's weight of that name (``weight``: its first, 1 without any), or an attribute that is a number."""
    names = list(event.run_info.weight_names)
    if name in names:
        return float(event.weights[names.index(name)])
    if name == "weight":
        return float(event.weights[0]) if len(event.weights) else 1.0
    if name in event.attributes:
        value = event.attributes[name]
        try:
            return float(value.astype(float) if hasattr(value, "astype") else value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{path}: the attribute {name} of event {event.event_number} is no number"
            ) from error
    known = ["weight", *names, *(key for key, _ in event.attributes.items())]
    raise UserError(
        f"{path}: event {event.event_number} has no weight or attribute '{name}'",
        hint=registry.nearest(name, known, "it has"),
    )
