"""Correlation functions against sums written out, against fastjet's, and under the symmetries they have."""

from itertools import combinations

import awkward as ak
import fastjet
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.physics.energy_correlations import EnergyCorrelations, energy_correlations
from hpctrain.physics.particle_jets import Constituents
from hpctrain.physics.particles import Floats


def random_jet(seed: int, n: int) -> Constituents:
    """``n`` massless constituents around a direction that straddles φ = π."""
    rng = np.random.default_rng(seed)
    pt = rng.exponential(10.0, n) + 0.1
    eta, phi = rng.normal(0.5, 0.3, n), rng.normal(np.pi, 0.3, n)
    return jet_of(pt, eta, phi)


def jet_of(pt: Floats, eta: Floats, phi: Floats) -> Constituents:
    return Constituents(
        np.array([0, len(pt)]), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta)
    )


def values(e: EnergyCorrelations) -> Floats:
    groups = (e.pairs, e.triples, e.smallest, e.two_smallest)
    return np.array([group[beta] for group in groups for beta in sorted(group)])[:, 0]


def by_hand(jet: Constituents) -> Floats:
    """The nine sums as they are defined, one pair and one triple after the other."""
    z, y, phi = jet.pt / jet.pt.sum(), jet.rapidity, jet.phi

    def angle(i: int, j: int) -> float:
        turn = abs(phi[i] - phi[j])
        return float(np.hypot(y[i] - y[j], min(turn, 2 * np.pi - turn)))

    out = np.zeros(9)
    for i, j in combinations(range(len(z)), 2):
        out[:3] += [z[i] * z[j] * angle(i, j) ** beta for beta in (0, 1, 2)]
    for i, j, k in combinations(range(len(z)), 3):
        a, b, c = sorted((angle(i, j), angle(i, k), angle(j, k)))
        zzz = z[i] * z[j] * z[k]
        terms = [(p * zzz) for x in (a * b * c, a, a * b) for p in (x, x**2)]
        out[3:] += terms
    return out


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 14))
def test_sums_are_those_of_the_definition(seed: int, n: int) -> None:
    jet = random_jet(seed, n)
    assert values(energy_correlations(jet)) == pytest.approx(by_hand(jet), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("beta", [1, 2])
def test_sums_are_those_of_fastjet(beta: int) -> None:
    """fastjet's contrib EnergyCorrelator with pT and ΔR, on four jets of 5 to 60 constituents."""
    for n in (5, 20, 60):
        jet = random_jet(n, n)
        events = ak.Array(
            [ak.zip({"px": jet.px, "py": jet.py, "pz": jet.pz, "E": jet.e})],
            with_name="Momentum4D",
        )
        sequence = fastjet.ClusterSequence(events, fastjet.JetDefinition(fastjet.cambridge_algorithm, 100.0))

        def ask(points: int, angles: int, sequence: fastjet.ClusterSequence = sequence) -> float:
            found = sequence.exclusive_jets_energy_correlator(
                njets=1, beta=beta, npoint=points, angles=angles, func="generalized", normalized=True
            )
            return float(ak.flatten(found, axis=None)[0])

        ours = energy_correlations(jet)
        assert ours.pairs[beta][0] == pytest.approx(ask(2, -1), rel=1e-6)
        assert ours.triples[beta][0] == pytest.approx(ask(3, -1), rel=1e-6)
        assert ours.smallest[beta][0] == pytest.approx(ask(3, 1), rel=1e-6)
        assert ours.two_smallest[beta][0] == pytest.approx(ask(3, 2), rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 30), scale=st.floats(0.01, 100.0))
def test_order_scale_rotation_about_the_beam_and_boost_along_it_do_not_matter(
    seed: int, n: int, scale: float
) -> None:
    jet = random_jet(seed, n)
    shuffled = np.random.default_rng(seed).permutation(n)
    changed = jet_of(scale * jet.pt[shuffled], jet.eta[shuffled] + 0.7, jet.phi[shuffled] - 2.0)
    assert values(energy_correlations(changed)) == pytest.approx(values(energy_correlations(jet)), rel=1e-6)


def test_safe_where_they_have_to_be() -> None:
    """A collinear splitting or a soft particle changes nothing of what has angles; e₂(β = 0) is not safe and does."""
    jet = random_jet(3, 20).sorted_by_pt()
    pt, eta, phi = jet.pt, jet.eta, jet.phi
    before = values(energy_correlations(jet))
    split = jet_of(
        np.concatenate([pt[1:], [0.4 * pt[0], 0.6 * pt[0]]]),
        np.concatenate([eta[1:], [eta[0], eta[0]]]),
        np.concatenate([phi[1:], [phi[0], phi[0]]]),
    )
    soft = jet_of(np.append(pt, 1e-7), np.append(eta, -0.3), np.append(phi, np.pi + 0.5))
    for changed in (split, soft):
        after = values(energy_correlations(changed))
        assert after[1:] == pytest.approx(before[1:], rel=1e-5)
    assert abs(values(energy_correlations(split))[0] / before[0] - 1) > 1e-3


def test_jets_do_not_mix() -> None:
    one, two = random_jet(1, 9), random_jet(2, 17)
    both = Constituents(
        np.array([0, 9, 9, 26]),
        *(np.concatenate([getattr(one, c), getattr(two, c)]) for c in ("px", "py", "pz", "e")),
    )
    found = energy_correlations(both)
    assert found.triples[1].shape == (3,)
    assert found.triples[1][0] == energy_correlations(one).triples[1][0]
    assert found.triples[1][1] == 0.0  # no constituents
    assert found.two_smallest[2][2] == energy_correlations(two).two_smallest[2][0]
