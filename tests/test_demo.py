"""The demo as shipped, whole and once: what its physics and its firmware must be."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-m", "hpctrain", "run", ROOT / "configs" / "demo.yaml", f"output={output}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)
    assert result.returncode == 0, result.stdout + result.stderr
    return output / "demo"


@pytest.fixture(scope="module")
def summary(run) -> dict:
    return json.loads((run / "summary.json").read_text())


def test_about_five_thousand_events_pass_the_preselection(summary):
    assert 4500 < summary["generate"]["preselected"] < 6500


def test_benchmark_selection_of_the_signal(summary):
    """Reference: .234 to .244 in NERSC's log, .276 in a trial of this simulation; 2,000 events give ±.010."""
    assert 0.24 < summary["generate"]["signal_selection_efficiency"]["value"] < 0.31


def test_the_network_beats_the_gbdt(summary):
    cnn, gbdt = (summary["evaluate"][name]["auc"] for name in ("cnn", "gbdt"))
    assert cnn["value"] > gbdt["value"]
    assert 0.97 < gbdt["value"] < 1  # a GBDT that is broken proves nothing
    assert 0 < cnn["error"] < 0.01


def test_pruning_and_fixed_point_cost_little(summary):
    difference = summary["compress"]["auc_difference"]
    assert difference["value"] > -0.005
    assert summary["compress"]["sparsity"] > 0.7


def test_the_firmware_is_the_network(run, summary):
    assert summary["firmware"]["passed"] is True
    assert summary["firmware"]["mismatches"] == 0
    assert summary["firmware"]["max_abs_difference"] == 0
    assert list((run / "firmware" / "hls4ml" / "firmware").glob("*.cpp"))


def test_the_report_is_one_self_contained_page(run):
    page = (run / "report.html").read_text()
    assert len(page) < 6_000_000
    assert 'src="http' not in page
    assert "Delphes-ATLAS-like parametrised simulation" in page
