"""Figures, their errors and the warnings they carry."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hpctrain.errors import UserError
from hpctrain.evaluate.bootstrap import Estimate
from hpctrain.evaluate.metrics import Sample, classification_metrics, figure
from hpctrain.evaluate.roc import roc_curve

GENERATOR = np.random.default_rng(21)
LABEL = GENERATOR.integers(0, 2, 1500)
SCORE = GENERATOR.normal(LABEL * 1.5, 1.0)
# One background event in twenty carries a thousand times the weight of the others, as p̂T slices do.
WEIGHT = np.where((LABEL == 0) & (np.arange(1500) % 20 == 0), 1000.0, 1.0)


def test_values_are_those_of_the_curve_and_errors_are_positive() -> None:
    found = classification_metrics(LABEL, SCORE, WEIGHT, fprs=(0.1, 0.01), replicas=100, seed=3)
    plain, weighted = roc_curve(LABEL, SCORE), roc_curve(LABEL, SCORE, WEIGHT)
    assert found["auc"]["value"] == pytest.approx(plain.auc)
    assert found["weighted"]["auc"]["value"] == pytest.approx(weighted.auc)
    assert found["tpr_at_fpr"]["0.1"]["value"] == pytest.approx(plain.tpr_at_fpr(0.1))
    assert found["weighted"]["tpr_at_fpr"]["0.01"]["value"] == pytest.approx(weighted.tpr_at_fpr(0.01))
    assert 0 < found["auc"]["error"] < found["weighted"]["auc"]["error"] < 0.2
    json.dumps(found, allow_nan=False)


def test_background_above_the_threshold_is_counted() -> None:
    found = classification_metrics(LABEL, SCORE, WEIGHT, fprs=(0.1,), replicas=20)
    for entry, weight in ((found, np.ones(1500)), (found["weighted"], WEIGHT)):
        point = entry["tpr_at_fpr"]["0.1"]
        passed = weight[(LABEL == 0) & (point["threshold"] <= SCORE)]
        assert point["n_eff"] == pytest.approx(passed.sum() ** 2 / (passed**2).sum())


def test_few_effective_events_carry_a_warning() -> None:
    found = classification_metrics(LABEL, SCORE, WEIGHT, fprs=(0.2, 0.001), replicas=20)
    assert "warning" not in found["tpr_at_fpr"]["0.2"]
    assert "fewer than 10" in found["tpr_at_fpr"]["0.001"]["warning"]
    assert "effective" in found["weighted"]["tpr_at_fpr"]["0.001"]["warning"]
    assert "warning" not in figure(Estimate(1, 0.1, 1, 1), n_eff=10, of="events")
    assert "undefined" in figure(Estimate(1, 0.1, 1, 1, undefined=2), n_eff=10, of="events")["warning"]


def test_perfect_separation_has_no_error_of_nought_without_a_word() -> None:
    label = np.repeat([0, 1], 50)
    auc = classification_metrics(label, label + 0.0, replicas=20)["auc"]
    assert (auc["value"], auc["error"]) == (1, 0)
    assert "without overlap" in auc["warning"]
    assert "warning" not in figure(
        Estimate(0, 0, 0, 0), n_eff=50, of="events"
    )  # equal models differ by 0 ± 0


def test_the_class_that_limits_the_area_is_the_one_with_fewer_effective_events() -> None:
    auc = classification_metrics(LABEL, SCORE, WEIGHT, replicas=20)["weighted"]["auc"]
    background = WEIGHT[LABEL == 0]
    assert auc["n_eff"] == pytest.approx(background.sum() ** 2 / (background**2).sum())
    assert "fewer effective events" in auc["n_eff_of"]


def test_without_weights_there_is_no_weighted_part() -> None:
    assert "weighted" not in classification_metrics(LABEL, SCORE, replicas=20)


def test_the_same_seed_gives_the_same_figures() -> None:
    one, other = (classification_metrics(LABEL, SCORE, WEIGHT, replicas=30, seed=9) for _ in range(2))
    assert one == other
    assert one["auc"] != classification_metrics(LABEL, SCORE, WEIGHT, replicas=30, seed=8)["auc"]


def test_one_class_alone_is_refused() -> None:
    with pytest.raises(UserError, match="signal"):
        classification_metrics(np.zeros(10), np.arange(10))


def test_counts() -> None:
    counts = Sample.of(LABEL, WEIGHT).counts()
    assert counts["signal"]["raw"] == counts["signal"]["n_eff"] == LABEL.sum()
    background = WEIGHT[LABEL == 0]
    assert counts["background"]["expected"] == background.sum()
    assert counts["background"]["n_eff"] < background.size
