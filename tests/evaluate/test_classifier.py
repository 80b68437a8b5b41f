"""The whole evaluation step on a small synthetic run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hpctrain.config import Experiment
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError
from hpctrain.evaluate.baselines import score_baseline, train_baseline
from hpctrain.evaluate.classifier import ClassifierEvaluation
from hpctrain.evaluate.roc import roc_curve
from hpctrain.evaluate.scoring import baseline_weights, read_split
from hpctrain.evaluate.significance import ams_of_selection
from hpctrain.parallel.communicator import SingleCommunicator
from hpctrain.run import RunDirectory
from hpctrain.track import read_metrics
from hpctrain.training.restore import load_task


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
        assert set(summary[model]["ams"]) == {
            "at_selection_fpr", "ratio_to_selection", "at_selection_weighted_fpr", "weighted_ratio_to_selection",
            "best",
        }  # fmt: skip
        assert set(summary[model]["tpr_at_selection"]) == {"unweighted", "weighted"}
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


def test_the_threshold_of_the_best_significance_is_that_of_the_validation_split(
    evaluated: tuple[RunDirectory, dict],
) -> None:
    run, summary = evaluated
    scores = arrays(run, "scores.npz")
    for model in ("cnn", "gbdt"):
        found = summary[model]["ams"]["best"]
        thresholds = {}
        for split in ("validation", "test"):
            label, score = scores[f"{split}/label"], scores[f"{split}/score_{model}"]
            significance = [
                float(ams_of_selection(score >= cut, label, scores[f"{split}/weight"])) for cut in score
            ]
            thresholds[split] = score[int(np.argmax(significance))]
        assert thresholds["validation"] != thresholds["test"]
        assert found["threshold"] == thresholds["validation"]
        kept = scores[f"test/score_{model}"] >= found["threshold"]
        assert found["value"] == pytest.approx(
            float(ams_of_selection(kept, scores["test/label"], scores["test/weight"]))
        )


def test_the_gbdt_learns_with_the_weights_of_the_loss(evaluated: tuple[RunDirectory, dict]) -> None:
    """The task makes them of the weights as stored; those corrected for the split would be others."""
    run, _ = evaluated
    task = load_task(run, "best")
    train, test = (read_split(ShardDataset.open(run.data / name)) for name in ("train", "test"))
    weight = task.sample_weights(train.loss_weight, train.label)
    np.testing.assert_array_equal(train.loss_weight, ShardDataset.open(run.data / "train").column("weight"))
    assert not np.allclose(train.loss_weight, train.weight)
    model = train_baseline("gbdt", train.features, train.label, weight, seed=run.experiment.seed)
    np.testing.assert_array_equal(
        score_baseline(model, test.features), arrays(run, "scores.npz")["test/score_gbdt"]
    )
    other = train_baseline("gbdt", train.features, train.label, None, seed=run.experiment.seed)
    assert not np.array_equal(score_baseline(other, test.features), score_baseline(model, test.features))


def test_the_task_is_given_the_weights_as_they_are_stored(trained_run: RunDirectory) -> None:
    class Task:
        def sample_weights(self, weights: np.ndarray, labels: np.ndarray) -> np.ndarray:
            return weights * np.where(labels, 3.0, 1.0)

    dataset = ShardDataset.open(trained_run.data / "train")
    expected = dataset.column("weight") * np.where(dataset.column("label"), 3.0, 1.0)
    np.testing.assert_array_equal(baseline_weights(Task(), read_split(dataset)), expected)


def test_processes_without_events_in_a_split_are_listed_and_warned_of(
    trained_run: RunDirectory, tmp_path: Path
) -> None:
    copy = RunDirectory(tmp_path / "copy")
    shutil.copytree(trained_run.path, copy.path, ignore=shutil.ignore_patterns("evaluation", "metrics.jsonl"))
    empty = {
        "name": "jz3", "label": "QCD JZ3", "signal": False, "preselected": 0, "in_split": 0, "weight": 2e7,
        "split_fraction": 0.0,
    }  # fmt: skip
    for split in ("validation", "test"):
        path = copy.data / split / "dataset.json"
        info = json.loads(path.read_text())
        info["provenance"]["processes"].append(empty)
        path.write_text(json.dumps(info))
    with copy.tracker("evaluate") as tracker:
        summary = ClassifierEvaluation.Config(bootstrap=5, baselines=()).build().run(copy, tracker)
    for split in ("validation", "test"):
        (entry,) = summary["absent_processes"][split]
        assert entry["name"] == "jz3"
        assert entry["expected"]["upper_limit"] == pytest.approx(2.3e7, rel=0.01)
    messages = [line["text"] for line in read_metrics(copy.metrics_path) if line["event"] == "warning"]
    assert [message.split(":")[0] for message in messages] == [
        "no validation event of jz3",
        "no test event of jz3",
    ]


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


def test_data_without_an_analysis_are_evaluated_and_reported(toy_run) -> None:
    """Own shards of image, label and weight alone: the network's figures, and in words what is left out."""
    run = toy_run("own", "training.epochs=1", "evaluate.bootstrap=20")
    with run.tracker("train") as tracker:
        run.experiment.training.build().run(run, tracker, SingleCommunicator())
    with run.tracker("evaluate") as tracker:
        summary = run.experiment.evaluate.build().run(run, tracker)
    assert {"gbdt", "selection"}.isdisjoint(summary)
    assert 0 <= summary["cnn"]["auc"]["value"] <= 1
    assert set(summary["cnn"]["ams"]) == {"best"}
    assert summary["weights_rescaled"] is False
    warnings = " ".join(r["text"] for r in read_metrics(run.metrics_path) if r["event"] == "warning")
    for words in (
        "no gbdt: the data have no jet variables",
        "no benchmark selection",
        "of the test split alone",
    ):
        assert words in warnings
    with run.tracker("report") as tracker:
        run.experiment.report.build().run(run, tracker)
    page = run.report_path.read_text()
    assert "could not be drawn" not in page
    assert "AUC" in page


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
