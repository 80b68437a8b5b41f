from collections.abc import Callable

import numpy as np
import pytest
from fastjet import _swig as fj
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.physics.calorimeter import Towers
from hpctrain.physics.detector import DetectorEvents
from hpctrain.physics.jets import Jets, cluster_fat_jets, tower_momenta
from hpctrain.physics.particles import Floats
from hpctrain.physics.selection import jet_variables

Make = Callable[..., Towers]


def filtered_by_fastjet(towers: Towers, pt_min: float, trimmed: bool) -> Floats:
    """Rows event, px, py, pz, E from fastjet's own Filter, event by event, jet by jet."""
    definition = fj.JetDefinition(fj.antikt_algorithm, 1.0)
    trimmer = fj.Filter(fj.JetDefinition(fj.kt_algorithm, 0.2), fj.SelectorPtFractionMin(0.05))
    momenta = np.stack(tower_momenta(towers), axis=1)
    rows = []
    for event in range(towers.n_events):
        inputs = [fj.PseudoJet(*map(float, p)) for p in momenta[towers.event == event]]
        sequence = fj.ClusterSequence(inputs, definition)
        for jet in sequence.inclusive_jets(pt_min):
            groomed = trimmer(jet) if trimmed else jet
            rows.append((event, groomed.px(), groomed.py(), groomed.pz(), groomed.e()))
    return np.array(rows).reshape(-1, 5)


def assert_same(jets: Jets, expected: Floats) -> None:
    order = np.lexsort((-np.hypot(expected[:, 1], expected[:, 2]), expected[:, 0]))
    found = np.stack([jets.event, jets.px, jets.py, jets.pz, jets.e], axis=1)
    assert found.shape == expected.shape
    assert np.abs(found - expected[order]).max() < 1e-6  # GeV


@pytest.mark.parametrize("trimmed", [True, False])
def test_trimming_is_fastjets_filter_on_signal(rpv_events: DetectorEvents, trimmed: bool) -> None:
    expected = filtered_by_fastjet(rpv_events.towers, 180.0, trimmed)
    assert len(expected) > 200
    assert_same(cluster_fat_jets(rpv_events.towers, trimmed=trimmed), expected)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_trimming_is_fastjets_filter_on_anything(random_towers: Make, seed: int) -> None:
    towers = random_towers(seed)
    assert_same(cluster_fat_jets(towers), filtered_by_fastjet(towers, 180.0, True))


def test_trimming_takes_away(rpv_events: DetectorEvents) -> None:
    trimmed, whole = (cluster_fat_jets(rpv_events.towers, trimmed=t) for t in (True, False))
    assert len(trimmed) == len(whole)
    assert trimmed.mass.sum() < 0.9 * whole.mass.sum()
    assert trimmed.e.sum() < whole.e.sum()
    # No jet gains pT, so the 180 GeV cut before trimming cannot lose a jet of 200 GeV after it.
    assert np.all(np.bincount(trimmed.event, trimmed.pt) <= np.bincount(whole.event, whole.pt) + 1e-6)


def test_jets_fall_in_pt_within_their_event(rpv_events: DetectorEvents) -> None:
    jets = cluster_fat_jets(rpv_events.towers)
    assert np.all(np.diff(jets.event) >= 0)
    same = np.diff(jets.event) == 0
    assert np.all(np.diff(jets.pt)[same] <= 0)


def test_events_without_jets_and_without_towers() -> None:
    nothing = Towers(3, np.zeros(0, dtype=np.int64), *(np.zeros(0),) * 4)
    assert len(cluster_fat_jets(nothing)) == 0
    soft = Towers(
        4, np.array([1, 1, 3]), np.array([0.1, 0.2, 1.0]), np.zeros(3), np.array([5.0, 6.0, 7.0]), np.zeros(3)
    )
    for trimmed in (True, False):
        jets = cluster_fat_jets(soft, trimmed=trimmed)
        assert len(jets) == 0
        assert jet_variables(jets).n_jets.tolist() == [0, 0, 0, 0]


def test_one_hard_tower_among_empty_events() -> None:
    """A massless jet with the tower's own momentum, in the right event."""
    one = Towers(5, np.array([3]), np.array([0.5]), np.array([-3.0]), np.array([300.0]), np.array([200.0]))
    jets = cluster_fat_jets(one)
    assert jets.event.tolist() == [3]
    assert jets.pt[0] == pytest.approx(500.0 / np.cosh(0.5))
    assert jets.eta[0] == pytest.approx(0.5)
    assert jets.phi[0] == pytest.approx(-3.0)
    assert jets.mass[0] == pytest.approx(0.0, abs=1e-3)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), angle=st.floats(-np.pi, np.pi))
def test_variables_do_not_change_when_the_event_turns_or_is_mirrored(
    random_towers: Make, seed: int, angle: float
) -> None:
    towers = random_towers(seed)
    plain = jet_variables(cluster_fat_jets(towers))
    phi = (towers.phi + angle + np.pi) % (2 * np.pi) - np.pi
    for changed in (
        Towers(towers.n_events, towers.event, towers.eta, phi, towers.ecal, towers.hcal),
        Towers(towers.n_events, towers.event, -towers.eta, towers.phi, towers.ecal, towers.hcal),
    ):
        other = jet_variables(cluster_fat_jets(changed))
        assert np.array_equal(other.n_jets, plain.n_jets)
        assert other.sum_mass == pytest.approx(plain.sum_mass, abs=1e-5)
        assert other.delta_eta == pytest.approx(plain.delta_eta, abs=1e-7)
        assert other.jets[:, :, 0] == pytest.approx(plain.jets[:, :, 0], abs=1e-6)
        assert np.abs(other.jets[:, :, 1]) == pytest.approx(np.abs(plain.jets[:, :, 1]), abs=1e-7)
        assert other.jets[:, :, 3] == pytest.approx(plain.jets[:, :, 3], abs=1e-5)
