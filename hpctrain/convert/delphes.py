"""Delphes ROOT trees: towers, tracks and jets → images, point clouds and jets (arXiv:1307.6346)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from hpctrain.convert.base import Converter, ConverterConfig, Finite, Piece, listed
from hpctrain.convert.detector_fields import (
    GEV,
    JET_FEATURES,
    PRESELECTION,
    TOWER_FEATURES,
    by_first,
    cloud_field,
    fat_jet_columns,
    image_field,
    image_rows,
    jet_fields,
    leading_jets,
    tower_rows,
)
from hpctrain.convert.root_files import RootTree, entry_ranges
from hpctrain.convert.rows import stack
from hpctrain.data.columns import Array, Columns, RaggedRows, take
from hpctrain.data.schema import DenseField, Fields
from hpctrain.errors import UserError
from hpctrain.physics.calorimeter import Towers
from hpctrain.physics.jets import Jets, cluster_fat_jets
from hpctrain.physics.selection import jet_variables
from hpctrain.registry import register

TOWER_BRANCHES = ("Eta", "Phi", "Eem", "Ehad")
TRACK_FEATURES = {"pt": ("PT",), "eta": ("Eta",), "phi": ("Phi",), "charge": ("Charge",)}
TRACK_EXTRAS = {"d0": ("D0", "Dxy"), "dz": ("DZ",)}
"""Feature → branches that have it, by version of Delphes: ``Dxy`` became ``D0`` in 3.4."""
JET_BRANCHES = ("PT", "Eta", "Phi", "Mass")
FAT = "FatJet"
FLOW = ("EFlowPhoton", "EFlowNeutralHadron")
"""Energy flow: what the tracks do not explain, of files without towers."""


@dataclass(frozen=True)
class _Layout:
    """What of the options a tree has."""

    jets: str | None
    """Collection of jets, None where they are clustered here."""
    fat: bool
    tracks: dict[str, str]
    """Feature → branch."""
    met: bool


@register("converters")
class Delphes(Converter):
    """Delphes trees: towers and tracks as images and point clouds, jets; as generated samples have them."""

    default_weight = "Event.Weight"
    packages = ("numpy", "uproot", "awkward", "fastjet")
    units: ClassVar[Mapping[str, str]] = {**GEV, "d0": "mm", "dz": "mm"}
    modules = ("uproot", "awkward")

    class Config(ConverterConfig):
        speed_keys: ClassVar[frozenset[str]] = frozenset({"batch"})
        kind: Literal["delphes"] = "delphes"
        tree: str = "Delphes"
        """Name of the tree."""
        towers: Annotated[tuple[str, ...], Field(min_length=1)] = ("Tower",)
        """Collections of calorimeter towers (branches Eta, Phi, Eem, Ehad), put together. Files without
        ``Tower`` may have ``[EFlowPhoton, EFlowNeutralHadron]``: what the tracks do not explain."""
        tracks: str = "Track"
        """Collection of tracks."""
        image_bins: Annotated[int, Field(ge=4, le=1024)] = 64
        """Cells of the image in η and in φ."""
        images: bool = True
        """Make the field ``image``."""
        clouds: bool = True
        """Make the fields ``towers`` and ``tracks``."""
        jets: str | None = None
        """Collection of jets for the field ``jets``. None: ``FatJet`` where there is one, else ``Jet``."""
        fat: bool | None = None
        """Whether these are fat jets: then only pT > 200 GeV and |η| < 2.0 count, and the variables of the RPV
        search are added (n_jets, sum_mass, delta_eta, selected). None: yes for ``FatJet``."""
        trimmed: bool = True
        """Of fat jets take the trimmed momentum (``TrimmedP4``)."""
        cluster: bool = False
        """Cluster fat jets from the towers here instead: anti-kT R = 1.0, trimmed or not as above."""
        preselect: bool = False
        """Keep only events with a leading fat jet above 440 GeV and at least 3 fat jets."""
        gen_jets: bool = False
        """Make the field ``gen_jets`` of ``GenJet``."""
        batch: PositiveInt = 500
        """Events in memory at a time."""

    config: Config

    def check(self) -> None:
        super().check()
        if self.config.cluster and importlib.util.find_spec("fastjet") is None:
            raise UserError("cluster=true needs fastjet", hint="pip install 'hpctrain[physics]'")

    def fields(self, path: Path) -> Fields:
        with RootTree(path, self.config.tree) as tree:
            layout = self._layout(tree)
        fields: dict[str, Any] = jet_fields(fat=layout.fat)
        if self.config.images:
            fields["image"] = image_field(self.config.image_bins)
        if self.config.clouds:
            fields["towers"] = cloud_field(TOWER_FEATURES)
            fields["tracks"] = cloud_field(tuple(layout.tracks))
        if self.config.gen_jets:
            fields["gen_jets"] = cloud_field(JET_FEATURES)
        if layout.met:
            fields["met"] = DenseField(shape=(2,), features=("pt", "phi"))
        return fields

    def pieces(self, path: Path, number: int, scalars: Sequence[str]) -> Iterator[Piece]:
        with RootTree(path, self.config.tree) as tree:
            layout = self._layout(tree)
            for start, stop in entry_ranges(tree.entries, self.config.batch):
                raw = self._read(tree, layout, start, stop)
                rows = np.arange(start, stop, dtype=np.int64)
                finite = Finite(self.config.non_finite, path, self.what)
                chosen = np.flatnonzero(finite.keep(rows, raw))
                if not len(chosen):
                    yield Piece.nothing(scalars, stop - start, finite.dropped, stop / tree.entries)
                    continue
                columns, passed = self._columns({n: v.take(chosen) for n, v in raw.items()}, layout)
                if self.config.preselect:
                    columns, chosen = take(columns, passed), chosen[passed]
                yield Piece(
                    columns=columns,
                    rows=rows[chosen],
                    scalars={name: tree.number(name, start, stop)[chosen] for name in scalars},
                    read=stop - start,
                    dropped=finite.dropped,
                    progress=stop / tree.entries,
                )

    def scalar(self, path: Path, name: str | None) -> Iterator[Array]:
        with RootTree(path, self.config.tree) as tree:
            yield from tree.numbers(name)

    def label(self, names: Sequence[str], about: Sequence[Mapping[str, Any]]) -> str:
        return self.config.description or f"Delphes {listed(names)}"

    def describe(self) -> dict[str, Any]:
        config = self.config
        return {
            "towers": list(config.towers),
            **({"preselection": PRESELECTION} if config.preselect else {}),
        }

    def about(self, path: Path) -> dict[str, Any]:
        with RootTree(path, self.config.tree) as tree:
            layout = self._layout(tree)
        trimmed = "trimmed" if self.config.trimmed else "untrimmed"
        if layout.jets is None:
            return {"jets": f"anti-kT R=1.0 of the towers, {trimmed}"}
        return {"jets": f"{layout.jets}, {trimmed}" if layout.fat else layout.jets}

    def _layout(self, tree: RootTree) -> _Layout:
        """What of the options the tree has. Raises ``UserError`` naming the branches that are missing."""
        config = self.config
        jets = None if config.cluster else config.jets
        if jets is None and not config.cluster:
            jets = FAT if tree.has(f"{FAT}.PT") else "Jet"
        fat = config.cluster or (
            jets is not None and jets.startswith(FAT) if config.fat is None else config.fat
        )
        if config.preselect and not fat:
            raise UserError(
                f"{tree.path}: preselect needs fat jets, the jets are {jets}",
                hint="cluster=true makes fat jets of the towers; fat=true says that these are fat",
            )
        wanted = [f"{jets}.{name}" for name in JET_BRANCHES] if jets else []
        if self._needs_towers:
            wanted += [f"{collection}.{name}" for collection in config.towers for name in TOWER_BRANCHES]
        if config.images or config.clouds:
            wanted += [f"{config.tracks}.{name}" for (name,) in TRACK_FEATURES.values()]
        if config.gen_jets:
            wanted += [f"GenJet.{name}" for name in JET_BRANCHES]
        if self._trims(jets, fat=fat):
            wanted.append(f"{jets}.TrimmedP4")
        tree.require(wanted, self._cure(tree, wanted))
        tracks = {feature: f"{config.tracks}.{names[0]}" for feature, names in TRACK_FEATURES.items()}
        for feature, names in TRACK_EXTRAS.items():
            there = [f"{config.tracks}.{name}" for name in names if tree.has(f"{config.tracks}.{name}")]
            tracks.update({feature: there[0]} if there else {})
        return _Layout(jets, fat, tracks, met=tree.has("MissingET.MET", "MissingET.Phi"))

    def _cure(self, tree: RootTree, wanted: Sequence[str]) -> str:
        """What to say to the options for branches that are missing."""
        missing = {name.split(".")[0] for name in wanted if not tree.has(name)}
        if any(name.endswith(".TrimmedP4") and not tree.has(name) for name in wanted):
            return "trimmed=false reads whole fat jets; cluster=true makes trimmed ones of the towers."
        if missing & set(self.config.towers):
            flow = [name for name in FLOW if tree.has(f"{name}.Eem")]
            instead = f"towers='[{', '.join(flow)}]' takes these instead; " if flow else ""
            return f"{instead}images=false and clouds=false do without towers."
        if self.config.tracks in missing:
            instead = "tracks=EFlowTrack takes these instead; " if tree.has("EFlowTrack.PT") else ""
            return f"{instead}images=false and clouds=false do without tracks."
        return "jets=NAME names other jets; cluster=true makes fat jets of the towers."

    @property
    def _needs_towers(self) -> bool:
        return self.config.images or self.config.clouds or self.config.cluster

    def _trims(self, jets: str | None, *, fat: bool) -> bool:
        """Whether trimmed momenta are read from the file."""
        return jets is not None and fat and self.config.trimmed

    def _read(self, tree: RootTree, layout: _Layout, start: int, stop: int) -> dict[str, RaggedRows]:
        """Every branch that the fields need, as lists."""
        names: list[str] = []
        if self._needs_towers:
            names += [f"{c}.{name}" for c in self.config.towers for name in TOWER_BRANCHES]
        if self.config.images or self.config.clouds:
            names += layout.tracks.values()
        if layout.jets:
            names += [f"{layout.jets}.{name}" for name in JET_BRANCHES]
        if self.config.gen_jets:
            names += [f"GenJet.{name}" for name in JET_BRANCHES]
        if layout.met:
            names += ["MissingET.MET", "MissingET.Phi"]
        raw = tree.ragged(names, start, stop)
        if self._trims(layout.jets, fat=layout.fat):
            name = f"{layout.jets}.TrimmedP4"
            raw[name] = _trimmed(tree, name, raw[f"{layout.jets}.PT"], start, stop)
        return raw

    def _columns(self, raw: dict[str, RaggedRows], layout: _Layout) -> tuple[Columns, NDArray[np.int64]]:
        """Columns of all fields, and the numbers of the events that pass the preselection (all without fat jets)."""
        config = self.config
        columns: Columns = {}
        towers = self._towers(raw) if self._needs_towers else None
        if towers is not None and config.images:
            eta, phi = raw[layout.tracks["eta"]], raw[layout.tracks["phi"]]
            columns["image"] = image_rows(
                towers, eta.row_of_value(), eta.values.astype(np.float64), phi.values.astype(np.float64),
                config.image_bins,
            )  # fmt: skip
        if towers is not None and config.clouds:
            columns["towers"] = tower_rows(towers)
            columns["tracks"] = by_first(_cloud([raw[name] for name in layout.tracks.values()]))
        passed = np.arange(len(next(iter(raw.values()))))
        if layout.fat:
            if layout.jets is None and towers is not None:
                jets = cluster_fat_jets(towers, trimmed=config.trimmed)
            else:
                jets = self._fat_jets(raw, layout)
            variables = jet_variables(jets)
            columns.update(fat_jet_columns(variables))
            passed = np.flatnonzero(variables.preselected)
        else:
            columns.update(leading_jets(_cloud([raw[f"{layout.jets}.{name}"] for name in JET_BRANCHES])))
        if config.gen_jets:
            columns["gen_jets"] = by_first(_cloud([raw[f"GenJet.{name}"] for name in JET_BRANCHES]))
        if layout.met:
            columns["met"] = _first([raw["MissingET.MET"], raw["MissingET.Phi"]])
        return columns, passed

    def _towers(self, raw: dict[str, RaggedRows]) -> Towers:
        """All collections together, event by event, in GeV."""
        parts = {
            name: [raw[f"{collection}.{name}"] for collection in self.config.towers]
            for name in TOWER_BRANCHES
        }
        event = np.concatenate([part.row_of_value() for part in parts["Eta"]])
        order = np.argsort(event, kind="stable")
        eta, phi, ecal, hcal = (
            np.concatenate([part.values for part in parts[name]]).astype(np.float64)[order]
            for name in TOWER_BRANCHES
        )
        return Towers(len(parts["Eta"][0]), event[order], eta, phi, ecal, hcal)

    def _fat_jets(self, raw: dict[str, RaggedRows], layout: _Layout) -> Jets:
        if self._trims(layout.jets, fat=True):
            rows = raw[f"{layout.jets}.TrimmedP4"]
            return Jets(len(rows), rows.row_of_value(), *rows.values.T)
        rows = raw[f"{layout.jets}.PT"]
        pt, eta, phi, mass = (raw[f"{layout.jets}.{n}"].values.astype(np.float64) for n in JET_BRANCHES)
        px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
        energy = np.sqrt(px**2 + py**2 + pz**2 + mass**2)
        return Jets(len(rows), rows.row_of_value(), px, py, pz, energy)


def _cloud(parts: Sequence[RaggedRows]) -> RaggedRows:
    rows = stack(parts, "objects of one collection")
    return RaggedRows(rows.offsets, rows.values.astype(np.float32))


def _first(parts: Sequence[RaggedRows]) -> Array:
    """(n, parts): the first item of each event's list, 0 where it is empty."""
    out = np.zeros((len(parts[0]), len(parts)), dtype=np.float32)
    for column, rows in enumerate(parts):
        some = rows.counts > 0
        out[some, column] = rows.values[rows.offsets[:-1][some]]
    return out


def _trimmed(tree: RootTree, name: str, pt: RaggedRows, start: int, stop: int) -> RaggedRows:
    """(items, 4) px, py, pz, E [GeV] of the trimmed jets: the first of the five momenta that Delphes keeps.

    Raises ``UserError`` when the card did not trim: all of them are then zero.
    """
    import awkward as ak

    momenta = tree.awkward(name, start, stop)
    try:
        first = ak.flatten(momenta, axis=1)[:, 0]
        parts = [first["fP"]["fX"], first["fP"]["fY"], first["fP"]["fZ"], first["fE"]]
        values = np.stack([np.asarray(ak.to_numpy(part), dtype=np.float64) for part in parts], axis=-1)
    except (ValueError, IndexError, TypeError, ak.errors.FieldNotFoundError) as error:
        raise UserError(
            f"{tree.path}: branch {name} does not hold Lorentz vectors", hint="trimmed=false reads whole jets"
        ) from error
    if len(values) and not values.any():
        raise UserError(
            f"{tree.path}: branch {name} is zero in events {start} to {stop}: the card did not trim its jets",
            hint="trimmed=false reads whole jets; cluster=true makes trimmed ones of the towers",
        )
    return RaggedRows(pt.offsets, values)
