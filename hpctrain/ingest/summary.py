"""Headline figures of a generation, each with its statistical error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hpctrain.ingest.assemble import MB_IN_FB, Sample
from hpctrain.physics.counting import expected_events as counted
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


def expected_events(samples: Sequence[Sample], luminosity_fb: float) -> dict[str, Any]:
    """Σw over the preselected events; the error has the counts' and the cross sections' parts.

    A process of which nothing passed adds one event's weight to the error: it is not known to be
    nothing. Such are named in ``empty_processes``; ``upper_limit_of_empty`` is the sum of their
    one-sided 68 % limits.
    """
    found = []
    for sample in samples:
        sigma = sample.cross_section
        relative = sigma.error_mb / sigma.mb if sigma.mb else 0.0
        found.append(counted(sample.preselected, sample.weight(luminosity_fb), relative))
    figures: dict[str, Any] = {
        "value": float(sum(f["value"] for f in found)),
        "error": float(np.sqrt(sum(f["error"] ** 2 for f in found))),
    }
    empty = empty_processes(samples)
    if empty:
        figures["empty_processes"] = empty
        figures["upper_limit_of_empty"] = float(sum(f.get("upper_limit", 0.0) for f in found))
    return figures


def empty_processes(samples: Sequence[Sample]) -> list[str]:
    """Names of the processes of which no event passed the preselection."""
    return [s.process.short_name for s in samples if s.preselected == 0]


def empty_warning(sample: Sample, luminosity_fb: float) -> str:
    """What to tell the user of a sample without preselected events."""
    limit = counted(0, sample.weight(luminosity_fb))["upper_limit"]
    return (
        f"{sample.process.short_name}: none of {sample.generated} events passed the preselection, yet one would "
        f"stand for {sample.weight(luminosity_fb):.2g} expected events: the process may contribute up to "
        f"{limit:.2g} (68 % limit), which is in no weighted figure. Generate more of it, or leave it out"
    )


def overview(
    samples: Sequence[Sample], luminosity_fb: float, rows: str = "events preselected"
) -> dict[str, Any]:
    """Figures of each process and the numbers of the whole, plain JSON types; ``rows`` says what is counted."""
    generated = sum(s.generated for s in samples)
    return {
        "headline": f"{sum(s.preselected for s in samples):,} {rows} of {generated:,}",
        "processes": {s.process.short_name: _process(s, luminosity_fb) for s in samples},
        "luminosity_fb": luminosity_fb,
        "generated": generated,
        "preselected": sum(s.preselected for s in samples),
        "empty_processes": empty_processes(samples),
    }


def _process(sample: Sample, luminosity_fb: float) -> dict[str, Any]:
    sigma, reference = sample.cross_section, sample.process.reference_mb
    return {
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


def summarise(samples: Sequence[Sample], luminosity_fb: float) -> dict[str, Any]:
    """``overview``, and the figures of a search: signal against background."""
    signal = [s for s in samples if s.process.signal]
    background = [s for s in samples if not s.process.signal]
    return {
        **overview(samples, luminosity_fb),
        "reference_source": REFERENCE_SOURCE,
        "signal_selection_efficiency": efficiency(
            sum(s.selected for s in signal), sum(s.preselected for s in signal)
        ),
        "expected_signal": expected_events(signal, luminosity_fb),
        "expected_background": expected_events(background, luminosity_fb),
        "effective_background_events": effective_events(background, luminosity_fb),
    }
