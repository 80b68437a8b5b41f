"""Numbers keep the digits that mean something."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.report.numbers import MISSING, figure, number, percent, with_error


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.99741, 0.00123, "0.9974 ± 0.0012"),
        (0.99741, 0.000996, "0.9974 ± 0.0010"),
        (12.0, 3.456, "12.0 ± 3.5"),
        (1234567.0, 45678.0, "(1.235 ± 0.046) × 10⁶"),
        (1.643e-4, 2.1e-6, "0.0001643 ± 0.0000021"),
        (3.365e-19, 1.5e-21, "(3.365 ± 0.015) × 10⁻¹⁹"),
        (0.0, 0.02, "0.000 ± 0.020"),
        (1.0, 0.0, "1 ± 0"),
        (None, 0.1, MISSING),
        (0.5, math.nan, "0.5"),
        (50.0, 99.6, "50 ± 100"),
    ],
)
def test_with_error(value: float | None, error: float | None, text: str) -> None:
    assert with_error(value, error) == text


@given(st.floats(-1e6, 1e6), st.floats(1e-4, 1e5))
def test_a_printed_value_is_within_its_printed_error(value: float, error: float) -> None:
    text = with_error(value, error)
    if "×" not in text:
        shown, spread = (float(part.replace("−", "-")) for part in text.split(" ± "))
        assert abs(shown - value) <= 0.06 * error
        assert spread == pytest.approx(error, rel=0.06)


def test_absent_figures_are_a_dash() -> None:
    assert figure(None) == figure({}) == figure({"value": None, "error": None}) == MISSING
    assert number(math.inf) == percent(math.nan) == MISSING
