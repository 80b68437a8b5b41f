"""Evaluation of a classifier: the network against shallow models and the benchmark selection, held-out events."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, PositiveInt

from hpctrain.config import ComponentConfig
from hpctrain.data.shards import ShardDataset
from hpctrain.evaluate.baselines import Baseline, score_baseline, selection_rates, train_baseline
from hpctrain.evaluate.comparison import (
    FPR_GRID,
    auc_differences,
    efficiency_at_selection,
    roc_band,
    selection_significance,
    significance_above,
    significance_at_selection,
)
from hpctrain.evaluate.coverage import absence_warning, absent_processes, refuse_several_signals
from hpctrain.evaluate.metrics import Sample, classification_metrics
from hpctrain.evaluate.roc import Floats
from hpctrain.evaluate.scoring import (
    FEATURE_COLUMNS,
    SplitEvents,
    baseline_weights,
    read_split,
    score_network,
)
from hpctrain.evaluate.significance import scan
from hpctrain.files import write_atomically, write_json
from hpctrain.registry import register
from hpctrain.report.numbers import figure
from hpctrain.run import RunDirectory
from hpctrain.track import Tracker
from hpctrain.training.restore import load_task

NETWORK = "cnn"
"""Name of the run's network among the models of the results."""

NOTES = {
    "test_split": "Every figure is of the test split, which neither training nor any choice has seen.",
    "errors": "Standard deviation and central 68 % interval of Poisson-bootstrap replicas of the test events. "
    "They do not contain the training (another seed) or the model of the simulation.",
    "weights": "Weighted figures count expected events of the generated processes, cross-section times luminosity, "
    "rescaled for the split. What was not generated is in none of them.",
    "at_selection_fpr": "AMS at the cut that passes the same fraction of raw background events as the benchmark "
    "selection; the fraction of expected background events may then be another one.",
    "at_selection_weighted_fpr": "AMS at the cut that passes no larger fraction of expected background events.",
    "tpr_at_selection": "TPR at the FPR of the benchmark selection, and its difference to the selection's TPR.",
    "best": "AMS at the threshold that was best on the validation split, applied to the test split unchanged.",
}


@register("evaluate")
class ClassifierEvaluation:
    """Scores, ROC curves, significances and their errors for the best checkpoint of a run."""

    class Config(ComponentConfig):
        kind: Literal["classifier"] = "classifier"
        fprs: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1)] = (
            1e-1,
            1e-2,
            1e-3,
        )
        """False-positive rates at which the true-positive rate is given."""
        bootstrap: Annotated[int, Field(ge=2)] = 500
        """Bootstrap replicas behind every error."""
        baselines: tuple[Baseline, ...] = ("gbdt",)
        """Shallow models trained for comparison: ``gbdt``, ``mlp``."""
        checkpoint: Literal["best", "last"] = "best"
        """Which checkpoint is evaluated; ``best`` was chosen on the validation split."""
        batch_size: PositiveInt = 256
        """Events scored at once: memory, not results."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def run(self, run: RunDirectory, tracker: Tracker) -> dict[str, Any]:
        """Write ``scores.npz``, ``curves.npz`` and ``results.json``; returns the figures of the summary."""
        task = load_task(run, self.config.checkpoint)
        datasets = {name: ShardDataset.open(run.data / name) for name in ("train", "validation", "test")}
        splits = {name: read_split(dataset) for name, dataset in datasets.items()}
        provenance = datasets["test"].provenance
        refuse_several_signals(provenance.get("processes", []))
        for warning in _left_out(splits["test"], self.config.baselines):
            tracker.warn(warning)
        absent = {name: absent_processes(datasets[name]) for name in ("validation", "test")}
        for name, found in absent.items():
            for process in found:
                tracker.warn(absence_warning(name, process))
        seed = run.experiment.seed
        held_out = {name: datasets[name] for name in ("validation", "test")}
        scores = self._score(task, held_out, splits, seed, tracker)
        _write_arrays(run.evaluation / "scores.npz", _score_arrays(splits, scores))
        results = self._measure(splits["validation"], splits["test"], scores, seed, tracker)
        curves = self._curves(splits["test"], scores["test"], seed)
        _write_arrays(run.evaluation / "curves.npz", curves)
        results |= {
            "checkpoint": self.config.checkpoint,
            "data": provenance.get("label"),
            "luminosity_fb": provenance.get("luminosity_fb"),
            "not_generated": provenance.get("not_generated"),
            "absent_processes": absent,
            "weights_rescaled": splits["test"].rescaled,
            "notes": NOTES,
        }
        write_json(run.evaluation / "results.json", results)
        return {"headline": _headline(results), **{k: v for k, v in results.items() if k != "notes"}}

    def _score(
        self,
        task: Any,
        datasets: dict[str, ShardDataset],
        splits: dict[str, SplitEvents],
        seed: int,
        tracker: Tracker,
    ) -> dict[str, dict[str, Floats]]:
        """Scores by split and model; the network first."""
        total, before = sum(map(len, datasets.values())), 0
        scores: dict[str, dict[str, Floats]] = {}
        for name, dataset in datasets.items():
            start = before

            def seen(done: int, start: int = start) -> None:
                tracker.progress(start + done, total, "events")

            scores[name] = {
                NETWORK: score_network(task, dataset, batch_size=self.config.batch_size, seen=seen)
            }
            before += len(dataset)
        train = splits["train"]
        if train.features is None:
            return scores
        weight = baseline_weights(task, train)
        for kind in self.config.baselines:
            model = train_baseline(kind, train.features, train.label, weight, seed=seed)
            for name in datasets:
                features = splits[name].features
                if features is not None:
                    scores[name][kind] = score_baseline(model, features)
        return scores

    def _measure(
        self,
        validation: SplitEvents,
        test: SplitEvents,
        scores: dict[str, dict[str, Floats]],
        seed: int,
        tracker: Tracker,
    ) -> dict[str, Any]:
        sample = Sample.of(test.label, test.weight)
        draws: dict[str, Any] = {"replicas": self.config.bootstrap, "seed": seed}
        results: dict[str, Any] = {"split": "test", **draws, "events": sample.counts()}
        for name, score in scores["test"].items():
            metrics = classification_metrics(test.label, score, test.weight, fprs=self.config.fprs, **draws)
            chosen = scan(validation.label, scores["validation"][name], validation.weight)
            results[name] = {
                "auc": metrics["auc"],
                "tpr_at_fpr": metrics["tpr_at_fpr"],
                "weighted": metrics["weighted"],
                "ams": {
                    "best": significance_above(
                        sample, score, float(chosen.threshold[chosen.best]), chosen_on="validation", **draws
                    ),
                },
            }
            if test.selected is not None:
                results[name] |= _beside_selection(sample, score, test.selected, draws)
                results[name]["ams"] |= _significances(sample, score, test.selected, draws)
            tracker.log(
                "model", model=name, auc=metrics["auc"]["value"], auc_error=metrics["auc"]["error"],
                auc_weighted=metrics["weighted"]["auc"]["value"], ams=results[name]["ams"]["best"]["value"],
            )  # fmt: skip
        if test.selected is not None:
            results["selection"] = {
                **selection_rates(sample, test.selected),
                "ams": selection_significance(sample, test.selected, **draws),
            }
        results["differences"] = {
            kind: auc_differences(sample, scores["test"], weighted=kind == "weighted", **draws)
            for kind in ("unweighted", "weighted")
        }
        return results

    def _curves(self, test: SplitEvents, scores: dict[str, Floats], seed: int) -> dict[str, Any]:
        """``fpr`` and, for each model and kind, ``MODEL/KIND/{tpr,low,high,n_eff}``."""
        sample = Sample.of(test.label, test.weight)
        arrays: dict[str, Any] = {"fpr": FPR_GRID}
        for name, score in scores.items():
            for kind in ("unweighted", "weighted"):
                found = roc_band(
                    sample, score, weighted=kind == "weighted", replicas=self.config.bootstrap, seed=seed
                )
                arrays |= {f"{name}/{kind}/{part}": values for part, values in found.items()}
        return arrays


def _left_out(events: SplitEvents, baselines: Sequence[str]) -> Iterator[str]:
    """What cannot be compared with these data, in words."""
    if events.features is None and baselines:
        yield f"no {', '.join(baselines)}: the data have no jet variables ({', '.join(FEATURE_COLUMNS)})"
    if events.selected is None:
        yield "no benchmark selection: the data have no field 'selected'"
    if not events.rescaled:
        yield "weighted figures are of the test split alone: the data do not say what fraction of each process it holds"


def _beside_selection(sample: Sample, score: Floats, selected: Any, draws: dict[str, Any]) -> dict[str, Any]:
    """TPR of a score at the selection's FPR, counting raw and expected events."""
    return {
        "tpr_at_selection": {
            kind: efficiency_at_selection(sample, score, selected, weighted=kind == "weighted", **draws)
            for kind in ("unweighted", "weighted")
        }
    }


def _significances(sample: Sample, score: Floats, selected: Any, draws: dict[str, Any]) -> dict[str, Any]:
    """AMS at the selection's raw and weighted FPR, and the ratios to the selection's own."""
    raw, raw_ratio = significance_at_selection(sample, score, selected, **draws)
    weighted, weighted_ratio = significance_at_selection(sample, score, selected, weighted=True, **draws)
    return {
        "at_selection_fpr": raw,
        "ratio_to_selection": raw_ratio,
        "at_selection_weighted_fpr": weighted,
        "weighted_ratio_to_selection": weighted_ratio,
    }


def _score_arrays(splits: dict[str, SplitEvents], scores: dict[str, dict[str, Floats]]) -> dict[str, Any]:
    """``SPLIT/{event_id,label,weight,process,selected,score_MODEL}``."""
    arrays: dict[str, Any] = {}
    for name, by_model in scores.items():
        events = splits[name]
        for column in ("event_id", "label", "weight", "process", "selected"):
            if getattr(events, column) is not None:
                arrays[f"{name}/{column}"] = getattr(events, column)
        arrays |= {f"{name}/score_{model}": score for model, score in by_model.items()}
    return arrays


def _write_arrays(path: Any, arrays: dict[str, Any]) -> None:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    write_atomically(path, stream.getvalue())


def _headline(results: dict[str, Any]) -> str:
    parts = [f"{NETWORK} AUC {figure(results[NETWORK]['auc'])}"]
    parts += [f"{other} {figure(results[other]['auc'])}" for other in ("gbdt", "mlp") if other in results]
    return (
        ", ".join(parts)
        + f" on {results['events']['signal']['raw'] + results['events']['background']['raw']} test events"
    )
