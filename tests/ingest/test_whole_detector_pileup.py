"""Pileup in the whole-detector images."""

from typing import Any

import numpy as np
import pytest

from hpctrain.ingest.assemble import Sample
from hpctrain.ingest.chunks import plan
from hpctrain.ingest.pythia_whole_detector import PythiaWholeDetector, not_generated
from hpctrain.physics.processes import find_process


def _recipe(mu: float, events: int = 25) -> Any:
    return PythiaWholeDetector.Config.model_validate(
        {
            "processes": [{"process": "rpv_gluino", "events": events}, {"process": "jz7", "events": events}],
            "pileup_mu": mu,
            "pileup_pool": 60,
        }
    ).build()


def _simulate(mu: float) -> Any:
    recipe = _recipe(mu)
    chunk = plan(recipe.requests(), 100, recipe.settings(4))[0]
    return chunk.settings.simulate(chunk)[0]


def test_pileup_fills_the_image_and_the_hard_collision_stays() -> None:
    """At μ = 10 many more cells than without, and the same events pass with nearly the same hard jets."""
    without, with_pileup = _simulate(0.0), _simulate(10.0)
    assert with_pileup["image"].counts.mean() > 1.5 * without["image"].counts.mean()
    tracks = [
        rows["image"].dense((3, 64, 64))[:, 2].sum(axis=(1, 2)).mean() for rows in (without, with_pileup)
    ]
    assert tracks[1] > tracks[0] + 80  # some 15 a collision above 0.1 GeV
    both, first, second = np.intersect1d(without["event_id"], with_pileup["event_id"], return_indices=True)
    assert len(both) > 0.8 * len(without["event_id"])
    ratio = with_pileup["jets"][second, 0, 0] / without["jets"][first, 0, 0]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.05)


def test_provenance_says_how_pileup_was_made() -> None:
    samples = [Sample(find_process(n), ()) for n in ("rpv_gluino", "jz7")]
    found = _recipe(20.0).describe(samples)
    assert found["label"] == "Pythia 8.317, Delphes-ATLAS-like parametrised simulation, pileup mu = 20"
    assert found["detector"]["pileup"]["mu"] == 20.0
    assert "drawn with replacement" in found["detector"]["pileup"]["pool"]
    assert "pileup" not in found["not_generated"]
    none = _recipe(0.0).describe(samples)
    assert none["label"] == "Pythia 8.317, Delphes-ATLAS-like parametrised simulation"
    assert none["detector"]["pileup"] == 0
    assert none["not_generated"].endswith("; pileup")
    assert not_generated([find_process("jz7")]).endswith("; pileup")
