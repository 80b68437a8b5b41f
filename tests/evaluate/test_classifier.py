"""The whole evaluation step on a small synthetic run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hpctrain.config import Experiment
from hpctrain.errors import UserError
from hpctrain.evaluate.classifier import ClassifierEvaluation
from hpctrain.evaluate.roc import roc_curve
from hpctrain.run import RunDirectory


@pytest.fixture(scope="module")
def evaluated(trained_run: RunDirectory) -> tuple[RunDirectory, dict]:
    with trained_run.tracker("evaluate") as tracker:
        return trained_run, trained_run.experiment.evaluate.build().run(trained_run, tracker)


def arrays(run: RunDirectory, name: str) -> dict[str, np.ndarray]:
    with np.load(run.evaluation / name, allow_pickle=False) as file:
        return dict(file)


def test_every_model_has_its_figures(evaluated: tuple[RunDirectory, dict]) -> None:
    run, summary = evaluated
    for model in ("cnn", "gbdt"):
        assert 0.5 < summary[model]["auc"]["value"] <= 1
        assert set(summary[model]["tpr_at_fpr"]) == {"0.1", "0.01", "0.001"}
        assert summary[model]["weighted"]["auc"]["error"] > 0
        assert set(summary[model]["ams"]) == {"at_selection_fpr", "ratio_to_selection", "best"}
        assert summary[model]["ams"]["best"]["threshold_chosen_on"] == "validation"
    assert 0 < summary["selection"]["unweighted"]["tpr"]["value"] < 1
    assert "cnn-gbdt" in summary["differences"]["unweighted"]
    written = json.loads((run.evaluation / "results.json").read_text())
    assert "test" in written.pop("notes")["test_split"]
    assert {key: summary[key] for key in written} == written


def test_weights_of_the_split_add_up_to_the_whole_sample(evaluated: tuple[RunDirectory, dict]) -> None:
    _, summary = evaluated
    # 800 events: 320 · 0.5 signal, 280 · 40 + 200 · 0.02 background.
    assert summary["events"]["signal"]["expected"] == pytest.approx(160)
    assert summary["events"]["background"]["expected"] == pytest.approx(11204)
    assert summary["events"]["background"]["n_eff"] < summary["events"]["background"]["raw"]


def test_scores_file_reproduces_the_figures(evaluated: tuple[RunDirectory, dict]) -> None:
    run, summary = evaluated
    scores = arrays(run, "scores.npz")
    for model in ("cnn", "gbdt"):
        score = scores[f"test/score_{model}"]
        assert ((score >= 0) & (score <= 1)).all()
        curve = roc_curve(scores["test/label"], score, scores["test/weight"])
        assert summary[model]["weighted"]["auc"]["value"] == pytest.approx(curve.auc)
    assert len(scores["validation/score_cnn"]) == len(scores["validation/event_id"]) == 120
    assert scores["test/selected"].mean() > 0


def test_curves_file_has_bands(evaluated: tuple[RunDirectory, dict]) -> None:
    run, _ = evaluated
    curves = arrays(run, "curves.npz")
    assert curves["fpr"][-1] == 1
    for kind in ("unweighted", "weighted"):
        part = {name: curves[f"cnn/{kind}/{name}"] for name in ("tpr", "low", "high", "n_eff")}
        assert (part["low"] <= part["high"]).all()
        assert part["tpr"][-1] == pytest.approx(1)


def test_rare_figures_are_flagged(evaluated: tuple[RunDirectory, dict]) -> None:
    _, summary = evaluated
    assert "warning" in summary["cnn"]["tpr_at_fpr"]["0.001"]
    assert "warning" not in summary["cnn"]["auc"]


def test_the_same_run_gives_the_same_results(evaluated: tuple[RunDirectory, dict], tmp_path: Path) -> None:
    run, summary = evaluated
    copy = RunDirectory(tmp_path / "copy")
    shutil.copytree(run.path, copy.path, ignore=shutil.ignore_patterns("evaluation"))
    with copy.tracker("evaluate") as tracker:
        again = copy.experiment.evaluate.build().run(copy, tracker)
    assert again == summary


def test_every_baseline_and_the_last_checkpoint(trained_run: RunDirectory, tmp_path: Path) -> None:
    copy = RunDirectory(tmp_path / "copy")
    shutil.copytree(trained_run.path, copy.path, ignore=shutil.ignore_patterns("evaluation"))
    config = ClassifierEvaluation.Config(
        baselines=("gbdt", "mlp"), checkpoint="last", bootstrap=5, fprs=(0.05,)
    )
    with copy.tracker("evaluate") as tracker:
        summary = config.build().run(copy, tracker)
    assert set(summary["differences"]["unweighted"]) == {"cnn-gbdt", "cnn-mlp"}
    assert set(summary["mlp"]["tpr_at_fpr"]) == {"0.05"}
    assert summary["checkpoint"] == "last"


def test_without_a_checkpoint_the_user_is_told_to_train(trained_run: RunDirectory, tmp_path: Path) -> None:
    copy = RunDirectory(tmp_path / "copy")
    shutil.copytree(trained_run.path, copy.path, ignore=shutil.ignore_patterns("checkpoints"))
    with copy.tracker("evaluate") as tracker, pytest.raises(UserError, match="hpctrain train"):
        copy.experiment.evaluate.build().run(copy, tracker)


@pytest.mark.parametrize(
    "key", ["evaluate.fprs=[0]", "evaluate.bootstrap=1", "evaluate.baselines=[svm]", "evaluate.fprs=[]"]
)
def test_nonsense_is_refused(key: str) -> None:
    with pytest.raises(UserError, match="evaluate"):
        Experiment.from_mapping({"name": "x", "evaluate": {"kind": "classifier"}}, [key])
