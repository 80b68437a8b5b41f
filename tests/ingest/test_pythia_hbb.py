"""H → bb̄ and QCD jets, from Pythia to shards."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from hpctrain.data.shards import ShardDataset
from hpctrain.ingest.pythia_hbb import PythiaHbb
from hpctrain.run import RunDirectory

Generate = Callable[..., tuple[RunDirectory, dict[str, Any]]]
SMALL = {
    "kind": "pythia_hbb", "pthat": [450, 600], "higgs_events": 40, "qcd_events": 40, "events_per_chunk": 40
}  # fmt: skip


@pytest.fixture(scope="module")
def done(generate: Generate, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, dict[str, Any]]:
    return generate(tmp_path_factory.mktemp("hbb"), workers=2, **SMALL)


def test_what_a_split_holds(done: tuple[RunDirectory, dict[str, Any]]) -> None:
    run, figures = done
    assert figures["preselected"] > 60
    bottom: dict[int, list[int]] = {0: [], 1: []}
    for split in ("train", "validation", "test"):
        dataset = ShardDataset.open(run.data / split)
        rows = dataset.read(np.arange(dataset.events))
        assert set(rows["label"]) == {0, 1}
        assert len(rows["tracks"]) == len(rows["vertices"]) == dataset.events
        assert rows["tracks"].values.shape[1] == 30
        assert rows["vertices"].values.shape[1] == 14
        assert np.all((rows["jet"][:, 0] > 300) & (rows["jet"][:, 0] < 1000))
        assert np.all(rows["groomed_mass"] <= rows["jet"][:, 3] + 1e-2)
        for label in (0, 1):
            bottom[label] += rows["n_b_hadrons"][rows["label"] == label].tolist()
    assert np.mean(np.array(bottom[1]) >= 2) > 0.7
    assert np.mean(np.array(bottom[0]) >= 2) < 0.25


def test_it_says_what_the_vertices_are(done: tuple[RunDirectory, dict[str, Any]]) -> None:
    provenance = ShardDataset.open(done[0].data / "test").provenance
    assert provenance["label"] == "Pythia 8.317, particle level, truth vertices, smeared impact parameters"
    assert "no fake" in provenance["not_as_in_cms"]["fakes"]
    assert provenance["classes"] == ["QCD", "H → bb̄"]
    assert [p["signal"] for p in provenance["processes"]] == [True, False]


def test_both_classes_have_the_same_slices() -> None:
    requests = PythiaHbb.Config(higgs_events=5, qcd_events=7).build().requests()
    assert [(p.pthat, n) for p, n in requests if p.signal] == [
        ((350, 450), 5), ((450, 600), 5), ((600, 800), 5)
    ]  # fmt: skip
    assert [(p.pthat, n) for p, n in requests if not p.signal] == [
        ((350, 450), 7), ((450, 600), 7), ((600, 800), 7)
    ]  # fmt: skip
    assert len({p.key for p, _ in requests}) == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"pthat": [500, 400]}, "the edges must rise"), ({"jet_pt": [500, 400]}, "500 is not below 400")],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PythiaHbb.Config.model_validate(settings)
