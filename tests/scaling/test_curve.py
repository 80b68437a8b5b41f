import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.scaling.curve import Point, amdahl, table


def test_a_worked_example():
    """8 nodes at 6× one node (Bhimji et al., figure 7): 75% efficiency, serial fraction 1/21."""
    one, eight = table([Point(8, (600.0, 590.0, 610.0)), Point(1, (100.0, 99.0, 101.0))])
    assert (one.speed_up, one.efficiency, one.efficiency_error, one.serial_fraction) == (1, 1, 0, None)
    assert eight.speed_up == 6
    assert eight.efficiency == 0.75
    assert eight.serial_fraction == pytest.approx(1 / 21)
    assert eight.efficiency_error == pytest.approx(0.75 * (0.01**2 + (10 / 600) ** 2) ** 0.5)


@given(st.floats(0, 1), st.integers(2, 10_000))
def test_karp_flatt_undoes_amdahl(serial, ranks):
    rows = table([Point(1, (1.0,)), Point(ranks, (amdahl(serial, ranks),))])
    assert rows[1].serial_fraction == pytest.approx(serial, abs=1e-9)
    assert 0 < rows[1].efficiency <= 1 + 1e-12


def test_the_reference_need_not_be_one_rank():
    rows = table([Point(4, (10.0,)), Point(16, (30.0,))])
    assert rows[1].speed_up == 3
    assert rows[1].efficiency == 0.75


@pytest.mark.parametrize("points", [[], [Point(2, (1.0,)), Point(2, (1.0,))]])
def test_no_curve(points):
    with pytest.raises(ValueError, match="needs points"):
        table(points)
