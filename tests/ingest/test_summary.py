import numpy as np
import pytest

from hpctrain.data.schema import ShardInfo
from hpctrain.ingest.assemble import Sample
from hpctrain.ingest.parts import Part
from hpctrain.ingest.summary import effective_events, efficiency, expected_events, summarise
from hpctrain.physics.generator import CrossSection
from hpctrain.physics.processes import find_process

SHARD = ShardInfo(file="x", events=0, bytes=0, sha256="", digest="")


def _sample(
    name: str, generated: int, preselected: int, selected: int, mb: float, error: float = 0.0
) -> Sample:
    part = Part("x", "", generated, preselected, selected, CrossSection(mb, error, 1), 1.0, 1, SHARD)
    return Sample(find_process(name), (part,))


def test_efficiency_has_the_binomial_error_where_counts_are_large() -> None:
    found = efficiency(3000, 10_000)
    assert found is not None
    assert found["value"] == 0.3
    assert found["error"] == pytest.approx(np.sqrt(0.3 * 0.7 / 10_000), rel=1e-3)


def test_efficiency_of_none_and_of_all_has_an_error() -> None:
    none, everything = efficiency(0, 50), efficiency(50, 50)
    assert none is not None
    assert everything is not None
    assert none["value"] == 0.0
    assert none["error"] == everything["error"]
    assert 0.01 < none["error"] < 0.03
    assert efficiency(0, 0) is None


def test_effective_events() -> None:
    equal = [_sample("jz5", 100, 40, 0, 1e-9), _sample("jz6", 100, 60, 0, 1e-9)]
    assert effective_events(equal, 36.0) == pytest.approx(100)
    dominated = [_sample("jz4", 100, 10, 0, 1e-6), _sample("jz7", 100, 1000, 0, 1e-10)]
    assert effective_events(dominated, 36.0) == pytest.approx(10, rel=0.05)
    assert effective_events([_sample("jz5", 100, 0, 0, 1e-9)], 36.0) == 0.0


def test_expected_events_and_their_error() -> None:
    # 1e-12 mb is 1 fb: 36 expected at 36/fb, a quarter of them preselected.
    found = expected_events([_sample("jz5", 400, 100, 0, 1e-12, 2e-14)], 36.0)
    assert found["value"] == pytest.approx(9.0)
    assert found["error"] == pytest.approx(np.hypot(9.0 / 10.0, 9.0 * 0.02))


def test_a_process_of_which_nothing_passed_is_not_known_to_be_nothing() -> None:
    # 36 fb expected in all, 400 generated: one event is worth 0.09.
    empty = _sample("jz3", 400, 0, 0, 1e-12)
    alone = expected_events([empty], 36.0)
    assert (alone["value"], alone["error"]) == (0.0, pytest.approx(0.09))
    assert alone["upper_limit_of_empty"] == pytest.approx(1.148 * 0.09, rel=1e-3)
    seen = _sample("jz5", 400, 100, 0, 1e-12)
    both = expected_events([seen, empty], 36.0)
    assert both["error"] == pytest.approx(np.hypot(0.9, 0.09))
    assert both["empty_processes"] == ["jz3"]
    assert "empty_processes" not in expected_events([seen], 36.0)


def test_summary() -> None:
    figures = summarise(
        [_sample("rpv_gluino", 100, 95, 27, 1.436e-11), _sample("jz5", 100, 20, 1, 4e-8, 1e-9)], 36.0
    )
    assert figures["signal_selection_efficiency"]["value"] == pytest.approx(27 / 95)
    assert figures["preselected"] == 115
    assert figures["expected_signal"]["value"] == pytest.approx(14.36 * 36 * 0.95)
    jz5 = figures["processes"]["jz5"]
    assert jz5["preselection_efficiency"]["value"] == 0.2
    assert jz5["cross_section_ratio"]["value"] == pytest.approx(4e-8 / 4.138e-8)
    assert jz5["reference_cross_section_mb"] == 4.138e-8
    assert figures["effective_background_events"] == pytest.approx(20)
