"""Dijets under pileup, from Pythia to shards."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from hpctrain.data.shards import ShardDataset
from hpctrain.ingest.pythia_dijets_pileup import PARTICLE_FEATURES, PythiaDijetsPileup
from hpctrain.physics.particles import Floats
from hpctrain.run import RunDirectory

Generate = Callable[..., tuple[RunDirectory, dict[str, Any]]]
SMALL = {"kind": "pythia_dijets_pileup", "pthat": [60, 120], "events": 40, "mu": 15.0, "pool": 60}


@pytest.fixture(scope="module")
def done(generate: Generate, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, dict[str, Any]]:
    return generate(tmp_path_factory.mktemp("dijets"), workers=1, **SMALL)


@pytest.fixture(scope="module")
def rows(done: tuple[RunDirectory, dict[str, Any]]) -> Any:
    dataset = ShardDataset.open(done[0].data / "train")
    return dataset.read(np.arange(dataset.events))


def _feature(rows: Any, name: str) -> Floats:
    return np.asarray(rows["particles"].values[:, PARTICLE_FEATURES.index(name)])


def test_cuts_and_order(rows: Any) -> None:
    pt, eta = _feature(rows, "pt"), _feature(rows, "eta")
    assert pt.min() > 0.5
    assert np.abs(eta).max() < 5.0
    same = np.diff(rows["particles"].row_of_value()) == 0
    assert np.all(np.diff(pt)[same] <= 0)
    assert rows["n_pileup"].mean() == pytest.approx(15, abs=4)


def test_what_is_known_agrees_with_the_truth_and_the_rest_is_hidden(rows: Any) -> None:
    truth = np.asarray(rows["particle_label"].values)
    assert np.array_equal(rows["particle_label"].offsets, rows["particles"].offsets)
    leading, vertex, charge = (_feature(rows, n) for n in ("leading", "vertex", "charge"))
    tracked = (charge != 0) & (np.abs(_feature(rows, "eta")) < 2.5)
    assert np.array_equal(leading[tracked], np.where(truth[tracked] == 1, 1.0, -1.0))
    assert np.array_equal(vertex[tracked] == 0, truth[tracked] == 1)
    assert np.all(leading[~tracked] == 0)
    assert np.all(vertex[~tracked] == -1)
    counts = np.asarray(rows["vertices"].counts)
    assert np.array_equal(counts, rows["n_pileup"] + 1)
    assert np.all(vertex < counts[rows["particles"].row_of_value()])


def test_pileup_is_softer_and_much_more(rows: Any) -> None:
    truth, pt = np.asarray(rows["particle_label"].values), _feature(rows, "pt")
    assert 0.02 < truth.mean() < 0.4
    assert pt[truth == 1].mean() > 1.3 * pt[truth == 0].mean()


def test_truth_jets_are_where_the_leading_particles_are(rows: Any) -> None:
    """Leading-vertex particles within ΔR < 0.4 of the hardest truth jet carry its momentum."""
    particles, jets = rows["particles"], rows["truth_jets"]
    truth = np.asarray(rows["particle_label"].values)
    seen = 0
    for event in range(len(particles)):
        if jets.counts[event] == 0:
            continue
        found = jets.values[jets.offsets[event] : jets.offsets[event + 1]]
        pt, eta, phi, _ = found[0]
        assert pt == found[:, 0].max()
        mine = slice(particles.offsets[event], particles.offsets[event + 1])
        p = particles.values[mine]
        turn = (p[:, 2] - phi + np.pi) % (2 * np.pi) - np.pi
        near = (np.hypot(p[:, 1] - eta, turn) < 0.4) & (truth[mine] == 1)
        assert 0.75 < p[near, 0].sum() / pt < 1.25
        seen += 1
    assert seen > 15


def test_provenance(done: tuple[RunDirectory, dict[str, Any]]) -> None:
    provenance = ShardDataset.open(done[0].data / "test").provenance
    assert provenance["label"] == (
        "Pythia 8.317, particle level, no detector, perfect vertices of charged particles; pileup mu = 15"
    )
    assert provenance["units"] == {"pt": "GeV", "mass": "GeV", "z": "mm", "t": "ps"}
    assert "60 collisions generated for each chunk, drawn with replacement" in provenance["pileup"]["pool"]
    # 36/fb of 60 to 120 GeV: the weight makes the 40 events stand for all of them.
    process = provenance["processes"][0]
    assert process["weight"] * 40 == pytest.approx(process["cross_section_mb"] * 36e12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"pthat": [50, 20]}, "the edges must rise"), ({"pthat": [50]}, "at least 2"), ({"mu": -1}, "mu")],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PythiaDijetsPileup.Config.model_validate(settings)
