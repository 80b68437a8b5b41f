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
    jet, parton, distance = _pairs(jets, partons)
    taken = np.zeros(len(partons), dtype=bool)
    for pair in np.argsort(distance, kind="stable"):
        if distance[pair] > radius:
            break
        if owner[jet[pair]] < 0 and not taken[parton[pair]]:
            owner[jet[pair]] = parton[pair]
            taken[parton[pair]] = True
    return owner


def heavy_hadrons_in(jets: Jets, record: Any, quark: int, *, radius: float) -> Ints:
    """Number of weakly decaying hadrons with a b (``quark`` 5) or c (4) quark within ``radius`` of each jet.

    Hadrons that decay to another of the kind are left out, so that a B* → B counts once; charm of a b decay
    counts among the charm.
    """
    import awkward as ak

    heavy = _has_quark(record.id, quark)
    index = ak.local_index(record.id)
    # Whose daughters hold the quark still: marked through the mothers of the heavy particles.
    counts = ak.to_numpy(ak.num(record.id)).astype(np.int64)
    starts = np.cumsum(counts) - counts
    event = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    flat_heavy = np.asarray(ak.to_numpy(ak.flatten(heavy)), dtype=bool)
    mother = ak.to_numpy(ak.flatten(record.mother1)).astype(np.int64) + starts[event]
    passed_on = np.zeros(len(event), dtype=bool)
    passed_on[mother[flat_heavy]] = True
    last = flat_heavy & ~passed_on & (np.asarray(ak.to_numpy(ak.flatten(index))) > 0)
    px, py, pz = (np.asarray(ak.to_numpy(ak.flatten(record.p[k])))[last] for k in ("px", "py", "pz"))
    pt = np.hypot(px, py)
    hadrons = Partons(
        len(counts),
        event[last],
        np.zeros(last.sum(), np.int64),
        pt,
        pseudorapidity(pt, pz),
        np.arctan2(py, px),
    )
    jet, _, distance = _pairs(jets, hadrons)
    return np.bincount(jet[distance < radius], minlength=len(jets)).astype(np.int64)


def _has_quark(pdg: Any, quark: int) -> Any:
    """True for hadrons whose code has ``quark`` as the heaviest: hundreds of mesons, thousands of baryons."""
    code = abs(pdg)
    meson, baryon = (code // 100) % 10, (code // 1000) % 10
    return (code < 1_000_000) & (code > 100) & ((baryon == quark) | ((baryon == 0) & (meson == quark)))


def _pairs(jets: Jets, partons: Partons) -> tuple[Ints, Ints, Floats]:
    """Every jet with every parton of its event: rows of both, and ΔR."""
    first = np.searchsorted(partons.event, np.arange(partons.n_events + 1))
    size = np.diff(first)[jets.event]
    jet = np.repeat(np.arange(len(jets), dtype=np.int64), size)
    start = np.cumsum(size) - size
    parton = np.repeat(first[jets.event] - start, size) + np.arange(len(jet))
    turn = jets.phi[jet] - partons.phi[parton]
    turn -= 2.0 * np.pi * np.round(turn / (2.0 * np.pi))
    return jet, parton, np.hypot(jets.eta[jet] - partons.eta[parton], turn)
