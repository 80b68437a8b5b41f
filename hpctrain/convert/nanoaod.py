"""CMS NanoAOD: jets, leptons, missing momentum and, in files that have them, particle-flow candidates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveInt

from hpctrain.convert.base import Converter, ConverterConfig, Finite, Piece, listed
from hpctrain.convert.constituents import Links, constituents, find_links
from hpctrain.convert.detector_fields import GEV, by_first, cloud_field
from hpctrain.convert.root_files import RootTree, entry_ranges
from hpctrain.convert.rows import cast, stack
from hpctrain.data.columns import Array, Columns, RaggedRows, take
from hpctrain.data.schema import DenseField, Fields
from hpctrain.errors import UserError
from hpctrain.registry import register

OBJECTS = {
    "jets": ("Jet", ("pt", "eta", "phi", "mass", "btagDeepFlavB", "nConstituents", "hadronFlavour")),
    "fat_jets": (
        "FatJet",
        ("pt", "eta", "phi", "mass", "msoftdrop", "tau1", "tau2", "tau3", "nConstituents"),
    ),
    "muons": ("Muon", ("pt", "eta", "phi", "mass", "charge", "dxy", "dz", "pfRelIso04_all")),
    "electrons": ("Electron", ("pt", "eta", "phi", "mass", "charge", "dxy", "dz", "pfRelIso03_all")),
}
"""Field → its collection in the file, and the features taken when the user says nothing."""
PARTICLE_FEATURES = ("pt", "eta", "phi", "mass", "charge", "pdgId", "d0", "dz", "puppiWeight")
NEEDED = ("pt", "eta", "phi")
PARTICLE_TABLES = ("PFCands", "PFCand", "JetPFCands", "FatJetPFCands")
"""Names that the common customisations (PFNano, BTVNano, JMENano) give the candidates."""
METS = ("MET", "PuppiMET", "PFMET")
NUMBERS = {
    "run": ("run", "int64"),
    "luminosity_block": ("luminosityBlock", "int64"),
    "event": ("event", "uint64"),
}
"""Field → branch and type of what identifies an event; kept where the file has it."""
GENERATOR_WEIGHT = "genWeight (1 without one)"

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Layout:
    """What of the options a tree has."""

    objects: dict[str, dict[str, str]]
    """Field → feature → branch."""
    met: str | None
    numbers: dict[str, str]
    links: Links | None
    table: str
    """Collection of the particles."""
    particles: dict[str, str]
    """Feature → branch."""


@register("converters")
class NanoAod(Converter):
    """CMS NanoAOD: a row an event with its jets, leptons and particles, or a row a jet with its constituents."""

    default_weight = GENERATOR_WEIGHT
    packages = ("numpy", "uproot", "awkward")
    units: ClassVar[Mapping[str, str]] = {**GEV, "d0": "cm", "dxy": "cm", "dz": "cm", "msoftdrop": "GeV"}
    modules = ("uproot", "awkward")

    class Config(ConverterConfig):
        speed_keys: ClassVar[frozenset[str]] = frozenset({"batch"})
        kind: Literal["nanoaod"] = "nanoaod"
        tree: str = "Events"
        """Name of the tree."""
        per: Literal["event", "jet", "fat_jet"] = "event"
        """What a row is. Of jets: fields ``jet``, ``jet_index`` and its constituents as ``particles``; ``label``
        and ``weight`` may name branches of the jets, e.g. ``Jet_hadronFlavour``."""
        jets: tuple[str, ...] | None = None
        """Features of ``jets`` (and of ``jet``), the branches ``Jet_…``. None: momentum and the usual tags that
        the file has. Empty: no such field."""
        fat_jets: tuple[str, ...] | None = None
        """Features of ``fat_jets`` (and of ``jet``), the branches ``FatJet_…``; as above."""
        muons: tuple[str, ...] | None = None
        """Features of ``muons``; as above."""
        electrons: tuple[str, ...] | None = None
        """Features of ``electrons``; as above."""
        particles: tuple[str, ...] | None = None
        """Features of ``particles``, the particle-flow candidates; as above. Not in standard NanoAOD."""
        particle_table: str | None = None
        """Collection of the candidates. None: PFCands, PFCand, JetPFCands or FatJetPFCands."""
        links: str | None = None
        """Table that says which candidate is in which jet. None: JetPFCands, JetToPFCands … with their
        ``jetIdx`` and ``pFCandsIdx`` or ``candIdx``."""
        met: str | None = None
        """Missing momentum of the field ``met`` (pt, phi). None: MET, PuppiMET or PFMET."""
        jet_pt_min: NonNegativeFloat = 0.0
        """GeV; rows of jets only above it."""
        jet_eta_max: NonNegativeFloat | None = None
        """Rows of jets only within it."""
        batch: PositiveInt = 1000
        """Events in memory at a time."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._rows_field = {"event": "", "jet": "jets", "fat_jet": "fat_jets"}[config.per]

    def fields(self, path: Path) -> Fields:
        with RootTree(path, self.config.tree) as tree:
            layout = self._layout(tree)
        fields: dict[str, Any] = {}
        if self._rows_field:
            features = tuple(layout.objects[self._rows_field])
            fields["jet"] = DenseField(shape=(len(features),), features=features)
            fields["jet_index"] = DenseField(dtype="int64")
        else:
            fields.update({name: cloud_field(tuple(found)) for name, found in layout.objects.items()})
            if layout.met:
                fields["met"] = DenseField(shape=(2,), features=("pt", "phi"))
        if layout.particles:
            fields["particles"] = cloud_field(tuple(layout.particles))
        fields.update({name: DenseField(dtype=NUMBERS[name][1]) for name in layout.numbers})
        return fields

    def pieces(self, path: Path, number: int, scalars: Sequence[str]) -> Iterator[Piece]:
        with RootTree(path, self.config.tree) as tree:
            layout = self._layout(tree)
            for start, stop in entry_ranges(tree.entries, self.config.batch):
                raw = self._read(tree, layout, start, stop)
                asked: Columns = {name: self._scalar(tree, name, start, stop) for name in scalars}
                rows = np.arange(start, stop, dtype=np.int64)
                finite = Finite(self.config.non_finite, path, self.what)
                good = np.flatnonzero(finite.keep(rows, raw))
                raw, asked, rows = take(raw, good), take(asked, good), rows[good]
                if self._rows_field:
                    columns, jet, event = self._jet_rows(raw, layout, str(path))
                else:
                    columns, jet = self._event_rows(raw, layout, str(path)), None
                    event = np.arange(len(rows))
                yield Piece(
                    columns=columns,
                    rows=rows[event],
                    scalars={
                        name: self._one_a_row(path, name, v, jet, event, raw) for name, v in asked.items()
                    },
                    read=stop - start,
                    dropped=finite.dropped,
                    progress=stop / tree.entries,
                )

    def scalar(self, path: Path, name: str | None) -> Iterator[Array]:
        with RootTree(path, self.config.tree) as tree:
            if name == GENERATOR_WEIGHT:
                name = "genWeight" if tree.has("genWeight") else None
            yield from tree.numbers(name)

    def label(self, names: Sequence[str], about: Sequence[Mapping[str, Any]]) -> str:
        return self.config.description or f"CMS NanoAOD {listed(names)}"

    def describe(self) -> dict[str, Any]:
        return {"row": self.config.per}

    def about(self, path: Path) -> dict[str, Any]:
        with RootTree(path, self.config.tree) as tree:
            layout = self._layout(tree)
            return {
                "generator_weights": tree.has("genWeight"),
                **({"particles": layout.table} if layout.particles else {}),
                **({"met": layout.met} if layout.met else {}),
            }

    def _layout(self, tree: RootTree) -> _Layout:
        """What of the options the tree has. Raises ``UserError`` naming the branches that are missing."""
        wanted = [self._rows_field] if self._rows_field else list(OBJECTS)
        objects = {}
        for name in wanted:
            collection, usual = OBJECTS[name]
            found = _features(tree, collection, getattr(self.config, name), usual)
            if found:
                objects[name] = found
        if self._rows_field and not objects:
            collection = OBJECTS[self._rows_field][0]
            raise UserError(
                f"{tree.path}: per={self.config.per} needs {self._rows_field}, and there are none",
                hint=f"It takes the branches {', '.join(f'{collection}_{n}' for n in NEEDED)}, and no {self._rows_field}=[]",
            )
        table = self.config.particle_table
        if table is not None:
            tree.require([f"{table}_{name}" for name in NEEDED], "particle_table=NAME names the collection.")
        else:
            table = next((t for t in PARTICLE_TABLES if tree.has(f"{t}_pt")), None)
        particles: dict[str, str] = {}
        if table is not None:
            particles = _features(tree, table, self.config.particles, PARTICLE_FEATURES)
        elif self.config.particles:
            tree.require(
                [f"{PARTICLE_TABLES[0]}_pt"],
                "Standard NanoAOD has no particle-flow candidates; particle_table=NAME names those of this file.",
            )
        links = None
        if particles and table is not None and self._rows_field:
            links = find_links(tree, OBJECTS[self._rows_field][0], table, self.config.links)
        met = self.config.met
        if met is None:
            met = next((name for name in METS if tree.has(f"{name}_pt", f"{name}_phi")), None)
        else:
            tree.require([f"{met}_pt", f"{met}_phi"])
        numbers = {name: branch for name, (branch, _) in NUMBERS.items() if tree.has(branch)}
        if not objects and not particles:
            raise UserError(
                f"{tree.path}: none of the collections {', '.join(c for c, _ in OBJECTS.values())} is in the tree",
                hint="Is it NanoAOD? Its branches are like Jet_pt, nJet",
            )
        return _Layout(objects, None if self._rows_field else met, numbers, links, table or "", particles)

    def _read(self, tree: RootTree, layout: _Layout, start: int, stop: int) -> Columns:
        """Every branch that the fields need."""
        lists = [
            branch for found in (*layout.objects.values(), layout.particles) for branch in found.values()
        ]
        if layout.links is not None:
            lists += layout.links.branches
        raw: Columns = dict(tree.ragged(lists, start, stop))
        single = [
            *layout.numbers.values(),
            *([f"{layout.met}_pt", f"{layout.met}_phi"] if layout.met else []),
        ]
        return {**raw, **{name: tree.number(name, start, stop) for name in single}}

    def _scalar(self, tree: RootTree, name: str, start: int, stop: int) -> Array | RaggedRows:
        if name == GENERATOR_WEIGHT:
            if not tree.has("genWeight"):
                return np.ones(stop - start)
            name = "genWeight"
        return tree.read([name], start, stop)[name]

    def _event_rows(self, raw: Columns, layout: _Layout, where: str) -> Columns:
        columns: Columns = {name: _cloud(raw, found) for name, found in layout.objects.items()}
        if layout.met:
            met = [np.asarray(raw[f"{layout.met}_{part}"]) for part in ("pt", "phi")]
            columns["met"] = np.stack(met, axis=-1).astype(np.float32)
        if layout.particles:
            columns["particles"] = by_first(_cloud(raw, layout.particles))
        for name, branch in layout.numbers.items():
            columns[name] = _identity(raw, name, branch, where)
        return columns

    def _jet_rows(self, raw: Columns, layout: _Layout, where: str) -> tuple[Columns, Ints, Ints]:
        """Columns of a row a jet; its number among all jets, and its event among those in ``raw``."""
        features = layout.objects[self._rows_field]
        jets = _cloud(raw, features)
        place = {name: column for column, name in enumerate(features)}
        kept = jets.values[:, place["pt"]] >= self.config.jet_pt_min
        if self.config.jet_eta_max is not None:
            kept &= np.abs(jets.values[:, place["eta"]]) <= self.config.jet_eta_max
        chosen = np.flatnonzero(kept)
        event = jets.row_of_value()
        columns: Columns = {
            "jet": jets.values[chosen],
            "jet_index": (np.arange(len(event)) - jets.offsets[event])[chosen],
        }
        if layout.links is not None:
            link = [raw[name] for name in layout.links.branches]
            pair = [rows for rows in link if isinstance(rows, RaggedRows)]
            found = constituents(jets, _cloud(raw, layout.particles), pair[0], (*pair, None)[1], where)
            columns["particles"] = found.take(chosen)
        for name, branch in layout.numbers.items():
            columns[name] = _identity(raw, name, branch, where)[event[chosen]]
        return columns, chosen, event[chosen]

    def _one_a_row(
        self, path: Path, name: str, values: Any, jet: Ints | None, event: Ints, raw: Columns
    ) -> Array:
        """A scalar branch as one number a row: of the event, or of the jet where rows are jets."""
        if isinstance(values, RaggedRows):
            collection = OBJECTS[self._rows_field][0] if self._rows_field else ""
            counts = getattr(raw.get(f"{collection}_pt"), "counts", None)
            if jet is None or counts is None or not np.array_equal(counts, values.counts):
                raise UserError(
                    f"{path}: branch {name} is a list in each event, one number a row is wanted",
                    hint="A branch of the jets goes with per=jet or per=fat_jet",
                )
            values, event = values.values, jet
        if values.ndim != 1:
            raise UserError(f"{path}: branch {name} has several numbers an event, one is wanted")
        return np.asarray(values)[event]


def _features(
    tree: RootTree, collection: str, chosen: Sequence[str] | None, usual: Sequence[str]
) -> dict[str, str]:
    """Feature → branch. ``chosen`` must all be there; of the usual ones those that are; none without pt, η, φ."""
    if chosen is not None:
        features = list(dict.fromkeys((*NEEDED, *chosen))) if chosen else []
        tree.require([f"{collection}_{name}" for name in features])
    elif not tree.has(*(f"{collection}_{name}" for name in NEEDED)):
        return {}
    else:
        features = [name for name in usual if tree.has(f"{collection}_{name}")]
    return {name: f"{collection}_{name}" for name in features}


def _identity(raw: Columns, name: str, branch: str, where: str) -> Array:
    """A number that identifies events, in the type of its field."""
    field = DenseField(dtype=NUMBERS[name][1])
    return np.asarray(cast(np.asarray(raw[branch]), field, f"{where}: branch {branch}"))


def _cloud(raw: Columns, features: dict[str, str]) -> RaggedRows:
    parts = [rows for branch in features.values() if isinstance(rows := raw[branch], RaggedRows)]
    rows = stack(parts, ", ".join(features.values()))
    return RaggedRows(rows.offsets, rows.values.astype(np.float32))
