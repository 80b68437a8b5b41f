"""Pythia 8 behind a small face: a process and a seed in, flat arrays of final-state particles out."""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpctrain.errors import HpctrainError, UserError
from hpctrain.physics.particles import Floats, Ints, Particles
from hpctrain.physics.processes import CENTRE_OF_MASS_GEV, Process

MAX_SEED = 900_000_000
"""Pythia takes seeds from 1 to this number."""

_COMMON = (
    f"Beams:eCM = {CENTRE_OF_MASS_GEV:g}",
    "Print:quiet = on",
    "SLHA:verbose = 0",
    # Monash 2013 is Pythia's own default, written down so that the record says so.
    "Tune:pp = 14",
    # What lives longer than c·tau = 10 mm meets the detector undecayed: K0S and Lambda have their
    # own energy fractions in the calorimeters.
    "ParticleDecays:limitTau0 = on",
    "ParticleDecays:tau0Max = 10",
)


@dataclass(frozen=True)
class CrossSection:
    """A cross section with its statistical error, in millibarn."""

    mb: float
    error_mb: float
    tried: int
    """Phase-space points tried for it: the weight of this estimate among others."""

    @staticmethod
    def combine(estimates: list[CrossSection]) -> CrossSection:
        """Independent estimates as one, each with the weight of the points it tried."""
        if not estimates:
            raise ValueError("no cross section to combine")
        tried = np.array([c.tried for c in estimates], dtype=np.float64)
        share = tried / tried.sum()
        mb = float(share @ np.array([c.mb for c in estimates]))
        error = float(np.sqrt(np.sum((share * np.array([c.error_mb for c in estimates])) ** 2)))
        return CrossSection(mb, error, int(tried.sum()))


def require_physics() -> None:
    """Raise ``UserError`` when a package of the physics extra is missing; imports none of them."""
    for package in ("pythia8mc", "fastjet", "awkward"):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"generating events needs {package}, which is not installed",
                hint="pip install 'hpctrain[physics]'",
            )


class Generator:
    """A Pythia set up for one process and one seed; the same pair gives the same events.

    ``hard_process_only`` leaves out showers, multi-parton interactions and hadronisation. The cross
    section is that of the hard process either way, and a thousand times cheaper to have so.
    """

    def __init__(self, process: Process, seed: int, *, hard_process_only: bool = False) -> None:
        if not 1 <= seed <= MAX_SEED:
            raise ValueError(f"Pythia's seed must lie between 1 and {MAX_SEED}, got {seed}")
        require_physics()
        import pythia8mc

        self.process = process
        self._pythia = pythia8mc.Pythia("", False)
        commands = [*_COMMON, "Random:setSeed = on", f"Random:seed = {seed}", *process.commands]
        if hard_process_only:
            commands.append("PartonLevel:all = off")
        for command in commands:
            if not self._pythia.readString(command):
                raise HpctrainError(f"Pythia refused the setting '{command}' of process {process.name}")
        self._initialise()
        self._charges: dict[int, float] = {}

    def _initialise(self) -> None:
        if self.process.slha is None:
            ready = self._pythia.init()
        else:
            # Pythia reads the spectrum during init and not after it.
            with tempfile.NamedTemporaryFile("w", suffix=".slha") as card:
                card.write(self.process.slha)
                card.flush()
                self._pythia.readString(f"SLHA:file = {card.name}")
                ready = self._pythia.init()
        if not ready:
            raise HpctrainError(f"Pythia could not be initialised for process {self.process.key}")

    def record(self, events: int) -> Any:
        """The next ``events`` events in full: an awkward array, events × particles.

        Fields of a particle: ``id``, ``status`` (> 0: final), ``mother1``, ``mother2``, ``daughter1``,
        ``daughter2`` (indices in the event), ``p`` and ``vProd`` (GeV, mm).
        """
        batch = self._pythia.nextBatch(events)
        if len(batch) != events:
            raise HpctrainError(f"Pythia gave {len(batch)} of {events} events of {self.process.key}")
        return batch.prt

    def advance(self, events: int) -> None:
        """Generate ``events`` events for the cross section alone and keep nothing of them."""
        for _ in range(events):
            if not self._pythia.next():
                raise HpctrainError(f"Pythia gave up on an event of {self.process.key}")

    def generate(self, events: int) -> Particles:
        """The final-state particles of the next ``events`` events."""
        return self.final_state(self.record(events))

    def final_state(self, record: Any) -> Particles:
        """Final-state particles of a ``record`` as flat arrays."""
        import awkward as ak

        final = record[record.status > 0]
        counts = ak.to_numpy(ak.num(final.id))
        flat = ak.flatten(final)
        pdg = ak.to_numpy(flat.id).astype(np.int64)

        def column(values: Any) -> Floats:
            return np.asarray(ak.to_numpy(ak.fill_none(values, 0.0)), dtype=np.float64)

        return Particles(
            n_events=len(counts),
            event=np.repeat(np.arange(len(counts), dtype=np.int64), counts),
            pdg=pdg,
            charge=self._charge(pdg),
            px=column(flat.p.px),
            py=column(flat.p.py),
            pz=column(flat.p.pz),
            e=column(flat.p.e),
            # A particle without a vertex of its own was made at the collision.
            x=column(flat.vProd.px),
            y=column(flat.vProd.py),
            z=column(flat.vProd.pz),
        )

    def _charge(self, pdg: Ints) -> Floats:
        codes, inverse = np.unique(pdg, return_inverse=True)
        for code in codes.tolist():
            if code not in self._charges:
                self._charges[code] = float(self._pythia.particleData.charge(code))
        return np.array([self._charges[code] for code in codes.tolist()], dtype=np.float64)[inverse]

    def cross_section(self) -> CrossSection:
        """Pythia's estimate from everything generated so far."""
        info = self._pythia.infoPython()
        return CrossSection(float(info.sigmaGen()), float(info.sigmaErr()), int(info.nTried()))
