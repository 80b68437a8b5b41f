"""From Pythia to the selections: the numbers the field's reference gives for this search."""

from collections.abc import Iterator

import numpy as np
import pytest

from hpctrain.physics.detector import DetectorEvents, simulate
from hpctrain.physics.generator import Generator
from hpctrain.physics.jets import cluster_fat_jets
from hpctrain.physics.processes import find_process
from hpctrain.physics.selection import jet_variables


def _events(name: str, events: int, seed: int) -> Iterator[DetectorEvents]:
    generator, rng = Generator(find_process(name), seed), np.random.default_rng(seed)
    for _ in range(events // 100):
        yield simulate(generator.generate(100), rng)


@pytest.mark.slow
def test_signal_efficiencies() -> None:
    """After the preselection the benchmark selection keeps 0.24-0.31 of the signal with trimmed jets.

    NERSC's log has 0.234-0.244 for their own Delphes samples; with whole jets, whose masses their
    notebook read, it has 0.422. 1,600 events give ±0.012.
    """
    preselected = selected = preselected_whole = selected_whole = 0
    for events in _events("rpv_gluino", 1600, seed=21):
        trimmed = jet_variables(cluster_fat_jets(events.towers))
        whole = jet_variables(cluster_fat_jets(events.towers, trimmed=False))
        preselected += int(trimmed.preselected.sum())
        selected += int(trimmed.selected.sum())
        preselected_whole += int(whole.preselected.sum())
        selected_whole += int(whole.selected.sum())
    assert 0.93 < preselected / 1600 < 0.98
    assert 0.24 < selected / preselected < 0.31
    assert 0.40 < selected_whole / preselected_whole < 0.55


@pytest.mark.slow
@pytest.mark.parametrize(("name", "low", "high"), [("jz4", 0.03, 0.10), ("jz6", 0.15, 0.25)])
def test_background_efficiencies(name: str, low: float, high: float) -> None:
    """Measured once with 10,000 and 4,700 events: 0.066 and 0.203; the benchmark selection keeps below 2%."""
    preselected = selected = 0
    for events in _events(name, 600, seed=5):
        variables = jet_variables(cluster_fat_jets(events.towers))
        preselected += int(variables.preselected.sum())
        selected += int(variables.selected.sum())
    assert low < preselected / 600 < high
    assert selected <= 0.04 * preselected + 2
