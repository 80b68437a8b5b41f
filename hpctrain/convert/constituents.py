"""Which particle-flow candidate is in which jet: the link tables of customised NanoAOD."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from hpctrain.convert.root_files import RootTree
from hpctrain.data.columns import Array, RaggedRows, offsets_of
from hpctrain.errors import UserError

JET_INDICES = ("jetIdx", "fatJetIdx")
CANDIDATE_INDICES = ("pFCandsIdx", "pFCandIdx", "pfCandsIdx", "pfCandIdx", "candIdx", "idx")


@dataclass(frozen=True)
class Links:
    """Branches of a link table."""

    jet: str
    """Number of the jet in its event; negative where there is none."""
    candidate: str | None
    """Number of the candidate in its event; None when the table's rows are the candidates themselves."""

    @property
    def branches(self) -> list[str]:
        return [name for name in (self.jet, self.candidate) if name]


def find_links(tree: RootTree, jets: str, candidates: str, table: str | None) -> Links:
    """The table that links ``jets`` (``Jet``, ``FatJet``) to ``candidates`` (``PFCands``).

    Raises ``UserError`` naming what was looked for.
    """
    usual = (
        f"{jets}PFCands",
        f"{jets}PFCand",
        f"{jets}ToPFCands",
        f"{jets}ToPFCand",
        f"{jets}To{candidates}",
    )
    tables = (table,) if table else dict.fromkeys((*usual, f"{jets}{candidates}"))
    for name, jet in product(tables, JET_INDICES):
        if tree.has(f"{name}_{jet}"):
            if name == candidates:
                return Links(f"{name}_{jet}", None)
            for candidate in CANDIDATE_INDICES:
                if tree.has(f"{name}_{candidate}"):
                    return Links(f"{name}_{jet}", f"{name}_{candidate}")
    raise UserError(
        f"{tree.path}: no table links {jets} to {candidates}: none of {', '.join(tables)} has "
        f"{JET_INDICES[0]} and one of {', '.join(CANDIDATE_INDICES)}",
        hint="links=TABLE names it; particles=[] leaves the constituents out",
    )


def constituents(
    jets: RaggedRows, candidates: RaggedRows, jet: RaggedRows, candidate: RaggedRows | None, where: str
) -> RaggedRows:
    """Candidates (items, features) of each jet, as rows of jets in their order; by falling first feature.

    ``jet`` and ``candidate`` are the columns of the link table (numbers within the event). A candidate may be
    in several jets or in none. Raises ``UserError`` for numbers that lead to no jet or candidate.
    """
    event = jet.row_of_value()
    in_jet = jet.values.astype(np.int64)
    within = (
        np.arange(len(in_jet)) - jet.offsets[event]
        if candidate is None
        else candidate.values.astype(np.int64)
    )
    linked = (in_jet >= 0) & (within >= 0)
    event, in_jet, within = event[linked], in_jet[linked], within[linked]
    for name, index, rows in (("jet", in_jet, jets), ("candidate", within, candidates)):
        wrong = index >= rows.counts[event]
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            raise UserError(
                f"{where}: a link leads to {name} {int(index[first])} of an event with "
                f"{int(rows.counts[event[first]])}",
                hint="The table belongs to other collections: name the right ones with particle_table and links",
            )
    row: Array = jets.offsets[event] + in_jet
    item: Array = candidates.offsets[event] + within
    order = np.lexsort((-candidates.values[item, 0], row))
    counts = np.bincount(row, minlength=len(jets.values))
    return RaggedRows(offsets_of(counts), candidates.values[item[order]])
