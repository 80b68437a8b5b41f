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
    """(particles, 3) of the final-state particles, in the event's unit; the origin for those without a vertex."""
    table = event.numpy.vertices
    ids = np.asarray(table.id, dtype=np.int64)
    points = np.stack([table.x, table.y, table.z], axis=-1).reshape(len(ids), 3)
    particles, vertices = event.particles, event.vertices
    wanted = np.array(
        [0 if (v := particles[i].production_vertex) is None else v.id for i in np.flatnonzero(final)],
        dtype=np.int64,
    )
    # Vertices are known by their (negative) number, which is not their position; 0 is the root of the beams.
    order = np.argsort(ids)
    place = (
        order[np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)] if len(ids) else wanted
    )
    some = ids[place] == wanted if len(ids) else np.zeros(len(wanted), dtype=bool)
    unset = np.flatnonzero(~np.asarray(table.has_set_position, dtype=bool))
    for number in np.intersect1d(place[some], unset):
        position = vertices[number].position  # inherited
        points[number] = position.x, position.y, position.z
    found = np.zeros((len(wanted), 3))
    found[some] = points[place[some]]
    return found


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
