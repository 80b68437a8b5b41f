"""Bootstrap errors against errors that are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from hpctrain.errors import UserError
from hpctrain.evaluate import bootstrap as module
from hpctrain.evaluate.bootstrap import band, bootstrap, estimate, multiplicities, resample
from hpctrain.evaluate.roc import Ranking, area

SAMPLE = np.random.default_rng(11).exponential(2.0, 900)


def mean(rows: np.ndarray) -> dict[str, np.ndarray]:
    return {"mean": (rows * SAMPLE).sum(axis=1) / rows.sum(axis=1)}


def test_error_of_a_mean_is_sigma_over_root_n() -> None:
    found = bootstrap(mean, SAMPLE.size, replicas=1500, seed=5)["mean"]
    assert found.value == pytest.approx(SAMPLE.mean())
    assert found.error == pytest.approx(SAMPLE.std() / np.sqrt(SAMPLE.size), rel=0.08)
    assert (found.high - found.low) / 2 == pytest.approx(found.error, rel=0.08)
    assert found.low < found.value < found.high


def test_a_yield_has_the_poisson_error() -> None:
    weight = np.random.default_rng(2).uniform(0.5, 3, 500)
    found = bootstrap(lambda rows: {"sum": rows @ weight}, 500, replicas=1500, seed=5)["sum"]
    assert found.error == pytest.approx(np.sqrt((weight**2).sum()), rel=0.08)


def test_error_of_an_area_is_that_of_hanley_and_mcneil() -> None:
    generator = np.random.default_rng(4)
    label = np.repeat([0, 1], 600)
    ranking = Ranking.of(label, generator.exponential(np.where(label, 4.0, 1.0)))
    found = bootstrap(lambda rows: {"auc": area(*ranking.rates(rows))}, 1200, replicas=800, seed=5)["auc"]
    # Hanley & McNeil 1982, exact for exponential scores.
    a = found.value
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    variance = (a * (1 - a) + 599 * (q1 - a * a) + 599 * (q2 - a * a)) / 600**2
    assert found.error == pytest.approx(np.sqrt(variance), rel=0.12)


def test_a_paired_difference_cancels_what_is_common() -> None:
    generator = np.random.default_rng(8)
    label = generator.integers(0, 2, 1000)
    score = generator.normal(label, 1.0)
    one, other = Ranking.of(label, score), Ranking.of(label, score + generator.normal(0, 0.05, 1000))

    def statistic(rows: np.ndarray) -> dict[str, np.ndarray]:
        first, second = area(*one.rates(rows)), area(*other.rates(rows))
        return {"first": first, "difference": first - second}

    found = bootstrap(statistic, 1000, replicas=300, seed=1)
    assert found["difference"].error < 0.2 * found["first"].error


def test_the_seed_decides_and_the_block_size_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = resample(mean, SAMPLE.size, replicas=20, seed=3)["mean"]
    monkeypatch.setattr(module, "BLOCK_BYTES", 8 * SAMPLE.size * 3)
    assert [len(block) for block in multiplicities(SAMPLE.size, 20, 3)] == [3, 3, 3, 3, 3, 3, 2]
    np.testing.assert_array_equal(whole, resample(mean, SAMPLE.size, replicas=20, seed=3)["mean"])
    assert not np.array_equal(whole, resample(mean, SAMPLE.size, replicas=20, seed=4)["mean"])


def test_multiplicities_are_poisson() -> None:
    rows = np.concatenate(list(multiplicities(2000, 100, 0)))
    assert rows.mean() == pytest.approx(1, abs=0.02)
    assert rows.var() == pytest.approx(1, abs=0.03)


def test_undefined_replicas_are_counted_and_left_out() -> None:
    found = estimate(1.0, np.array([0.9, 1.1, np.nan]))
    assert found.undefined == 1
    assert np.isfinite(found.error)
    assert estimate(1.0, np.array([np.nan, np.nan])).as_dict()["error"] is None


def test_band_encloses_the_middle_two_thirds() -> None:
    low, high = band(np.random.default_rng(0).normal(size=(4000, 3)))
    np.testing.assert_allclose(low, -1, atol=0.1)
    np.testing.assert_allclose(high, 1, atol=0.1)
    assert np.isnan(band(np.full((3, 2), np.nan))[0]).all()


def test_one_replica_is_refused() -> None:
    with pytest.raises(UserError, match="replicas"):
        bootstrap(mean, SAMPLE.size, replicas=1, seed=0)
