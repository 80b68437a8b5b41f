import pytest

from hpctrain.errors import UserError
from hpctrain.physics.slha import GLUINO, NEUTRALINO, rpv_gluino_slha


def _decays(text: str, pdg: int) -> list[tuple[float, list[int]]]:
    """(branching fraction, daughters) of a DECAY block."""
    block = text.partition(f"DECAY {pdg} ")[2].partition("DECAY")[0]
    lines = block.strip().splitlines()[1:]
    rows = [line.split() for line in lines]
    assert all(int(row[1]) == len(row) - 2 for row in rows)
    return [(float(row[0]), [int(code) for code in row[2:]]) for row in rows]


def test_masses_are_written() -> None:
    text = rpv_gluino_slha(1234.5, 321.0)
    assert f"  {GLUINO} 1.23450000E+03" in text
    assert f"  {NEUTRALINO} 3.21000000E+02" in text


def test_decay_tables() -> None:
    text = rpv_gluino_slha(1400, 850)
    gluino, neutralino = _decays(text, GLUINO), _decays(text, NEUTRALINO)
    assert sum(fraction for fraction, _ in gluino) == pytest.approx(1.0)
    assert sum(fraction for fraction, _ in neutralino) == pytest.approx(1.0)
    for _, (chi, quark, antiquark) in gluino:
        assert chi == NEUTRALINO
        assert quark == -antiquark
    for _, quarks in neutralino:
        assert len(quarks) == 3
        assert all(1 <= abs(quark) <= 3 for quark in quarks)
        assert len({quark > 0 for quark in quarks}) == 1  # baryon number is violated by one unit


@pytest.mark.parametrize(
    ("m_gluino", "m_neutralino"),
    [(850, 1400), (1400, 1400), (1400, 1395), (1400, 5), (1400, -1), (6000, 850)],
)
def test_closed_or_senseless_masses_are_refused(m_gluino: float, m_neutralino: float) -> None:
    with pytest.raises(UserError, match="GeV"):
        rpv_gluino_slha(m_gluino, m_neutralino)
