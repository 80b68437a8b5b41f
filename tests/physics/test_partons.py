import numpy as np
import pytest

from hpctrain.physics.generator import Generator
from hpctrain.physics.jet_processes import CLASS_PARTONS, JET_CLASSES, jet_class_process, wprime_to_wz
from hpctrain.physics.jets import Jets
from hpctrain.physics.partons import Partons, hard_partons, match


def _jets(event: list[int], eta: list[float], phi: list[float]) -> Jets:
    pt = np.full(len(event), 100.0)
    e, p = np.array(eta), np.array(phi)
    return Jets(
        3, np.array(event, dtype=np.int64), pt * np.cos(p), pt * np.sin(p), pt * np.sinh(e), pt * np.cosh(e)
    )


def _partons(event: list[int], eta: list[float], phi: list[float]) -> Partons:
    n = len(event)
    return Partons(
        3, np.array(event, dtype=np.int64), np.full(n, 21), np.full(n, 100.0), np.array(eta), np.array(phi)
    )


def test_nearest_of_the_same_event_one_to_one() -> None:
    jets = _jets([0, 0, 1, 2], [0.0, 0.3, 0.0, 1.0], [0.0, 0.0, 3.1, 1.0])
    partons = _partons([0, 1, 1, 2], [0.1, 0.0, 0.5, 1.0], [0.0, -3.1, 3.1, 2.0])
    # Both jets of event 0 are near its parton, the first is nearer; event 1 matches across the seam; 2 is too far.
    assert match(jets, partons, radius=0.4).tolist() == [0, -1, 1, -1]


def test_nothing_to_match() -> None:
    none = _partons([], [], [])
    assert match(_jets([0], [0.0], [0.0]), none, radius=1.0).tolist() == [-1]
    assert match(_jets([], [], []), _partons([0], [0.0], [0.0]), radius=1.0).tolist() == []


@pytest.mark.parametrize("name", JET_CLASSES)
def test_each_class_has_its_two_partons_back_to_back(name: str) -> None:
    generator = Generator(jet_class_process(name, (950.0, 1050.0), 0), 3)
    partons = hard_partons(generator.record(5), CLASS_PARTONS[name])
    assert partons.event.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert np.all(np.isin(np.abs(partons.pdg), CLASS_PARTONS[name]))
    # Each stands as the hard process made it: the two have one p̂T (initial-state radiation comes later).
    pairs = partons.pt.reshape(-1, 2)
    assert pairs[:, 0] == pytest.approx(pairs[:, 1], rel=1e-6)
    assert np.all((pairs > 940) & (pairs < 1060))


def test_a_resonance_and_its_products_stand_once() -> None:
    record = Generator(wprime_to_wz(800.0), 3).record(5)
    assert len(hard_partons(record, (34,))) == 5
    assert hard_partons(record, (24,)).event.tolist() == [0, 1, 2, 3, 4]
    assert len(hard_partons(record, (24, 23))) == 10
