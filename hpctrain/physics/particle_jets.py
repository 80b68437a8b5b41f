"""Jets of particles with their constituents, and grooming by the modified mass drop (0802.1189, 1307.0007)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hpctrain.physics.jets import Jets, Momenta, load_fastjet
from hpctrain.physics.particles import Floats, Ints, Particles, sum_by

UNSEEN = (12, 14, 16, 1000022, 1000023, 1000025, 1000035)
"""Neutrinos and neutralinos: in no jet. Muons are, unlike in a calorimeter."""
Z_CUT = 0.1
"""Momentum fraction of the softer branch at which the mass drop stops."""
_ANY_RADIUS = 100.0
"""Reclustering has to take every constituent: some lie farther than R from the axis."""


@dataclass(frozen=True)
class Constituents(Momenta):
    """Momenta of the constituents of a number of jets, jet after jet."""

    offsets: Ints
    """(jets + 1,): those of jet i are offsets[i] to offsets[i + 1]."""
    px: Floats
    py: Floats
    pz: Floats
    e: Floats
    """GeV."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> Ints:
        return np.diff(self.offsets)

    @property
    def jet(self) -> Ints:
        """Number of the jet of each constituent."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.counts)

    @property
    def rapidity(self) -> Floats:
        """½ ln((E + pz)/(E − pz)), in a form that stays exact for light particles."""
        transverse_mass = np.sqrt(self.pt**2 + np.maximum(self.e**2 - self.pt**2 - self.pz**2, 0.0))
        return np.arcsinh(self.pz / transverse_mass)

    def total(self) -> Jets:
        """The sum of each jet's constituents, as jet i of event i."""
        number = np.arange(len(self), dtype=np.int64)
        return Jets(
            len(self), number, *(sum_by(self.jet, p, len(self)) for p in (self.px, self.py, self.pz, self.e))
        )

    def order(self, at_most: int | None = None) -> Ints:
        """Rows jet after jet, each jet's by falling pT, the hardest ``at_most`` of it."""
        jet = self.jet
        order = np.lexsort((-self.pt, jet))
        if at_most is None:
            return order
        return order[np.arange(len(order)) - self.offsets[jet] < at_most]

    def sorted_by_pt(self, at_most: int | None = None) -> Constituents:
        """Each jet's constituents by falling pT, the hardest ``at_most`` of them."""
        order = self.order(at_most)
        counts = np.bincount(self.jet[order], minlength=len(self))
        return Constituents(_offsets(counts), self.px[order], self.py[order], self.pz[order], self.e[order])


@dataclass(frozen=True)
class ParticleJets:
    """Jets and which particles they are made of; within an event by falling pT."""

    jets: Jets
    offsets: Ints
    """(jets + 1,)"""
    members: Ints
    """Rows of the ``Particles`` that were clustered, jet after jet."""

    def __len__(self) -> int:
        return len(self.jets)

    def take(self, rows: Ints) -> ParticleJets:
        """The jets with the given numbers, in that order."""
        counts = np.diff(self.offsets)[rows]
        offsets = _offsets(counts)
        source = np.repeat(self.offsets[rows] - offsets[:-1], counts) + np.arange(offsets[-1])
        j = self.jets
        jets = Jets(j.n_events, j.event[rows], j.px[rows], j.py[rows], j.pz[rows], j.e[rows])
        return ParticleJets(jets, offsets, self.members[source])

    def constituents(self, particles: Particles) -> Constituents:
        """Momenta of the members, which are rows of ``particles``."""
        rows = self.members
        return Constituents(
            self.offsets, particles.px[rows], particles.py[rows], particles.pz[rows], particles.e[rows]
        )


def visible(particles: Particles) -> npt.NDArray[np.bool_]:
    """True for particles that a jet may contain: all but ``UNSEEN``."""
    return ~np.isin(np.abs(particles.pdg), UNSEEN)


def cluster_particles(particles: Particles, *, radius: float, pt_min: float) -> ParticleJets:
    """Anti-kT jets above ``pt_min`` [GeV] of all of ``particles`` (choose the ``visible`` ones before)."""
    import awkward as ak

    fastjet = load_fastjet()
    counts = np.bincount(particles.event, minlength=particles.n_events)
    first = np.cumsum(counts) - counts
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, radius)
    momenta = ak.unflatten(_momenta(particles.px, particles.py, particles.pz, particles.e), counts)
    index = fastjet.ClusterSequence(momenta, definition).constituent_index(min_pt=pt_min)
    per_event = ak.to_numpy(ak.num(index, axis=1)).astype(np.int64)
    event = np.repeat(np.arange(particles.n_events, dtype=np.int64), per_event)
    jets = ak.flatten(index, axis=1)
    sizes = ak.to_numpy(ak.num(jets, axis=1)).astype(np.int64) if len(jets) else np.zeros(0, np.int64)
    flat = ak.to_numpy(ak.flatten(jets, axis=1)) if len(jets) else np.zeros(0, np.int64)
    found = ParticleJets(
        Jets(particles.n_events, event, *(np.zeros(len(event)),) * 4),
        _offsets(sizes),
        flat.astype(np.int64) + np.repeat(first[event], sizes),
    )
    total = found.constituents(particles).total()
    found = ParticleJets(
        Jets(particles.n_events, event, total.px, total.py, total.pz, total.e), found.offsets, found.members
    )
    return found.take(np.lexsort((-total.pt, event)))


def modified_mass_drop(constituents: Constituents, *, z_cut: float = Z_CUT) -> Constituents:
    """Constituents that the modified mass-drop tagger keeps (soft drop with β = 0).

    Each jet is reclustered with Cambridge/Aachen and undone step by step: the softer branch is dropped
    while it carries less than ``z_cut`` of the pT. A jet of one constituent keeps it.
    """
    import awkward as ak

    if not len(constituents):
        return constituents
    fastjet = load_fastjet()
    c = constituents
    jets = ak.unflatten(_momenta(c.px, c.py, c.pz, c.e), c.counts)
    definition = fastjet.JetDefinition(fastjet.cambridge_algorithm, _ANY_RADIUS)
    groomed = fastjet.ClusterSequence(jets, definition).exclusive_jets_softdrop_grooming(
        beta=0.0, symmetry_cut=z_cut, R0=1.0
    )
    kept = groomed.constituents
    flat = ak.flatten(kept, axis=1)
    columns = (np.asarray(ak.to_numpy(flat[k]), dtype=np.float64) for k in ("px", "py", "pz", "E"))
    return Constituents(_offsets(ak.to_numpy(ak.num(kept, axis=1))), *columns)


def _momenta(px: Floats, py: Floats, pz: Floats, e: Floats) -> Any:
    import awkward as ak

    return ak.zip({"px": px, "py": py, "pz": pz, "E": e}, with_name="Momentum4D")


def _offsets(counts: npt.NDArray[Any]) -> Ints:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
