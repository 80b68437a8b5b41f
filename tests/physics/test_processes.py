import numpy as np
import pytest

from hpctrain.errors import UserError
from hpctrain.physics.processes import PROCESS_NAMES, PTHAT_GEV, REFERENCE_CROSS_SECTION_MB, find_process


def test_slices_meet_without_gap_or_overlap() -> None:
    ranges = list(PTHAT_GEV.values())
    assert [low for low, _ in ranges[1:]] == [high for _, high in ranges[:-1]]
    assert set(PTHAT_GEV) == set(REFERENCE_CROSS_SECTION_MB)


def test_reference_cross_sections_fall_steeply() -> None:
    values = np.array(list(REFERENCE_CROSS_SECTION_MB.values()))
    assert np.all(values[1:] < 0.1 * values[:-1])


def test_every_name_gives_its_process() -> None:
    for name in PROCESS_NAMES:
        process = find_process(name)
        assert process.name == name
        assert process.signal is (name == "rpv_gluino")
        assert (process.pthat is None) is process.signal


def test_masses_enter_the_key_and_the_label() -> None:
    light = find_process("rpv_gluino", m_gluino=1000, m_neutralino=250)
    assert light.key == "rpv_gluino_m_gluino=1000_m_neutralino=250"
    assert light.short_name == light.key
    assert light.reference_mb is None
    assert "(1000, 250)" in light.label
    usual = find_process("rpv_gluino")
    assert usual.short_name == "rpv_gluino"
    assert usual.reference_mb == 1.436e-11
    assert usual.key != light.key


def test_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'jz5'"):
        find_process("jz55")


def test_masses_of_a_process_without_masses() -> None:
    with pytest.raises(UserError, match="does not take m_gluino"):
        find_process("jz5", m_gluino=1000)
