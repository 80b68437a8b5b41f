"""Expected events from counts, also when the count is zero."""

from __future__ import annotations

import math

LIMIT_OF_NONE = -math.log(1.0 - 0.6827)
"""1.15: mean of a Poisson distribution that gives more than zero with 68 % probability. A count of zero
excludes larger means at that confidence (one-sided)."""


def expected_events(passed: int, weight: float, relative_error: float = 0.0) -> dict[str, float]:
    """``passed`` events that stand for ``weight`` expected ones each, with the statistical error.

    ``relative_error`` is that of the weight (the cross section's). Of zero events the error is one
    event's weight, not zero, and ``upper_limit`` is the one-sided 68 % limit, 1.15 weights.

    >>> expected_events(100, 2.0)
    {'value': 200.0, 'error': 20.0}
    >>> expected_events(0, 2.0)["error"], round(expected_events(0, 2.0)["upper_limit"], 2)
    (2.0, 2.3)
    """
    value = passed * weight
    error = math.hypot(math.sqrt(max(passed, 1)) * weight, value * relative_error)
    found = {"value": value, "error": error}
    return found if passed else {**found, "upper_limit": LIMIT_OF_NONE * weight}
