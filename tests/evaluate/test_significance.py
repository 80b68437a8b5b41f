"""AMS and effective numbers of events against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.errors import UserError
from hpctrain.evaluate.significance import (
    ams,
    ams_of_selection,
    effective_events,
    scan,
    split_weights,
)


def test_ams_of_the_formula() -> None:
    s, b = 517.0, 123.0
    expected = math.sqrt(2 * ((s + b + 10) * math.log(1 + s / (b + 10)) - s))
    assert float(ams(s, b)) == pytest.approx(expected)
    assert float(ams(s, b, regularisation=0)) > expected


def test_ams_of_nothing_is_zero_and_of_little_is_s_over_root_b() -> None:
    assert float(ams(0.0, 5.0)) == 0
    assert float(ams(1e-8, 90.0)) == pytest.approx(1e-8 / 10, rel=1e-6)
    # Both sides of the change from series to closed form agree.
    assert float(ams(100 * 0.99999e-4, 90.0)) == pytest.approx(float(ams(100 * 1.00001e-4, 90.0)), rel=1e-4)


@given(st.floats(0, 1e4), st.floats(0, 1e4), st.floats(0.1, 100))
def test_more_signal_is_better_and_more_background_worse(s: float, b: float, more: float) -> None:
    assert float(ams(s + more, b)) > float(ams(s, b))
    assert float(ams(s, b + more)) <= float(ams(s, b))


def test_impossible_yields_are_refused() -> None:
    with pytest.raises(UserError):
        ams(-1.0, 3.0)


def test_effective_events() -> None:
    assert float(effective_events(np.full(50, 7.0))) == pytest.approx(50)
    assert float(effective_events([1e6, 1.0, 1.0])) == pytest.approx(1, rel=1e-5)
    assert float(effective_events([])) == 0
    np.testing.assert_allclose(effective_events([[1, 1], [1, 0]]), [2, 1])


def test_split_weights_restore_the_expected_total() -> None:
    full = np.array([2.0] * 10 + [0.5] * 20)
    process = np.array([0] * 10 + [1] * 20)
    split = np.concatenate([np.arange(2), np.arange(10, 15)])  # 20 % and 25 %
    corrected = split_weights(full[split], process[split], [0.2, 0.25])
    assert corrected.sum() == pytest.approx(full.sum())


def test_split_weights_refuse_what_the_provenance_does_not_cover() -> None:
    with pytest.raises(UserError, match="outside"):
        split_weights([1.0], [2], [0.5, 0.5])
    with pytest.raises(UserError, match="split_fraction"):
        split_weights([1.0], [0], [0.0])


def test_scan_finds_the_best_threshold_by_brute_force() -> None:
    generator = np.random.default_rng(3)
    label = generator.integers(0, 2, 400)
    score, weight = generator.normal(label, 1.0), generator.uniform(0.1, 5, 400)
    found = scan(label, score, weight)
    brute = [
        float(ams(weight[(score >= cut) & (label == 1)].sum(), weight[(score >= cut) & (label == 0)].sum()))
        for cut in score
    ]
    assert found.ams[found.best] == pytest.approx(max(brute))
    assert found.threshold[found.best] == pytest.approx(score[int(np.argmax(brute))])


def test_ams_of_a_selection() -> None:
    label = np.array([True, True, False, False])
    selected = np.array([True, False, True, False])
    weight = np.array([[3.0, 9.0, 4.0, 9.0], [0.0, 9.0, 4.0, 9.0]])
    np.testing.assert_allclose(ams_of_selection(selected, label, weight), [float(ams(3, 4)), 0])
