"""The benchmark selection's errors in closed form; the shallow models learn, repeatably."""

from __future__ import annotations

import numpy as np
import pytest

from hpctrain.errors import UserError
from hpctrain.evaluate.baselines import efficiency, score_baseline, selection_rates, train_baseline
from hpctrain.evaluate.metrics import Sample
from hpctrain.evaluate.roc import roc_curve


def two_classes(events: int = 1200) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(6)
    label = generator.integers(0, 2, events).astype(bool)
    inputs = generator.normal(size=(events, 4)) * [1, 100, 1e-3, 10]
    inputs[:, 1] += 150 * label
    return inputs, label


def test_unweighted_efficiency_is_binomial() -> None:
    passed = np.arange(200) < 50
    found = efficiency(passed)
    assert found.value == 0.25
    assert found.error == pytest.approx(np.sqrt(0.25 * 0.75 / 200))
    assert found.low < 0.25 < found.high


def test_no_event_passing_still_has_an_upper_limit() -> None:
    found = efficiency(np.zeros(100, dtype=bool))
    assert (found.value, found.error, found.low) == (0, 0, 0)
    assert found.high == pytest.approx(1 / 101)


def test_weighted_error_is_what_repeated_samples_show() -> None:
    generator = np.random.default_rng(1)

    def sample() -> tuple[np.ndarray, np.ndarray]:
        weight = generator.exponential(1.0, 400)
        return generator.uniform(size=400) < 0.3, weight

    values = [efficiency(*sample()).value for _ in range(1500)]
    assert efficiency(*sample()).error == pytest.approx(np.std(values), rel=0.12)


def test_equal_weights_change_nothing() -> None:
    passed = np.arange(90) % 3 == 0
    plain, weighted = efficiency(passed), efficiency(passed, np.full(90, 1e-5))
    assert plain.value == pytest.approx(weighted.value)
    assert plain.error == pytest.approx(weighted.error)
    assert plain.high == pytest.approx(weighted.high)


def test_selection_is_one_point_of_the_plane() -> None:
    label = np.array([1] * 40 + [0] * 60, dtype=bool)
    selected = np.zeros(100, dtype=bool)
    selected[:20] = True
    selected[40:43] = True
    weight = np.where(np.arange(100) == 40, 50.0, 1.0)
    rates = selection_rates(Sample.of(label, weight), selected)
    assert rates["unweighted"]["tpr"]["value"] == 0.5
    assert rates["unweighted"]["fpr"]["value"] == pytest.approx(3 / 60)
    assert rates["weighted"]["fpr"]["value"] == pytest.approx(52 / 109)
    assert "warning" in rates["weighted"]["fpr"]
    assert "warning" not in rates["weighted"]["tpr"]


@pytest.mark.parametrize("kind", ["gbdt", "mlp"])
def test_baselines_learn_and_repeat(kind: str) -> None:
    inputs, label = two_classes()
    weight = np.where(label, 1e-7, 3e-7)
    train, test = slice(0, 800), slice(800, None)
    one, other = (train_baseline(kind, inputs[train], label[train], weight[train], seed=4) for _ in range(2))
    score = score_baseline(one, inputs[test])
    np.testing.assert_array_equal(score, score_baseline(other, inputs[test]))
    assert roc_curve(label[test], score).auc > 0.8
    assert ((score >= 0) & (score <= 1)).all()


def test_the_gbdt_is_the_papers() -> None:
    inputs, label = two_classes(300)
    model = train_baseline("gbdt", inputs, label, None, seed=0)
    assert model.n_estimators_ == 100
    assert max(tree.get_depth() for tree in model.estimators_.ravel()) == 3


def test_one_class_cannot_be_learned() -> None:
    with pytest.raises(UserError, match="one class"):
        train_baseline("gbdt", np.zeros((5, 2)), np.ones(5, dtype=bool), None, seed=0)
