"""Named recipes for samples of jets: five classes of jets, H → bb, W′ → WZ, dijets, and minimum bias."""

from __future__ import annotations

from dataclasses import replace

from hpctrain.physics.processes import Process

Range = tuple[float, float]

JET_CLASSES = ("g", "q", "W", "Z", "t")
"""Classes of the jet tagger in the order of its outputs; a jet's label is the position."""

JET_CLASS_NAMES = {"g": "gluon", "q": "quark", "W": "W boson", "Z": "Z boson", "t": "top quark"}

CLASS_PARTONS = {"g": (21,), "q": (1, 2, 3, 4, 5), "W": (24,), "Z": (23,), "t": (6,)}
"""PDG codes of what the hard process has to make for a jet of each class."""

_HADRONIC_W = ("24:onMode = off", "24:onIfAny = 1 2 3 4 5")
_HADRONIC_Z = ("23:onMode = off", "23:onIfAny = 1 2 3 4 5")

_CLASS_COMMANDS: dict[str, tuple[str, ...]] = {
    "g": ("HardQCD:gg2gg = on", "HardQCD:qqbar2gg = on"),
    "q": ("HardQCD:qq2qq = on", "HardQCD:gg2qqbar = on", "HardQCD:qqbar2qqbarNew = on"),
    "W": ("WeakDoubleBoson:ffbar2WW = on", *_HADRONIC_W),
    "Z": ("WeakDoubleBoson:ffbar2gmZgmZ = on", "WeakZ0:gmZmode = 2", *_HADRONIC_Z),
    "t": ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on", *_HADRONIC_W),
}


def jet_class_process(name: str, pthat: Range, class_number: int) -> Process:
    """Pairs of partons of one class of ``JET_CLASSES``, with p̂T [GeV] in ``pthat``; bosons decay to quarks.

    q: qq → qq, qq̄ → q′q̄′, gg → qq̄; g: gg → gg, qq̄ → gg; WW and ZZ (without γ*) of the Standard Model; tt̄.
    """
    low, high = pthat
    return Process(
        name=f"{name.lower()}_jets",
        label=f"{JET_CLASS_NAMES[name]} jets ({low:g}-{high:g} GeV)",
        signal=name in ("W", "Z", "t"),
        commands=(*_CLASS_COMMANDS[name], *_phase_space(pthat)),
        pthat=pthat,
        partons=CLASS_PARTONS[name],
        class_number=class_number,
    )


def higgs_to_bb(pthat: Range, m_higgs: float = 125.0) -> Process:
    """qq̄ → H Z of the Standard Model with H → bb̄ and Z → νν̄: one boosted Higgs an event. p̂T, mass in GeV."""
    decays = ("25:onMode = off", "25:onIfAny = 5", "23:onMode = off", "23:onIfAny = 12 14 16")
    return Process(
        name=f"hbb_{pthat[0]:g}-{pthat[1]:g}",
        label=f"H → bb̄ ({pthat[0]:g}-{pthat[1]:g} GeV)",
        signal=True,
        commands=("HiggsSM:ffbar2HZ = on", f"25:m0 = {m_higgs:g}", *decays, *_phase_space(pthat)),
        pthat=pthat,
        masses={"m_higgs": float(m_higgs)},
        partons=(25,),
    )


def wprime_to_wz(m_wprime: float) -> Process:
    """W′ → W Z with W → qq̄′ and Z → νν̄: the boosted W of the jet-image studies. Mass in GeV."""
    return Process(
        name="wprime_wz",
        label=f"W′ → WZ ({m_wprime:g} GeV)",
        signal=True,
        commands=(
            "NewGaugeBoson:ffbar2Wprime = on",
            f"34:m0 = {m_wprime:g}",
            "Wprime:coup2WZ = 1.0",
            "34:onMode = off",
            "34:onIfAll = 24 23",
            *_HADRONIC_W,
            "23:onMode = off",
            "23:onIfAny = 12 14 16",
        ),
        masses={"m_wprime": float(m_wprime)},
        partons=(24,),
    )


def qcd(pthat: Range) -> Process:
    """QCD 2 → 2 scattering with p̂T in the range ``pthat`` [GeV], which is part of its name."""
    low, high = pthat
    return Process(
        name=f"qcd_{low:g}-{high:g}",
        label=f"QCD ({low:g}-{high:g} GeV)",
        signal=False,
        commands=("HardQCD:all = on", *_phase_space(pthat)),
        pthat=pthat,
    )


def dijets(pthat: Range) -> Process:
    """QCD in one of several slices of p̂T [GeV], named by it so that slices stand beside each other."""
    return replace(qcd(pthat), name=f"dijets_{pthat[0]:g}-{pthat[1]:g}", class_number=0)


def minimum_bias() -> Process:
    """Inelastic proton collisions, diffraction included: what pileup is made of."""
    return Process(
        name="minimum_bias", label="minimum bias", signal=False, commands=("SoftQCD:inelastic = on",)
    )


def _phase_space(pthat: Range) -> tuple[str, str]:
    return (f"PhaseSpace:pTHatMin = {pthat[0]:g}", f"PhaseSpace:pTHatMax = {pthat[1]:g}")
