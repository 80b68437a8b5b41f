"""What compression cost: AUC before and after on the same held-out events, with paired errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray
from torch import nn

from hpctrain.compress.quantise import QuantisedLayer
from hpctrain.compress.types import LayerTypes, layer_types
from hpctrain.evaluate.bootstrap import Figures, bootstrap
from hpctrain.evaluate.metrics import Sample, figure
from hpctrain.evaluate.roc import Floats, Ranking, area

Scores = Mapping[str, Mapping[str, NDArray[Any]]]


def compression_figures(
    scores: Scores, iterations: Sequence[Mapping[str, Any]], *, epochs: int, replicas: int, seed: int
) -> dict[str, dict[str, Any]]:
    """``{"results": …, "summary": …}`` from the scores of every stage on the same events.

    ``scores`` is stage → {"label", "score"} with the stages "before", "iteration 1" …, "after". Every event
    counts once. ``epochs`` is how long the network was trained on between the first stage and the last: what a gain
    has to be read against. All stages are resampled together, so differences are paired.
    """
    sample = Sample.of(scores["before"]["label"])
    rankings = {stage: Ranking.of(part["label"], part["score"]) for stage, part in scores.items()}
    last = f"iteration {len(iterations)}" if iterations else "before"

    def statistic(multiplicity: Floats) -> Figures:
        areas = {name: area(*ranking.rates(multiplicity)) for name, ranking in rankings.items()}
        return {
            **areas,
            "pruned - before": areas[last] - areas["before"],
            "after - before": areas["after"] - areas["before"],
            "after - pruned": areas["after"] - areas[last],
        }

    smaller = float(min(sample.label.sum(), (~sample.label).sum()))
    found = {
        name: figure(value, n_eff=smaller, of="events of the smaller class")
        for name, value in bootstrap(statistic, sample.label.size, replicas=replicas, seed=seed).items()
    }
    rounds = [{**entry, "auc": found[f"iteration {i}"]} for i, entry in enumerate(iterations, 1)]
    change = found["after - before"]
    headline = (
        f"AUC {found['before']['value']:.4f} → {found['after']['value']:.4f} "
        f"({change['value']:+.4f} ± {change['error'] or float('nan'):.4f}) {_after(epochs)}"
    )
    return {
        "results": {
            "split": "test",
            "events": int(sample.label.size),
            "before": {"auc": found["before"]},
            "iterations": rounds,
            "pruned": {"auc": found[last]},
            "after": {"auc": found["after"]},
            "differences": {
                name: found[name] for name in ("pruned - before", "after - pruned", "after - before")
            },
        },
        "summary": {
            "headline": headline,
            "epochs": epochs,
            "auc_before": found["before"],
            "auc_pruned": found[last],
            "auc_quantised": found["after"],
            "auc_difference": change,
        },
    }


def _after(epochs: int) -> str:
    return f"after {epochs} more epoch{'' if epochs == 1 else 's'}" if epochs else "without further training"


def layer_records(network: nn.Sequential, overflow: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """One record per layer with weights of a quantised network, for results.json and the report.

    ``activation_type`` is the type of the values that reach the next layer; ``saturated_weights`` and
    ``saturated_biases`` count those beyond the range of their type. ``activation_saturation`` is the fraction of
    the non-zero values that saturate, which ``compress.saturated`` limits in calibration; the first record has
    ``input_saturation`` too.
    """
    types = layer_types(network)
    records = []
    for position, entry in enumerate(types):
        layer = entry.layer
        if not isinstance(layer, QuantisedLayer):
            continue
        until_next: list[LayerTypes] = []
        for following in types[position:]:
            if until_next and isinstance(following.layer, QuantisedLayer):
                break
            until_next.append(following)
        saturated_weights, saturated_biases = layer.saturated()
        counts = next((overflow[item.name] for item in until_next if item.name in overflow), None)
        records.append(
            {
                "name": entry.name,
                "weights": layer.weight.numel(),
                "nonzero": int(layer.effective()[0].count_nonzero()),
                "weight_type": str(entry.weight),
                "bias_type": str(entry.bias),
                "accumulator_type": str(entry.accumulator),
                "activation_type": str(until_next[-1].result),
                "saturated_weights": saturated_weights,
                "saturated_biases": saturated_biases,
                "activation_saturation": counts["saturated"] / max(counts["seen"], 1) if counts else 0.0,
            }
        )
    counts = overflow["input"]
    records[0]["input_type"] = str(types[0].result)
    records[0]["input_saturation"] = counts["saturated"] / max(counts["seen"], 1)
    return records
