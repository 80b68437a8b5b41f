"""W′ → WZ and QCD jets in one window of momentum and mass, from Pythia to shards."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from hpctrain.data.shards import ShardDataset
from hpctrain.ingest.pythia_jet_images import PythiaJetImages
from hpctrain.run import RunDirectory

Generate = Callable[..., tuple[RunDirectory, dict[str, Any]]]
# A wider window than the default, so that a few hundred events give some of each.
SMALL = {
    "kind": "pythia_jet_images", "wprime_events": 60, "qcd_events": 160, "jet_pt": [200, 300], "jet_mass": [40, 120]
}  # fmt: skip


@pytest.fixture(scope="module")
def done(generate: Generate, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, dict[str, Any]]:
    return generate(tmp_path_factory.mktemp("images"), workers=2, **SMALL)


def test_what_a_split_holds(done: tuple[RunDirectory, dict[str, Any]]) -> None:
    run, _ = done
    tau = {0: [], 1: []}
    for split in ("train", "validation", "test"):
        dataset = ShardDataset.open(run.data / split)
        rows = dataset.read(np.arange(dataset.events))
        pt, mass = rows["trimmed"].T
        assert np.all((pt > 200) & (pt < 300) & (mass > 40) & (mass < 120))
        images = rows["image"].dense((1, 25, 25))
        assert images.sum(axis=(1, 2, 3)) == pytest.approx(pt, rel=0.1)  # pT adds up, nearly as vectors do
        px, py = (
            np.add.reduceat(rows["particles"].values[:, i], rows["particles"].offsets[:-1]) for i in (0, 1)
        )
        assert np.hypot(px, py) == pytest.approx(pt, rel=1e-4)
        for label in (0, 1):
            tau[label] += rows["tau21"][rows["label"] == label].tolist()
    assert np.median(tau[1]) < np.median(tau[0])  # two prongs against one


def test_scale_and_provenance(done: tuple[RunDirectory, dict[str, Any]]) -> None:
    train = ShardDataset.open(done[0].data / "train")
    assert train.scale["image_max"][0] == pytest.approx(float(train.column("image").values.max()))
    assert len(train.scale["particles"]["mean"]) == 16
    assert train.provenance["label"] == "Pythia 8.317, particle level, no detector"
    assert train.provenance["processes"][0]["masses"] == {"m_wprime": 550.0}


def test_defaults_are_those_of_the_studies() -> None:
    config = PythiaJetImages.Config()
    assert config.jet_pt == (240.0, 260.0)
    assert config.jet_mass == (65.0, 95.0)
    assert config.image_bins == 25


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="jet_mass: 95 is not below 65"):
        PythiaJetImages.Config.model_validate({"jet_mass": [95, 65]})
