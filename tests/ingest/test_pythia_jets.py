"""Jets of five classes, from Pythia to shards."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from hpctrain.data.shards import ShardDataset
from hpctrain.ingest.chunks import plan
from hpctrain.ingest.jet_settings import one_of_each
from hpctrain.ingest.pythia_jets import PythiaJets
from hpctrain.physics.jet_features import CONSTITUENT_FEATURES, EXPERT_FEATURES, expert_features
from hpctrain.physics.particle_jets import Constituents
from hpctrain.registry import find
from hpctrain.run import RunDirectory

Generate = Callable[..., tuple[RunDirectory, dict[str, Any]]]
SMALL = {"kind": "pythia_jets", "classes": ["q", "W"], "events": 24, "events_per_chunk": 12}


@pytest.fixture(scope="module")
def done(generate: Generate, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, dict[str, Any]]:
    return generate(tmp_path_factory.mktemp("jets"), workers=2, **SMALL)


def test_it_is_registered() -> None:
    assert find("ingest", "pythia_jets") is PythiaJets


def test_every_split_has_both_classes_and_what_a_tagger_reads(
    done: tuple[RunDirectory, dict[str, Any]],
) -> None:
    run, figures = done
    assert figures["generated"] == 48
    assert sum(figures["events"].values()) == figures["preselected"] > 30
    ids = []
    for split in ("train", "validation", "test"):
        dataset = ShardDataset.open(run.data / split)
        rows = dataset.read(np.arange(dataset.events))
        assert set(rows["label"]) == {0, 1}
        assert np.array_equal(rows["label"], rows["process"])
        assert rows["features"].shape == (dataset.events, 16)
        assert dataset.fields["features"].features == EXPERT_FEATURES
        assert dataset.fields["particles"].features == CONSTITUENT_FEATURES
        pt, eta = rows["jet"][:, 0], rows["jet"][:, 1]
        assert np.all((pt > 800) & (pt < 1200) & (np.abs(eta) < 2))
        counts = rows["particles"].counts
        multiplicity = rows["features"][:, EXPERT_FEATURES.index("multiplicity")]
        assert np.array_equal(counts, np.minimum(multiplicity, 150))
        ids.append(rows["event_id"])
    together = np.concatenate(ids)
    assert len(np.unique(together)) == len(together)  # no event gives two rows, so none is in two splits


def test_constituents_are_those_of_the_row(done: tuple[RunDirectory, dict[str, Any]]) -> None:
    """Features computed again from the stored constituents are the stored features; constituents fall in pT."""
    dataset = ShardDataset.open(done[0].data / "train")
    rows = dataset.read(np.arange(dataset.events))
    particles = rows["particles"]
    column = {name: particles.values[:, i].astype(float) for i, name in enumerate(CONSTITUENT_FEATURES)}
    jets = Constituents(particles.offsets, *(column[n] for n in ("px", "py", "pz", "e")))
    again = expert_features(jets)
    whole = particles.counts < 150
    names = ("c1_b1_mmdt", "d2_b1_mmdt", "n2_b1_mmdt", "mass_mmdt", "zlogz")
    for name in names:
        i = EXPERT_FEATURES.index(name)
        close = np.isclose(again[whole, i], rows["features"][whole, i], rtol=0.02, atol=1e-3)
        # A branch whose fraction is near the cut may fall to the other side by rounding to 32 bits.
        assert close.mean() > 0.9
    same_jet = np.diff(particles.row_of_value()) == 0
    assert np.all(np.diff(column["pt"])[same_jet] <= 0)
    total = jets.total()
    assert total.pt[whole] == pytest.approx(rows["jet"][whole, 0], rel=1e-4)


def test_provenance_and_scale(done: tuple[RunDirectory, dict[str, Any]]) -> None:
    run, _ = done
    train, test = (ShardDataset.open(run.data / split) for split in ("train", "test"))
    assert train.provenance["label"] == "Pythia 8.317, particle level, no detector"
    assert train.provenance["classes"] == ["q", "W"]
    assert train.provenance["class_names"] == ["quark", "W boson"]
    assert [p["name"] for p in train.provenance["processes"]] == ["q_jets", "w_jets"]
    assert train.provenance["processes"][0]["pthat"] == [950.0, 1050.0]
    assert train.scale == test.scale
    features = train.column("features").astype(float)
    assert train.scale["features"]["mean"] == pytest.approx(features.mean(axis=0), rel=1e-6)
    assert len(train.scale["particles"]["std"]) == 16


def test_another_number_of_workers_gives_the_same_bytes(
    done: tuple[RunDirectory, dict[str, Any]], generate: Generate, tmp_path: Path
) -> None:
    run, _ = generate(tmp_path, workers=1, **SMALL)
    for split in ("train", "validation", "test"):
        mine, theirs = (r.data / split for r in (run, done[0]))
        assert {p.name: p.read_bytes() for p in mine.iterdir()} == {
            p.name: p.read_bytes() for p in theirs.iterdir()
        }


def test_fingerprints_change_with_the_settings() -> None:
    def first(seed: int = 1, **changed: Any) -> str:
        recipe = PythiaJets.Config(**changed).build()
        return plan(recipe.requests(), 100, recipe.settings(seed))[0].fingerprint()

    prints = {first(), first(2), first(radius=1.0), first(jet_eta_max=1.0), first(pthat=(500.0, 600.0))}
    assert len(prints) == 5
    recipe = PythiaJets.Config().build()
    chunk = plan(recipe.requests(), 100, recipe.settings(1))[0]
    assert replace(chunk, number=1).fingerprint() not in prints
    assert len({chunk.pythia_seed, chunk.pool_seed(), replace(chunk, number=1).pool_seed()}) == 3


def test_one_of_each_event() -> None:
    event = np.array([0, 0, 2, 2, 2, 5])
    picked = {tuple(one_of_each(event, np.random.default_rng(seed))) for seed in range(60)}
    assert len(picked) == 2 * 3  # every choice comes up
    assert all(event[list(rows)].tolist() == [0, 2, 5] for rows in picked)
    assert one_of_each(event[:0], np.random.default_rng(1)).tolist() == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": ["g"]}, "at least 2"),
        ({"classes": ["g", "g"]}, "stands twice"),
        ({"classes": ["g", "x"]}, "'g', 'q', 'W', 'Z' or 't'"),
        ({"pthat": [900, 800]}, "900 is not below 800"),
        ({"events": 0}, "greater than 0"),
    ],
)
def test_wrong_settings_are_refused_with_the_cure(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PythiaJets.Config.model_validate(settings)
