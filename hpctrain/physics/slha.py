"""The mass spectrum and decay tables of the RPV gluino cascade, as SLHA text (hep-ph/0311123, 0801.0045)."""

from __future__ import annotations

from hpctrain.errors import UserError

GLUINO = 1000021
NEUTRALINO = 1000022
DECOUPLED_GEV = 1.0e4

# Squarks, sleptons, heavier neutralinos and charginos: so heavy that they are never produced.
_DECOUPLED = (
    *range(1000001, 1000007),
    *range(2000001, 2000007),
    *range(1000011, 1000017),
    2000011,
    2000013,
    2000015,
    1000023,
    1000024,
    1000025,
    1000035,
    1000037,
    35,
    36,
    37,
)


def _unit_matrix(name: str, size: int) -> list[str]:
    """An SLHA mixing block without mixing."""
    rows = [f"  {i} {j} {float(i == j):.1f}" for i in range(1, size + 1) for j in range(1, size + 1)]
    return [f"BLOCK {name}", *rows]


def rpv_gluino_slha(m_gluino: float, m_neutralino: float) -> str:
    """SLHA text in which g̃ → q q̄ χ̃⁰ (u, d, s, c in equal parts) and χ̃⁰ → u d s or its conjugate.

    Masses in GeV. Everything else has 10 TeV, so gluinos are made by gluons and quarks alone. The
    decay tables are explicit: Pythia takes them as they are and computes no branching fraction, the
    coupling λ''₁₁₂ only says that the neutralino decays through the UDD operator. Widths of 1 GeV and
    0.1 GeV make both decays prompt and leave no R-hadrons.

    Raises ``UserError`` when a decay of the cascade is closed.
    """
    if not 0.0 < m_neutralino < m_gluino:
        raise UserError(
            f"rpv_gluino: m_neutralino {m_neutralino:g} GeV must lie between 0 and m_gluino {m_gluino:g} GeV",
            hint="choose a gluino heavier than the neutralino, as in the default 1400 and 850",
        )
    if m_gluino - m_neutralino < 10.0 or m_neutralino < 10.0:
        raise UserError(
            f"rpv_gluino: masses {m_gluino:g}, {m_neutralino:g} GeV leave less than 10 GeV for the quarks",
            hint="keep the neutralino at least 10 GeV heavy and 10 GeV below the gluino",
        )
    if m_gluino > 0.5 * DECOUPLED_GEV:
        raise UserError(
            f"rpv_gluino: m_gluino {m_gluino:g} GeV is too near the decoupled squarks at {DECOUPLED_GEV:g} GeV",
            hint="choose at most 5000 GeV",
        )
    lines = [
        "BLOCK SPINFO",
        "  1 hpctrain",
        "  2 1.0",
        "BLOCK MODSEL",
        "  1 0",
        "  4 1  # R-parity violation",
        "BLOCK MASS",
        "  24 8.0398E+01",
        "  25 1.2500E+02",
        *(f"  {pdg} {DECOUPLED_GEV:.6E}" for pdg in _DECOUPLED),
        f"  {GLUINO} {m_gluino:.8E}",
        f"  {NEUTRALINO} {m_neutralino:.8E}",
        *_unit_matrix("NMIX", 4),
    ]
    for name in ("UMIX", "VMIX", "STOPMIX", "SBOTMIX", "STAUMIX"):
        lines += _unit_matrix(name, 2)
    lines += ["BLOCK ALPHA", "  -0.1", "BLOCK HMIX Q= 1.0E+03", "  1 1.0E+03", "  2 1.0E+01", "  3 2.46E+02"]
    lines += ["  4 1.0E+08", "BLOCK RVLAMUDDIN", "  1 1 2 1.0E-02"]
    lines += [f"DECAY {GLUINO} 1.0", *(f"  0.25 3 {NEUTRALINO} {q} -{q}" for q in (1, 2, 3, 4))]
    lines += [f"DECAY {NEUTRALINO} 0.1", "  0.5 3 2 1 3", "  0.5 3 -2 -1 -3"]
    return "\n".join(lines) + "\n"
