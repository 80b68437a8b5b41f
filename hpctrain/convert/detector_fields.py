"""Fields of a whole-detector event, whoever simulated it: images, towers, tracks, jets."""

from __future__ import annotations

import numpy as np

from hpctrain.convert.rows import falling, ragged_of
from hpctrain.data.columns import Array, Columns, RaggedRows, SparseRows, index_dtype
from hpctrain.data.schema import DenseField, RaggedField, SparseField
from hpctrain.physics.calorimeter import Towers
from hpctrain.physics.images import CHANNELS, detector_images
from hpctrain.physics.selection import LEADING_JETS, JetVariables

JET_FEATURES = ("pt", "eta", "phi", "mass")
TOWER_FEATURES = ("et", "eta", "phi", "ecal", "hcal")
PRESELECTION = "leading fat jet pT > 440 GeV, more than 2 fat jets (pT > 200 GeV, |eta| < 2.0)"
GEV = dict.fromkeys(("pt", "et", "e", "mass", "ecal", "hcal", "sum_mass"), "GeV")
"""Units of what the detector measures."""


def image_field(bins: int) -> SparseField:
    """ECAL and HCAL energy [GeV] and number of tracks over (η, φ), as ``physics.images`` makes them."""
    return SparseField(shape=(len(CHANNELS), bins, bins))


def cloud_field(features: tuple[str, ...]) -> RaggedField:
    """A list of objects in each event; within it they fall in their first feature."""
    return RaggedField(shape=(len(features),), features=features)


def jet_fields(*, fat: bool) -> dict[str, DenseField]:
    """The five leading jets (zero where there are fewer), and for fat jets the variables of the RPV search."""
    fields = {
        "jets": DenseField(shape=(LEADING_JETS, 4), dtype="float32", features=JET_FEATURES),
        "n_jets": DenseField(dtype="int64"),
    }
    if fat:
        fields["sum_mass"] = DenseField(dtype="float32")
        fields["delta_eta"] = DenseField(dtype="float32")
        fields["selected"] = DenseField(dtype="uint8")
    return fields


def image_rows(towers: Towers, event: Array, eta: Array, phi: Array, bins: int) -> SparseRows:
    """Images of towers and of tracks at (eta, phi) of the events that ``event`` numbers."""
    from hpctrain.physics.detector import Tracks

    tracks = Tracks(towers.n_events, event, np.zeros(len(event)), eta, phi)
    images = detector_images(towers, tracks, bins=bins)
    dtype = index_dtype(int(np.prod(images.shape)))
    return SparseRows(images.offsets, images.indices.astype(dtype), images.values)


def tower_rows(towers: Towers) -> RaggedRows:
    """ET, η, φ, ECAL and HCAL energy [GeV] of the towers, by falling ET."""
    with np.errstate(over="ignore"):  # along the beam there is no ET
        et = (towers.ecal + towers.hcal) / np.cosh(towers.eta)
    columns = (et, towers.eta, towers.phi, towers.ecal, towers.hcal)
    return by_first(ragged_of(towers.event, columns, towers.n_events))


def by_first(rows: RaggedRows) -> RaggedRows:
    """The rows with their items in falling order of the first feature."""
    return RaggedRows(rows.offsets, rows.values[falling(rows, rows.values[:, 0])])


def fat_jet_columns(variables: JetVariables) -> Columns:
    """Columns of ``jet_fields(fat=True)``."""
    return {
        "jets": variables.jets.astype(np.float32),
        "n_jets": variables.n_jets,
        "sum_mass": variables.sum_mass.astype(np.float32),
        "delta_eta": variables.delta_eta.astype(np.float32),
        "selected": variables.selected.astype(np.uint8),
    }


def leading_jets(jets: RaggedRows) -> Columns:
    """Columns of ``jet_fields(fat=False)`` from (pt, eta, phi, mass) of all jets, without any cut."""
    ordered = by_first(jets)
    rank = np.arange(len(ordered.values)) - np.repeat(ordered.offsets[:-1], ordered.counts)
    kept = rank < LEADING_JETS
    leading = np.zeros((len(ordered), LEADING_JETS, 4), dtype=np.float32)
    leading[ordered.row_of_value()[kept], rank[kept]] = ordered.values[kept]
    return {"jets": leading, "n_jets": ordered.counts.astype(np.int64)}
