"""The recipes make what they are named after: masses and decays of the jets, at 1 TeV and particle level."""

import numpy as np
import pytest

from hpctrain.physics.generator import Generator
from hpctrain.physics.jet_features import EXPERT_FEATURES, expert_features
from hpctrain.physics.jet_processes import JET_CLASSES, dijets, higgs_to_bb, jet_class_process, wprime_to_wz
from hpctrain.physics.particle_jets import cluster_particles, visible
from hpctrain.physics.particles import Floats
from hpctrain.physics.partons import hard_partons, match
from hpctrain.physics.processes import Process


def matched_jets(process: Process, events: int, pt_min: float) -> Floats:
    """Expert features of the jets of the process' partons."""
    generator = Generator(process, 31)
    record = generator.record(events)
    particles = generator.final_state(record)
    particles = particles.where(visible(particles))
    jets = cluster_particles(particles, radius=0.8, pt_min=pt_min)
    owner = match(jets.jets, hard_partons(record, process.partons), radius=0.4)
    jets = jets.take(np.flatnonzero((owner >= 0) & (np.abs(jets.jets.eta) < 2.0)))
    return expert_features(jets.constituents(particles))


@pytest.fixture(scope="module")
def jets() -> dict[str, Floats]:
    return {
        name: matched_jets(jet_class_process(name, (950.0, 1050.0), i), 60, 800.0)
        for i, name in enumerate(JET_CLASSES)
    }


@pytest.mark.parametrize(("name", "mass", "width"), [("W", 79, 3), ("Z", 89, 3), ("t", 167, 8)])
def test_groomed_masses_of_what_is_heavy(
    jets: dict[str, Floats], name: str, mass: float, width: float
) -> None:
    """79, 89 and 167 GeV (docs/physics.md). The median of those in the peak; about 100 jets give ±0.5 GeV (W, Z)
    and ±1.5 GeV (t)."""
    found = jets[name][:, EXPERT_FEATURES.index("mass_mmdt")]
    peak = found[np.abs(found - mass) < 0.25 * mass]
    assert len(peak) > 0.5 * len(found) > 40
    assert np.median(peak) == pytest.approx(mass, abs=width)


def test_quark_and_gluon_jets(jets: dict[str, Floats]) -> None:
    """Gluons have more constituents and more spread; neither has a mass peak (median far below the W's)."""
    multiplicity, c1 = (EXPERT_FEATURES.index(n) for n in ("multiplicity", "c1_b1_mmdt"))
    assert np.median(jets["g"][:, multiplicity]) > 1.3 * np.median(jets["q"][:, multiplicity])
    assert np.median(jets["g"][:, c1]) > np.median(jets["q"][:, c1])
    assert np.median(jets["q"][:, EXPERT_FEATURES.index("mass_mmdt")]) < 60


def test_prongs(jets: dict[str, Floats]) -> None:
    """N2 tells two prongs from one: smaller for W and Z than for gluons."""
    n2 = EXPERT_FEATURES.index("n2_b1_mmdt")
    assert np.median(jets["W"][:, n2]) < 0.85 * np.median(jets["g"][:, n2])
    assert np.median(jets["Z"][:, n2]) < 0.85 * np.median(jets["g"][:, n2])


def test_higgs_bosons_decay_to_b_quarks_and_the_w_is_boosted() -> None:
    record = Generator(higgs_to_bb((400.0, 600.0)), 3).record(10)
    assert np.all(np.sum(np.abs(record.id) == 5, axis=1) >= 2)
    higgs = hard_partons(record, (25,))
    assert len(higgs) == 10
    assert np.all((higgs.pt > 390) & (higgs.pt < 610))
    w = hard_partons(Generator(wprime_to_wz(600.0), 3).record(20), (24,))
    # 0.5 √((M² − m_W² − m_Z²)² − 4 m_W² m_Z²) / M ≈ 288 GeV is the most pT the decay gives.
    assert 150 < np.median(w.pt) < 330


def test_names_and_labels() -> None:
    process = jet_class_process("W", (950.0, 1050.0), 2)
    assert (process.name, process.target, process.pthat) == ("w_jets", 2, (950.0, 1050.0))
    slices = [dijets((20.0, 50.0)), dijets((50.0, 100.0))]
    assert [s.key for s in slices] == ["dijets_20-50", "dijets_50-100"]
    assert {s.target for s in slices} == {0}
