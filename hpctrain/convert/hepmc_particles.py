"""HepMC events → the flat particles that our detector takes, in GeV and millimetres."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np

from hpctrain.data.columns import Array
from hpctrain.errors import UserError
from hpctrain.physics.particles import Particles

FINAL_STATE = 1
"""Status code of particles that no generator decays further."""


def final_state(events: Sequence[Any], neutral: Iterable[int], where: str) -> Particles:
    """The final-state particles of pyhepmc events, one row each, ordered by event.

    The units are those that each event states. Production points are those of the vertices, inherited from
    the mother's where a vertex has none. ``neutral``: PDG codes to take as neutral. Raises ``UserError`` for a
    code whose charge is not known.
    """
    parts: list[dict[str, Array]] = []
    for number, event in enumerate(events):
        momentum, length = _units(event)
        table = event.numpy.particles
        final = table.status == FINAL_STATE
        point = _production_points(event, final) * length
        columns = {name: getattr(table, name)[final] * momentum for name in ("px", "py", "pz", "e")}
        parts.append(
            {
                "event": np.full(int(final.sum()), number, dtype=np.int64),
                "pdg": table.pid[final].astype(np.int64),
                **columns,
                **dict(zip("xyz", point.T, strict=True)),
            }
        )
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Particles(
        n_events=len(events), charge=_charges(joined["pdg"], frozenset(neutral), where), **joined
    )


def _units(event: Any) -> tuple[float, float]:
    """Factors to GeV and to millimetres."""
    import pyhepmc

    gev = 1.0 if event.momentum_unit == pyhepmc.Units.MomentumUnit.GEV else 1.0e-3
    return gev, 1.0 if event.length_unit == pyhepmc.Units.LengthUnit.MM else 10.0


def _production_points(event: Any, final: Array) -> Array:
    """(particles, 3) of the final-state particles, in the event's unit."""
    particles, vertices = event.particles, event.vertices
    table = event.numpy.vertices
    place = np.array(
        [_vertex_number(particles[i].production_vertex) for i in np.flatnonzero(final)], dtype=np.int64
    )
    points = np.zeros((len(vertices) + 1, 3))  # the last is for particles without a vertex
    points[:-1] = np.stack([table.x, table.y, table.z], axis=-1) if len(vertices) else points[:-1]
    unset = ~np.asarray(table.has_set_position, dtype=bool) if len(vertices) else np.zeros(0, dtype=bool)
    for number in np.unique(place[place >= 0]):
        if unset[number]:
            position = vertices[number].position
            points[number] = position.x, position.y, position.z
    return points[place]


def _vertex_number(vertex: Any) -> int:
    """Position in ``event.vertices``; −1 for none (or the root that holds the beams)."""
    return -1 if vertex is None or vertex.id == 0 else -int(vertex.id) - 1


def _charges(pdg: Array, neutral: frozenset[int], where: str) -> Array:
    codes, inverse = np.unique(pdg, return_inverse=True)
    charges = [0.0 if code in neutral else _charge(code) for code in codes.tolist()]
    unknown = [code for code, charge in zip(codes.tolist(), charges, strict=True) if charge is None]
    if unknown:
        raise UserError(
            f"{where}: a final-state particle has the PDG code {unknown[0]}, whose charge is not known",
            hint=f"neutral=[{unknown[0]}] takes it as neutral",
        )
    return np.array(charges, dtype=np.float64)[inverse]


@cache
def _charge(code: int) -> float | None:
    """In units of the positron's, by the numbering scheme of the PDG; None for what it does not cover."""
    from particle import PDGID

    charge = PDGID(code).charge
    return None if charge is None else float(charge)
