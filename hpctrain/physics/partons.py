"""The partons of the hard process, and which jet is whose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpctrain.physics.jets import Jets
from hpctrain.physics.particles import Floats, Ints
from hpctrain.physics.propagation import pseudorapidity

HARD_STATUS = (22, 23)
"""Absolute status codes that Pythia gives to resonances and outgoing particles of the hard process."""


@dataclass(frozen=True)
class Partons:
    """Quarks, gluons, bosons of ``n_events`` events, one row each, ordered by event."""

    n_events: int
    event: Ints
    pdg: Ints
    pt: Floats
    """GeV."""
    eta: Floats
    phi: Floats

    def __len__(self) -> int:
        return len(self.event)


def hard_partons(record: Any, codes: Sequence[int]) -> Partons:
    """Particles of the hard process with one of the PDG ``codes`` (or its negative) in a generator's ``record``.

    Each stands once, as the hard process made it: before showers, recoil and decay.
    """
    import awkward as ak

    status, pdg = abs(record.status), abs(record.id)
    hard = (status == HARD_STATUS[0]) | (status == HARD_STATUS[1])
    wanted = pdg == codes[0]
    for code in codes[1:]:
        wanted = wanted | (pdg == code)
    found = record[hard & wanted]
    counts = ak.to_numpy(ak.num(found.id)).astype(np.int64)
    flat = ak.flatten(found)
    px, py, pz = (np.asarray(ak.to_numpy(flat.p[k]), dtype=np.float64) for k in ("px", "py", "pz"))
    pt = np.hypot(px, py)
    event = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    pdg_codes = ak.to_numpy(flat.id).astype(np.int64)
    return Partons(len(counts), event, pdg_codes, pt, pseudorapidity(pt, pz), np.arctan2(py, px))


def match(jets: Jets, partons: Partons, *, radius: float) -> Ints:
    """Row of the parton of each jet, (jets,): the one within ``radius`` of it, −1 where there is none.

    One to one: of all pairs of an event the nearest is taken first.
    """
    owner = np.full(len(jets), -1, dtype=np.int64)
    first = np.searchsorted(partons.event, np.arange(partons.n_events + 1))
    per_event = np.diff(first)[jets.event] if len(jets) else np.zeros(0, np.int64)
    jet = np.repeat(np.arange(len(jets)), per_event)
    start = np.cumsum(per_event) - per_event
    parton = np.repeat(first[jets.event] - start, per_event) + np.arange(len(jet))
    turn = jets.phi[jet] - partons.phi[parton]
    turn -= 2.0 * np.pi * np.round(turn / (2.0 * np.pi))
    distance = np.hypot(jets.eta[jet] - partons.eta[parton], turn)
    taken = np.zeros(len(partons), dtype=bool)
    for pair in np.argsort(distance, kind="stable"):
        if distance[pair] > radius:
            break
        if owner[jet[pair]] < 0 and not taken[parton[pair]]:
            owner[jet[pair]] = parton[pair]
            taken[parton[pair]] = True
    return owner
