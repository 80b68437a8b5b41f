"""Significances beside the benchmark selection, ROC bands and paired differences."""

from __future__ import annotations

import numpy as np
import pytest

from hpctrain.evaluate.comparison import (
    FPR_GRID,
    auc_differences,
    efficiency_at_selection,
    roc_band,
    selection_significance,
    significance_above,
    significance_at_selection,
)
from hpctrain.evaluate.metrics import Sample, classification_metrics
from hpctrain.evaluate.roc import roc_curve
from hpctrain.evaluate.significance import ams

GENERATOR = np.random.default_rng(17)
LABEL = GENERATOR.integers(0, 2, 1200).astype(bool)
SCORE = GENERATOR.normal(LABEL * 2.0, 1.0)
WEIGHT = np.where(LABEL, 0.3, GENERATOR.lognormal(1, 1, 1200))
SELECTED = GENERATOR.normal(LABEL * 1.0, 1.0) > 1.2
SAMPLE = Sample.of(LABEL, WEIGHT)


def yields(kept: np.ndarray) -> tuple[float, float]:
    return WEIGHT[kept & LABEL].sum(), WEIGHT[kept & ~LABEL].sum()


def test_selection_significance() -> None:
    found = selection_significance(SAMPLE, SELECTED, replicas=50, seed=1)
    assert found["value"] == pytest.approx(float(ams(*yields(SELECTED))))
    assert (found["signal"], found["background"]) == pytest.approx(yields(SELECTED))
    assert found["error"] > 0


def test_cut_lets_no_more_raw_background_pass_than_the_selection() -> None:
    entry, ratio = significance_at_selection(SAMPLE, SCORE, SELECTED, replicas=50, seed=1)
    kept = entry["threshold"] <= SCORE
    assert (kept & ~LABEL).sum() == (SELECTED & ~LABEL).sum() == entry["background_raw"]
    assert entry["value"] == pytest.approx(float(ams(*yields(kept))))
    selection = selection_significance(SAMPLE, SELECTED, replicas=50, seed=1)
    assert ratio["value"] == pytest.approx(entry["value"] / selection["value"])
    assert ratio["value"] > 1


def test_a_weighted_cut_lets_no_more_expected_background_pass() -> None:
    entry, _ = significance_at_selection(SAMPLE, SCORE, SELECTED, weighted=True, replicas=50, seed=1)
    kept = entry["threshold"] <= SCORE
    assert entry["fpr"] == pytest.approx(yields(SELECTED)[1] / WEIGHT[~LABEL].sum())
    assert entry["background"] <= yields(SELECTED)[1]
    looser = np.sort(np.unique(SCORE))
    looser = looser[np.searchsorted(looser, entry["threshold"]) - 1]
    assert (
        yields(looser <= SCORE)[1] > yields(SELECTED)[1] or yields(looser <= SCORE)[1] == entry["background"]
    )
    assert entry["value"] == pytest.approx(float(ams(*yields(kept))))


@pytest.mark.parametrize("weighted", [False, True])
def test_efficiency_at_the_selection_is_the_curve_there(weighted: bool) -> None:
    found = efficiency_at_selection(SAMPLE, SCORE, SELECTED, weighted=weighted, replicas=50, seed=1)
    weight = WEIGHT if weighted else np.ones(LABEL.size)
    fpr = weight[SELECTED & ~LABEL].sum() / weight[~LABEL].sum()
    tpr = roc_curve(LABEL, SCORE, weight).tpr_at_fpr(fpr)
    assert found["tpr"]["fpr"] == pytest.approx(fpr)
    assert found["tpr"]["value"] == pytest.approx(tpr)
    own = weight[SELECTED & LABEL].sum() / weight[LABEL].sum()
    assert found["minus_selection"]["value"] == pytest.approx(tpr - own)
    assert found["minus_selection"]["value"] > 0.1
    assert found["tpr"]["n_eff"] <= (SELECTED & ~LABEL).sum()


def test_the_selections_own_rate_fluctuates_in_the_error() -> None:
    """A selection that keeps 15 of 600 background events knows its FPR to a quarter; at a fixed FPR the TPR
    of the score is known far better."""
    rng = np.random.default_rng(3)
    label = np.repeat([True, False], 600)
    score = rng.uniform(size=1200) ** np.where(label, 0.5, 1.0)
    selected = np.zeros(1200, dtype=bool)
    selected[rng.choice(600, 15, replace=False) + 600] = True
    sample = Sample.of(label)
    found = efficiency_at_selection(sample, score, selected, weighted=False, replicas=400, seed=1)["tpr"]
    fixed = classification_metrics(label, score, fprs=(15 / 600,), replicas=400, seed=1)
    # TPR ≈ 2·FPR here: the FPR's own √15/600 adds to what a fixed FPR has.
    expected = np.hypot(fixed["tpr_at_fpr"]["0.025"]["error"], 2 * np.sqrt(15) / 600)
    assert found["error"] == pytest.approx(expected, rel=0.2)
    entry, _ = significance_at_selection(sample, score, selected, replicas=400, seed=1)
    cut = significance_above(sample, score, entry["threshold"], chosen_on="test", replicas=400, seed=1)
    assert entry["value"] == pytest.approx(cut["value"])
    assert entry["error"] > 1.1 * cut["error"]


def test_a_selection_without_background_still_has_a_significance() -> None:
    clean = SELECTED & LABEL
    found, _ = significance_at_selection(SAMPLE, SCORE, clean, replicas=20, seed=1)
    assert found["background_raw"] == 0
    assert "warning" in found


def test_significance_above_a_threshold_of_another_split() -> None:
    found = significance_above(SAMPLE, SCORE, 1.0, chosen_on="validation", replicas=50, seed=1)
    assert found["value"] == pytest.approx(float(ams(*yields(SCORE >= 1.0))))
    assert found["threshold_chosen_on"] == "validation"
    nothing = significance_above(SAMPLE, SCORE, np.inf, chosen_on="validation", replicas=5, seed=1)
    assert nothing["value"] == 0
    assert nothing["threshold"] is None


@pytest.mark.parametrize("weighted", [False, True])
def test_band_surrounds_the_curve(weighted: bool) -> None:
    found = roc_band(SAMPLE, SCORE, weighted=weighted, replicas=100, seed=1)
    curve = roc_curve(LABEL, SCORE, WEIGHT if weighted else None)
    np.testing.assert_allclose(found["tpr"], [curve.tpr_at_fpr(f) for f in FPR_GRID])
    broad = FPR_GRID > 0.03
    assert (found["low"] <= found["tpr"] + 0.02)[broad].all()
    assert (found["high"] >= found["tpr"] - 0.02)[broad].all()
    assert (np.diff(found["n_eff"]) >= 0).all() or weighted
    background = WEIGHT[~LABEL] if weighted else np.ones((~LABEL).sum())
    assert found["n_eff"][-1] == pytest.approx(background.sum() ** 2 / (background**2).sum())


def test_a_model_differs_from_itself_by_nothing_and_pairs_with_another() -> None:
    worse = SCORE + GENERATOR.normal(0, 0.3, SCORE.size)
    scores = {"cnn": SCORE, "same": 3 * SCORE, "worse": worse}
    found = auc_differences(SAMPLE, scores, weighted=False, replicas=100, seed=1)
    assert found["cnn-same"]["value"] == found["cnn-same"]["error"] == 0
    assert found["cnn-worse"]["value"] == pytest.approx(
        roc_curve(LABEL, SCORE).auc - roc_curve(LABEL, worse).auc
    )
    alone = classification_metrics(LABEL, SCORE, replicas=100)["auc"]["error"]
    assert 0 < found["cnn-worse"]["error"] < alone


def test_one_model_alone_has_no_difference() -> None:
    assert auc_differences(SAMPLE, {"cnn": SCORE}, weighted=True, replicas=5, seed=1) == {}
