"""ROC curves say where they rest on too little; compression figures draw what they are given."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpctrain.report.performance import models_of, roc_figure, score_figure
from hpctrain.report.shrinking import layers_of, pruning_figure, weight_figure
from hpctrain.report.style import house_style


def curves(n_eff: np.ndarray, model: str = "cnn") -> dict[str, np.ndarray]:
    fpr = np.logspace(-4, 0, 41)
    tpr = fpr**0.1
    found = {"fpr": fpr}
    for kind in ("unweighted", "weighted"):
        parts = {"tpr": tpr, "low": tpr - 0.05, "high": tpr + 0.05, "n_eff": n_eff}
        found |= {f"{model}/{kind}/{name}": values for name, values in parts.items()}
    return found


def rate(value: float) -> dict[str, float]:
    return {"value": value, "error": 0.1 * value, "low": 0.9 * value, "high": 1.2 * value}


def test_the_curve_is_solid_only_where_enough_events_pass() -> None:
    n_eff = 100 * np.logspace(-4, 0, 41)
    with house_style():
        figure = roc_figure(curves(n_eff), None)
    solid = next(line for line in figure.axes[0].lines if line.get_label() == "CNN")
    assert min(solid.get_xdata()) >= 0.1


def test_a_dip_of_n_eff_keeps_everything_left_of_it_dashed() -> None:
    # One heavy event above the threshold makes n_eff fall although more events pass.
    n_eff = np.linspace(5, 100, 41)
    n_eff[30] = 2
    with house_style():
        figure = roc_figure(curves(n_eff), None)
    solid = next(line for line in figure.axes[0].lines if line.get_label() == "CNN")
    assert len(solid.get_xdata()) == 10


def test_the_selection_is_a_point_unless_no_background_passes() -> None:
    n_eff = np.full(41, 50.0)
    selection = {
        "unweighted": {"tpr": rate(0.3), "fpr": rate(1e-3)},
        "weighted": {"tpr": rate(0.3), "fpr": {"value": 0.0, "error": 0.0, "low": 0.0, "high": 0.01}},
    }
    with house_style():
        left, right = roc_figure(curves(n_eff), selection).axes[:2]
    assert len(left.containers) == 1
    assert len(right.containers) == 0
    assert left.get_xlim()[0] < 1e-3


def test_a_model_of_another_name_is_drawn_too() -> None:
    assert models_of(curves(np.ones(41), "my_$net")) == ["my_$net"]
    scores = {"test/label": np.array([0, 1, 1]), "test/score_my_$net": np.array([0.1, 0.9, 1.0])}
    with house_style():
        roc_figure(curves(np.ones(41), "my_$net"), None).draw_without_rendering()
        score_figure(scores, ["my_$net"]).draw_without_rendering()


def test_score_histograms_are_fractions_of_a_class() -> None:
    generator = np.random.default_rng(0)
    scores = {"test/label": np.repeat([0, 1], 500), "test/score_cnn": generator.uniform(size=1000)}
    with house_style():
        axis = score_figure(scores, ["cnn"]).axes[0]
    filled = [patch for patch in axis.patches if patch.get_fill()]
    assert [round(float(np.sum(patch.get_data().values)), 9) for patch in filled] == [1.0, 1.0]


def test_every_layer_has_its_histogram() -> None:
    weights = {f"before/layer{i}": np.linspace(-1, 1, 50) for i in range(5)}
    weights |= {f"after/layer{i}": np.where(np.arange(50) < 20, 0, 0.5) for i in range(5)}
    assert layers_of(weights) == [f"layer{i}" for i in range(5)]
    with house_style():
        figure = weight_figure(weights)
    shown = [axis for axis in figure.axes if axis.axison]
    assert len(shown) == 5
    assert shown[0].get_xlabel() == "weight (60% kept)"


def test_pruning_figure_has_every_round_and_both_ends() -> None:
    rounds = [{"sparsity": s, "auc": {"value": 0.9, "error": 0.01}} for s in (0.3, 0.5)]
    results = {
        "before": {"auc": {"value": 0.91, "error": 0.01}},
        "after": {"auc": {"value": 0.89, "error": None}},
    }
    with house_style():
        axis = pruning_figure(rounds, results, 0.82).axes[0]
        old = pruning_figure(rounds, results).axes[0]
    # The quantised network stands at its own fraction of zeros, with those of rounding.
    assert _places(axis) == {"pruned, float": [30, 50], "before": [0], "pruned and quantised": [82]}
    assert _places(old)["pruned and quantised"] == [50]


def _places(axis: Any) -> dict[str, list[float]]:
    return {
        bar.get_label(): [round(float(x), 6) for x in bar.lines[0].get_xdata()] for bar in axis.containers
    }
