"""Flat arrays of particles of many events: what the generator gives and the detector takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Particles:
    """Final-state particles of ``n_events`` events, one row each, ordered by event."""

    n_events: int
    event: Ints
    """Index of the event each particle belongs to, 0 to n_events - 1, not decreasing."""
    pdg: Ints
    """PDG particle code, negative for antiparticles."""
    charge: Floats
    """In units of the positron's charge."""
    px: Floats
    py: Floats
    pz: Floats
    e: Floats
    """Energy; momenta and energy in GeV."""
    x: Floats
    y: Floats
    z: Floats
    """Production point in millimetres."""

    def __len__(self) -> int:
        return len(self.event)

    def where(self, keep: npt.NDArray[np.bool_]) -> Particles:
        """The particles for which ``keep`` is true; the number of events stays."""
        fields: dict[str, Any] = {name: getattr(self, name)[keep] for name in _COLUMNS}
        return Particles(n_events=self.n_events, **fields)

    @staticmethod
    def concatenate(batches: list[Particles]) -> Particles:
        """One after the other, with the events of each batch numbered on."""
        starts = np.cumsum([0] + [b.n_events for b in batches])
        fields: dict[str, Any] = {n: np.concatenate([getattr(b, n) for b in batches]) for n in _COLUMNS}
        fields["event"] = np.concatenate([b.event + s for b, s in zip(batches, starts, strict=False)])
        return Particles(n_events=int(starts[-1]), **fields)


def sum_by(group: Ints, values: Floats, groups: int) -> Floats:
    """Sum of ``values`` in each of ``groups`` groups, (groups,); ``group`` numbers them from 0."""
    return np.asarray(np.bincount(group, weights=values, minlength=groups), dtype=np.float64)


_COLUMNS = ("event", "pdg", "charge", "px", "py", "pz", "e", "x", "y", "z")
