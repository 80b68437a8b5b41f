"""The figures on top of a page and in its tables are those of the record, each under its own name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hpctrain.files import write_json
from hpctrain.report import sections
from hpctrain.report.contents import Contents
from hpctrain.report.headline import Card, cards
from hpctrain.report.numbers import figure
from hpctrain.run import RunDirectory

Copy = Callable[[RunDirectory], RunDirectory]
Report = Callable[..., tuple[str, dict[str, Any]]]


def _card(run: RunDirectory, start: str) -> Card | None:
    return next((card for card in cards(Contents(run)) if card.label.startswith(start)), None)


def _change(run: RunDirectory, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    path = run.evaluation / "results.json"
    results: dict[str, Any] = json.loads(path.read_text())
    change(results)
    write_json(path, results)
    return results


def test_every_model_has_its_own_figures_on_its_card(complete: RunDirectory, copy_of: Copy) -> None:
    def change(results: dict[str, Any]) -> None:
        results["cnn"]["auc"] |= {"value": 0.91, "error": 0.01}
        results["gbdt"]["auc"] |= {"value": 0.83, "error": 0.02}
        results["differences"]["unweighted"]["cnn-gbdt"] |= {"value": 0.08, "error": 0.003}

    run = copy_of(complete)
    _change(run, change)
    network, difference = _card(run, "AUC of the CNN"), _card(run, "AUC, CNN")
    assert network is not None
    assert difference is not None
    assert network.value == "0.910 ± 0.010"
    assert difference.value == "+0.0800 ± 0.0030"
    assert "GBDT alone 0.830 ± 0.020" in difference.note


def test_the_card_beside_the_selection_is_at_its_background(complete: RunDirectory) -> None:
    results = Contents(complete).evaluation
    assert results is not None
    card = _card(complete, "CNN signal efficiency at the selection")
    assert card is not None
    assert card.value == figure(results["cnn"]["tpr_at_selection"]["unweighted"]["tpr"])
    assert figure(results["selection"]["unweighted"]["tpr"]) in card.note
    assert figure(results["selection"]["unweighted"]["fpr"]) in card.note


@pytest.mark.parametrize("n_eff", [1.1, 25.0])
def test_a_significance_is_a_headline_only_where_it_is_measured(
    complete: RunDirectory, copy_of: Copy, write_report: Report, n_eff: float
) -> None:
    def change(results: dict[str, Any]) -> None:
        for model in ("cnn", "gbdt"):
            for key in ("ratio_to_selection", "weighted_ratio_to_selection"):
                entry = results[model]["ams"][key]
                entry |= {"value": 3.25, "error": 0.12, "n_eff": n_eff}
                entry.pop("warning", None)

    run = copy_of(complete)
    _change(run, change)
    card = _card(run, "significance (AMS)")
    text, _ = write_report(run)
    assert (card is None) == (n_eff < 10)
    assert ("not measurable with 1.1 effective events" in text) == (n_eff < 10)


def test_a_figure_without_spread_says_so_on_its_card(complete: RunDirectory, copy_of: Copy) -> None:
    run = copy_of(complete)
    warning = "has no spread at all: its error is unknown, not 0"
    _change(run, lambda results: results["cnn"]["auc"].update(value=1.0, error=0.0, warning=warning))
    card = _card(run, "AUC of the CNN")
    assert card is not None
    assert card.warning == "Has no spread at all: its error is unknown, not 0."


def test_expected_events_have_the_error_of_the_data(complete: RunDirectory) -> None:
    contents = Contents(complete)
    data = sections.data(contents, None)
    assert data is not None
    for row, process in zip(data["rows"], contents.processes, strict=True):
        n, weight = process["preselected"], process["weight"]
        relative = process["cross_section_error_mb"] / process["cross_section_mb"]
        assert row["expected"]["value"] == pytest.approx(n * weight)
        assert row["expected"]["error"] == pytest.approx(np.hypot(np.sqrt(n) * weight, n * weight * relative))


def test_an_empty_slice_is_shown_as_a_limit_with_a_warning(
    complete: RunDirectory, copy_of: Copy, write_report: Report
) -> None:
    run = copy_of(complete)
    for split in ("train", "validation", "test"):
        path = run.data / split / "dataset.json"
        info = json.loads(path.read_text())
        empty = {**info["provenance"]["processes"][-1], "name": "jz3", "label": "QCD JZ3", "weight": 2e7}
        empty |= {"preselected": 0, "in_split": 0, "generated": 300}
        info["provenance"]["processes"].append(empty)
        info["provenance"]["not_generated"] = "QCD with pT-hat below 160 GeV"
        path.write_text(json.dumps(info))
    entry = {"name": "jz3", "preselected": 0, "expected": {"value": 0.0, "error": 2e7, "upper_limit": 2.3e7}}
    _change(run, lambda results: results.update(absent_processes={"validation": [entry], "test": [entry]}))
    text, _ = write_report(run)
    assert "&lt; 2.3 × 10⁷ (68 %)" in text
    assert "<td>0 ± 0</td>" not in text
    assert "Nothing of QCD JZ3 passed the preselection" in text
    assert "of the processes in this table alone" in text
    assert "not in them: QCD with pT-hat below 160 GeV" in text
    assert "No test events of jz3 (up to 2.3 × 10⁷ expected events, 68 % limit)" in text
    assert "the choice of the best AMS threshold" in text


def test_an_old_record_of_compression_has_no_dash_for_what_it_does_not_say(
    complete: RunDirectory, copy_of: Copy, write_report: Report
) -> None:
    run = copy_of(complete)
    path = run.steps / "compress.json"
    record = json.loads(path.read_text())
    record["summary"].pop("sparsity_pruned", None)
    write_json(path, record)
    card = _card(run, "weights that are zero")
    assert card is not None
    assert "pruned" not in card.note
    text, _ = write_report(run)
    assert "– pruned" not in text
    assert "no control run" in text


def test_the_regularisation_shown_is_that_of_the_results(
    complete: RunDirectory, copy_of: Copy, write_report: Report
) -> None:
    run = copy_of(complete)
    _change(run, lambda results: results["selection"]["ams"].update(regularisation=7.5))
    assert "b<sub>r</sub> = 7.5" in write_report(run)[0]


def test_the_best_epoch_is_that_of_the_train_step(trained: RunDirectory, copy_of: Copy) -> None:
    run = copy_of(trained)
    path = run.steps / "train.json"
    record = json.loads(path.read_text())
    for wanted in (0, 1):
        write_json(path, {**record, "summary": {**record["summary"], "best_epoch": wanted}})
        best = Contents(run).history.best
        assert best is not None
        assert best["epoch"] == wanted


def test_a_training_that_is_not_over_honours_what_it_monitors(trained: RunDirectory, copy_of: Copy) -> None:
    run = copy_of(trained)
    (run.steps / "train.json").unlink()
    run.config_path.write_text(run.config_path.read_text().replace("monitor: auc", "monitor: loss"))
    contents = Contents(run)
    best = contents.history.best
    assert best is not None
    assert best["validation_loss"] == min(epoch["validation_loss"] for epoch in contents.history.epochs)
    assert contents.history.monitor == "loss"
