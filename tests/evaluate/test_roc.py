"""ROC curves against hand-worked values, scikit-learn and the properties that define them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from hpctrain.errors import UserError
from hpctrain.evaluate.roc import Ranking, area, roc_curve, tpr_at_fpr

# Six events worked by hand; scores 0.8 are tied between a signal and a background event.
LABEL = [1, 1, 0, 1, 0, 0]
SCORE = [0.9, 0.8, 0.8, 0.6, 0.3, 0.1]
WEIGHT = [1.0, 2.0, 1.0, 1.0, 3.0, 4.0]


@st.composite
def samples(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, heavily tied scores and non-negative weights with both classes present."""
    size = draw(st.integers(2, 40))
    label = np.array(draw(st.lists(st.integers(0, 1), min_size=size, max_size=size)))
    label[0], label[1] = 0, 1
    score = np.array(draw(st.lists(st.integers(-5, 5), min_size=size, max_size=size)), dtype=float)
    weight = np.array(draw(st.lists(st.floats(1e-3, 1e3), min_size=size, max_size=size)))
    return label, score, weight


def test_golden_unweighted() -> None:
    curve = roc_curve(LABEL, SCORE)
    np.testing.assert_allclose(curve.threshold, [np.inf, 0.9, 0.8, 0.6, 0.3, 0.1])
    np.testing.assert_allclose(curve.tpr, [0, 1 / 3, 2 / 3, 1, 1, 1])
    np.testing.assert_allclose(curve.fpr, [0, 0, 1 / 3, 1 / 3, 2 / 3, 1])
    # Pairs won by signal: 3 + 2.5 + 2 of 9.
    assert curve.auc == pytest.approx(7.5 / 9)


def test_golden_weighted() -> None:
    curve = roc_curve(LABEL, SCORE, WEIGHT)
    np.testing.assert_allclose(curve.tpr, [0, 1 / 4, 3 / 4, 1, 1, 1])
    np.testing.assert_allclose(curve.fpr, [0, 0, 1 / 8, 1 / 8, 4 / 8, 1])
    # Σ over pairs of w_s w_b: 1·8 + 2·(0.5·1 + 7) + 1·7 of 4·8.
    assert curve.auc == pytest.approx(30 / 32)


@pytest.mark.parametrize(
    ("fpr", "expected"),
    [
        (0.0, 1 / 3),
        (0.2, 1 / 3),  # below one background event: the tightest region, nothing interpolated
        (1 / 3, 1.0),  # a vertical piece: its top
        (0.5, 1.0),
        (1.0, 1.0),
    ],
)
def test_tpr_at_fpr_rule(fpr: float, expected: float) -> None:
    assert roc_curve(LABEL, SCORE).tpr_at_fpr(fpr) == pytest.approx(expected)


def test_tpr_between_vertices_is_linear() -> None:
    label, score = [0, 1, 0, 1, 0, 0], [4.0, 3.0, 2.0, 2.0, 1.0, 0.0]
    # Vertices (1/4, 0), (1/4, 1/2), (1/2, 1): halfway along the last piece at 3/8.
    assert roc_curve(label, score).tpr_at_fpr(3 / 8) == pytest.approx(0.75)


def test_threshold_never_admits_more_background_than_asked() -> None:
    curve = roc_curve(LABEL, SCORE)
    assert curve.threshold_at_fpr(0.1) == 0.9
    assert curve.threshold_at_fpr(1 / 3) == 0.6
    assert curve.threshold_at_fpr(0.65) == 0.6
    assert roc_curve([0, 1], [1.0, 0.0]).threshold_at_fpr(0.5) == np.inf


@pytest.mark.parametrize("decimals", [1, 2, 8])
def test_agrees_with_scikit_learn(decimals: int) -> None:
    generator = np.random.default_rng(decimals)
    label = generator.integers(0, 2, 3000)
    score = np.round(generator.normal(label, 1.2), decimals)
    weight = generator.lognormal(0, 3, 3000)
    for weights in (None, weight):
        curve = roc_curve(label, score, weights)
        fpr, tpr, thresholds = sklearn_roc_curve(label, score, sample_weight=weights, drop_intermediate=False)
        np.testing.assert_allclose(curve.fpr, fpr, atol=1e-12)
        np.testing.assert_allclose(curve.tpr, tpr, atol=1e-12)
        np.testing.assert_allclose(curve.threshold, thresholds)
        assert curve.auc == pytest.approx(roc_auc_score(label, score, sample_weight=weights), abs=1e-12)


@given(samples())
@settings(max_examples=80, deadline=None)
def test_curve_is_monotone_from_corner_to_corner(sample: tuple[np.ndarray, ...]) -> None:
    curve = roc_curve(*sample)
    assert (np.diff(curve.fpr) >= 0).all()
    assert (np.diff(curve.tpr) >= 0).all()
    assert (curve.fpr[0], curve.tpr[0]) == (0, 0)
    assert curve.fpr[-1] == pytest.approx(1)
    assert curve.tpr[-1] == pytest.approx(1)


@given(samples())
@settings(max_examples=80, deadline=None)
def test_area_is_the_weighted_mann_whitney_probability(sample: tuple[np.ndarray, ...]) -> None:
    label, score, weight = sample
    won = (score[:, None] > score[None]) + 0.5 * (score[:, None] == score[None])
    pairs = (weight * (label == 1))[:, None] * (weight * (label == 0))[None]
    assert roc_curve(label, score, weight).auc == pytest.approx((won * pairs).sum() / pairs.sum())


@given(samples())
@settings(max_examples=80, deadline=None)
def test_a_rising_transform_of_the_scores_changes_nothing(sample: tuple[np.ndarray, ...]) -> None:
    label, score, weight = sample
    before, after = roc_curve(label, score, weight), roc_curve(label, np.arctan(3 * score) + 7, weight)
    np.testing.assert_array_equal(before.fpr, after.fpr)
    np.testing.assert_array_equal(before.tpr, after.tpr)


@given(samples(), st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_threshold_keeps_its_promise(sample: tuple[np.ndarray, ...], fpr: float) -> None:
    label, score, weight = sample
    passed = (score >= roc_curve(label, score, weight).threshold_at_fpr(fpr)) & (label == 0)
    assert weight[passed].sum() <= fpr * weight[label == 0].sum() * (1 + 1e-9)


def test_a_block_of_weights_equals_one_at_a_time() -> None:
    generator = np.random.default_rng(0)
    label, score = generator.integers(0, 2, 200), np.round(generator.normal(size=200), 1)
    weights = generator.uniform(0.1, 2, (5, 200))
    fpr, tpr = Ranking.of(label, score).rates(weights)
    own = np.linspace(0, 1, 5)
    at_three, at_own = tpr_at_fpr(fpr, tpr, [1e-4, 0.01, 0.3]), tpr_at_fpr(fpr, tpr, own[:, None])
    for row in range(5):
        curve = roc_curve(label, score, weights[row])
        assert area(fpr, tpr)[row] == pytest.approx(curve.auc)
        for column, target in enumerate((1e-4, 0.01, 0.3)):
            assert at_three[row, column] == pytest.approx(curve.tpr_at_fpr(target))
        assert at_own[row, 0] == pytest.approx(curve.tpr_at_fpr(own[row]))


@pytest.mark.parametrize(
    ("label", "score", "weight", "message"),
    [
        ([0, 1], [0.1, 0.2], [1.0, -1.0], "negative"),
        ([0, 1], [0.1, 0.2], [1.0, np.nan], "not finite"),
        ([0, 1], [0.1, np.inf], None, "score is not finite"),
        ([0, 2], [0.1, 0.2], None, "labels"),
        ([0, 1, 1], [0.1, 0.2], None, "one length"),
        ([0, 1], [0.1, 0.2], [1.0], "shape"),
        ([1, 1], [0.1, 0.2], None, "background"),
        ([0, 1], [0.1, 0.2], [1.0, 0.0], "signal"),
        ([], [], None, "no events"),
    ],
)
def test_what_is_no_sample_is_refused(label: list, score: list, weight: list | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        roc_curve(label, score, weight)
