import numpy as np
import pytest

from hpctrain.physics.counting import LIMIT_OF_NONE, expected_events


def test_counts_have_the_poisson_error_and_that_of_the_weight() -> None:
    found = expected_events(25, 4.0, 0.1)
    assert found["value"] == 100
    assert found["error"] == pytest.approx(np.hypot(20, 10))
    assert "upper_limit" not in found


def test_a_count_of_zero_is_a_limit_and_not_zero() -> None:
    found = expected_events(0, 2e7, 0.01)
    assert found["value"] == 0
    assert found["error"] == 2e7
    assert found["upper_limit"] == pytest.approx(1.148 * 2e7, rel=1e-3)


def test_the_limit_is_where_zero_becomes_improbable() -> None:
    draws = np.random.default_rng(1).poisson(LIMIT_OF_NONE, 200_000)
    assert (draws > 0).mean() == pytest.approx(0.6827, abs=0.005)
