"""Named recipes for Pythia: the RPV gluino cascade and QCD in slices of p̂T, proton on proton at 13 TeV.

A recipe says everything the generator needs but the seed. To add one, write a function that returns a
``Process`` and enter it in ``_RECIPES``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from hpctrain.errors import UserError
from hpctrain.physics.slha import rpv_gluino_slha

CENTRE_OF_MASS_GEV = 13000.0

REFERENCE_SOURCE = "NERSC atlas_dl, config/DelphesXSec (the samples of Bhimji et al., arXiv:1711.03573)"

REFERENCE_CROSS_SECTION_MB = {
    "jz3": 1.643e-4,
    "jz4": 1.997e-6,
    "jz5": 4.138e-8,
    "jz6": 1.565e-9,
    "jz7": 1.173e-10,
    "jz8": 4.269e-12,
    "jz9": 1.602e-13,
    "jz10": 4.955e-15,
    "jz11": 8.095e-17,
    "jz12": 3.365e-19,
}
"""Cross sections of the QCD slices in millibarn, from ``REFERENCE_SOURCE``."""

REFERENCE_SIGNAL_MB = 1.436e-11
"""The same table's value for gluino pairs of 1400 GeV, in millibarn."""

PTHAT_GEV = {
    "jz3": (160.0, 400.0),
    "jz4": (400.0, 800.0),
    "jz5": (800.0, 1300.0),
    "jz6": (1300.0, 1800.0),
    "jz7": (1800.0, 2500.0),
    "jz8": (2500.0, 3200.0),
    "jz9": (3200.0, 3900.0),
    "jz10": (3900.0, 4600.0),
    "jz11": (4600.0, 5300.0),
    "jz12": (5300.0, 7000.0),
}
"""Range of the hard process' transverse momentum p̂T in GeV; the slices meet and do not overlap."""


@dataclass(frozen=True)
class Process:
    """What Pythia shall generate, and what is known about it beforehand."""

    name: str
    """Short name used in configurations, e.g. ``jz5``."""
    label: str
    """Name for people and plots."""
    signal: bool
    commands: tuple[str, ...]
    """Pythia settings, one ``Key = value`` each."""
    pthat: tuple[float, float] | None = None
    """Range of p̂T in GeV, or None where the process is not sliced."""
    slha: str | None = None
    """SLHA text, or None for a process of the Standard Model."""
    masses: dict[str, float] = field(default_factory=dict)
    """Masses in GeV that the recipe was called with."""
    reference_mb: float | None = None
    """Cross section of the reference table in millibarn, where it has one."""
    partons: tuple[int, ...] = ()
    """PDG codes of what the hard process makes the wanted jets of; empty where any jet will do."""
    class_number: int | None = None
    """Label among several classes; None for signal and background."""

    @property
    def target(self) -> int:
        """Label of its events: ``class_number``, or 1 for signal and 0 for background."""
        return int(self.signal) if self.class_number is None else self.class_number

    @property
    def key(self) -> str:
        """Name with the masses, unique among processes: it enters seeds and fingerprints."""
        return self.name + "".join(f"_{k}={v:g}" for k, v in sorted(self.masses.items()))

    @property
    def short_name(self) -> str:
        """The name alone where the masses are the usual ones, else the key: what datasets and tables show."""
        return self.key if self.masses and self.reference_mb is None else self.name


def rpv_gluino(m_gluino: float = 1400.0, m_neutralino: float = 850.0) -> Process:
    """Gluino pairs, g̃ → q q̄ χ̃⁰ and χ̃⁰ → q q q through the R-parity violating UDD coupling.

    Masses in GeV. Leading-order cross section with 10 TeV squarks.
    """
    standard = (m_gluino, m_neutralino) == (1400.0, 850.0)
    return Process(
        name="rpv_gluino",
        label=f"RPV gluino cascade ({m_gluino:g}, {m_neutralino:g}) GeV",
        signal=True,
        commands=("SUSY:gg2gluinogluino = on", "SUSY:qqbar2gluinogluino = on"),
        slha=rpv_gluino_slha(m_gluino, m_neutralino),
        masses={"m_gluino": float(m_gluino), "m_neutralino": float(m_neutralino)},
        reference_mb=REFERENCE_SIGNAL_MB if standard else None,
    )


def qcd_slice(name: str) -> Process:
    """QCD 2 → 2 scattering with p̂T in the range of ``PTHAT_GEV[name]``."""
    low, high = PTHAT_GEV[name]
    return Process(
        name=name,
        label=f"QCD {name.upper()} ({low:g}-{high:g} GeV)",
        signal=False,
        commands=("HardQCD:all = on", f"PhaseSpace:pTHatMin = {low:g}", f"PhaseSpace:pTHatMax = {high:g}"),
        pthat=(low, high),
        reference_mb=REFERENCE_CROSS_SECTION_MB[name],
    )


def uncovered_pthat(processes: Iterable[Process]) -> list[tuple[float, float]]:
    """Ranges of p̂T [GeV] from 0 to infinity that no slice among ``processes`` covers, rising.

    >>> uncovered_pthat([qcd_slice("jz6"), qcd_slice("jz4")])
    [(0.0, 400.0), (800.0, 1300.0), (1800.0, inf)]
    """
    gaps, reached = [], 0.0
    for low, high in sorted(p.pthat for p in processes if p.pthat is not None):
        if low > reached:
            gaps.append((reached, low))
        reached = max(reached, high)
    return [*gaps, (reached, math.inf)]


def _qcd_recipe(name: str) -> Callable[[], Process]:
    return lambda: qcd_slice(name)


_RECIPES: dict[str, Callable[..., Process]] = {
    "rpv_gluino": rpv_gluino,
    **{name: _qcd_recipe(name) for name in PTHAT_GEV},
}

PROCESS_NAMES = tuple(_RECIPES)
"""Every name that ``find_process`` knows."""


def find_process(name: str, **masses: float) -> Process:
    """The recipe called ``name``; keywords are masses in GeV, where the recipe has any.

    Raises ``UserError`` for an unknown name (with the nearest one) or a mass the recipe has not.

    >>> find_process("jz5").pthat
    (800.0, 1300.0)
    """
    recipe = _RECIPES.get(name)
    if recipe is None:
        near = difflib.get_close_matches(name, PROCESS_NAMES, n=1)
        raise UserError(
            f"unknown process '{name}'",
            hint=(f"did you mean '{near[0]}'? " if near else "") + "known: " + ", ".join(PROCESS_NAMES),
        )
    try:
        return recipe(**masses)
    except TypeError:
        raise UserError(
            f"process '{name}' does not take {', '.join(sorted(masses))}",
            hint="only rpv_gluino has masses: m_gluino and m_neutralino",
        ) from None
