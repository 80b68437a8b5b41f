"""Headline figures of a generation, each with its statistical error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hpctrain.ingest.assemble import MB_IN_FB, Sample
from hpctrain.physics.processes import REFERENCE_SOURCE


def efficiency(passed: int, total: int) -> dict[str, float | int] | None:
    """passed / total with its error; None for a total of 0.

    The error is the standard deviation of the Beta(passed + 1, failed + 1) posterior: the binomial one
    where both counts are large, and not zero when one of them is.
    """
    if total == 0:
        return None
    a, b = passed + 1.0, total - passed + 1.0
    error = float(np.sqrt(a * b / ((a + b) ** 2 * (a + b + 1.0))))
    return {"value": passed / total, "error": error, "passed": passed, "total": total}


def effective_events(samples: Sequence[Sample], luminosity_fb: float) -> float:
    """(Σw)²/Σw² over the preselected events: the unweighted sample with the same relative error."""
    count = np.array([s.preselected for s in samples], dtype=np.float64)
    weight = np.array([s.weight(luminosity_fb) for s in samples])
    squares = float(count @ weight**2)
    return float((count @ weight) ** 2 / squares) if squares > 0.0 else 0.0


def expected_events(samples: Sequence[Sample], luminosity_fb: float) -> dict[str, float]:
    """Σw over the preselected events; the error has the counts' and the cross sections' parts."""
    value = variance = 0.0
    for sample in samples:
        mean = sample.preselected * sample.weight(luminosity_fb)
        sigma = sample.cross_section
        value += mean
        variance += sample.preselected * sample.weight(luminosity_fb) ** 2
        variance += (mean * sigma.error_mb / sigma.mb) ** 2
    return {"value": value, "error": float(np.sqrt(variance))}


def summarise(samples: Sequence[Sample], luminosity_fb: float) -> dict[str, Any]:
    """Figures per process and of the whole, plain JSON types."""
    processes = {}
    for sample in samples:
        sigma, reference = sample.cross_section, sample.process.reference_mb
        processes[sample.process.short_name] = {
            "label": sample.process.label,
            "signal": sample.process.signal,
            "generated": sample.generated,
            "preselected": sample.preselected,
            "preselection_efficiency": efficiency(sample.preselected, sample.generated),
            "selection_efficiency": efficiency(sample.selected, sample.preselected),
            "cross_section_mb": {"value": sigma.mb, "error": sigma.error_mb},
            "reference_cross_section_mb": reference,
            "cross_section_ratio": (
                {"value": sigma.mb / reference, "error": sigma.error_mb / reference} if reference else None
            ),
            "cross_section_fb": sigma.mb * MB_IN_FB,
            "expected_events": expected_events([sample], luminosity_fb),
        }
    signal = [s for s in samples if s.process.signal]
    background = [s for s in samples if not s.process.signal]
    return {
        "processes": processes,
        "reference_source": REFERENCE_SOURCE,
        "luminosity_fb": luminosity_fb,
        "generated": sum(s.generated for s in samples),
        "preselected": sum(s.preselected for s in samples),
        "signal_selection_efficiency": efficiency(
            sum(s.selected for s in signal), sum(s.preselected for s in signal)
        ),
        "expected_signal": expected_events(signal, luminosity_fb),
        "expected_background": expected_events(background, luminosity_fb),
        "effective_background_events": effective_events(background, luminosity_fb),
    }
