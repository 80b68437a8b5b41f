from typing import Any

import numpy as np
import pytest

from hpctrain.physics.jets import Jets
from hpctrain.physics.selection import jet_variables


def _jets(events: list[list[tuple[float, float, float, float]]]) -> Jets:
    """Jets from (pt, eta, phi, m) lists, one list per event."""
    event = np.repeat(np.arange(len(events)), [len(jets) for jets in events])
    pt, eta, phi, m = np.array([jet for jets in events for jet in jets], dtype=float).reshape(-1, 4).T
    pz = pt * np.sinh(eta)
    return Jets(len(events), event, pt * np.cos(phi), pt * np.sin(phi), pz, np.sqrt(pt**2 + pz**2 + m**2))


def _alike(n: int, **last: Any) -> list[tuple[float, float, float, float]]:
    """n jets of 500 GeV falling in pT, each with mass ``mass``."""
    return [(500.0 - 10 * i, last.get("eta", 0.1), 0.3 * i, last["mass"]) for i in range(n)]


def test_cuts_on_each_jet() -> None:
    v = jet_variables(
        _jets([[(500, 0.5, 0.1, 90), (200.1, 1.99, 1.0, 20), (199.9, 0.0, 2.0, 30), (300, -2.01, 3.0, 40)]])
    )
    assert v.n_jets.tolist() == [2]
    assert v.jets[0, :2] == pytest.approx(np.array([[500, 0.5, 0.1, 90], [200.1, 1.99, 1.0, 20]]))
    assert np.all(v.jets[0, 2:] == 0)
    assert v.sum_mass[0] == pytest.approx(110)
    assert v.delta_eta[0] == pytest.approx(1.49)


def test_jets_are_put_in_order_of_pt() -> None:
    v = jet_variables(_jets([[(300, 0, 0, 1), (600, 1, 1, 2), (450, -1, 2, 3)]]))
    assert v.jets[0, :3, 0] == pytest.approx([600, 450, 300])
    assert v.jets[0, :3, 3] == pytest.approx([2, 3, 1])
    assert v.delta_eta[0] == pytest.approx(2.0)


def test_masses_of_four_jets_momenta_of_five_count_of_all() -> None:
    v = jet_variables(_jets([_alike(7, mass=100.0)]))
    assert v.n_jets.tolist() == [7]
    assert v.sum_mass[0] == pytest.approx(400)
    assert np.count_nonzero(v.jets[0, :, 0]) == 5


def test_few_jets() -> None:
    v = jet_variables(_jets([[], [(500, 1.5, 0, 50)], [(500, 1.5, 0, 50), (400, -1, 0, 50)]]))
    assert v.n_jets.tolist() == [0, 1, 2]
    assert v.delta_eta == pytest.approx([0.0, 0.0, 2.5])
    assert v.sum_mass == pytest.approx([0, 50, 100])
    assert not v.preselected.any()


@pytest.mark.parametrize(("leading", "n", "passes"), [(441, 3, True), (439, 3, False), (441, 2, False)])
def test_preselection(leading: float, n: int, passes: bool) -> None:
    jets = [(leading, 0.0, 0.0, 10.0)] + [(300.0 - i, 0.0, 1.0, 10.0) for i in range(n - 1)]
    assert jet_variables(_jets([jets])).preselected.tolist() == [passes]


@pytest.mark.parametrize(
    ("n", "mass", "passes"),
    [
        (3, 400.0, False),  # ΣM 1200, but three jets
        (4, 201.0, True),  # 804
        (4, 199.0, False),  # 796
        (5, 151.0, True),  # 604 over the four leading
        (5, 149.0, False),  # 596; all five would be 745
        (5, 201.0, True),
    ],
)
def test_benchmark_selection(n: int, mass: float, passes: bool) -> None:
    v = jet_variables(_jets([_alike(n, mass=mass)]))
    assert v.selected.tolist() == [passes]
    assert v.preselected.tolist() == [True]


def test_jets_far_apart_in_eta_are_refused() -> None:
    near = [(500, 0.65, 0, 300), (450, -0.7, 1, 300), (300, 0, 2, 300), (250, 0, 3, 300)]
    far = [(500, 0.75, 0, 300), (450, -0.7, 1, 300), (300, 0, 2, 300), (250, 0, 3, 300)]
    assert jet_variables(_jets([near, far])).selected.tolist() == [True, False]
