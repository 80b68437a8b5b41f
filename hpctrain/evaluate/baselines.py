"""What a network is compared with: the benchmark selection, and shallow models on 23 jet variables.

The shallow models are those of Bhimji et al. (arXiv:1711.03573): scikit-learn's gradient-boosted
trees (100 trees of depth 3) and a perceptron with one hidden layer of 100 units.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hpctrain.errors import UserError
from hpctrain.evaluate.bootstrap import Estimate
from hpctrain.evaluate.metrics import Figure, Sample, figure
from hpctrain.evaluate.roc import Floats
from hpctrain.evaluate.significance import effective_events

Baseline = Literal["gbdt", "mlp"]


def efficiency(passed: NDArray[np.bool_], weight: NDArray[Any] | None = None) -> Estimate:
    """Fraction of events (n,) that pass, by weight, with its error and 68 % interval.

    Unweighted: binomial error √(p(1−p)/n) and the Wilson interval, which stays sensible at p = 0
    and 1. Weighted: error √(Σ w²(x − p)²)/Σw, x being 0 or 1, and the Wilson interval of n_eff events.
    """
    weights = np.ones(passed.size) if weight is None else np.asarray(weight, dtype=np.float64)
    total = float(weights.sum())
    if not total > 0:
        raise UserError("an efficiency needs at least one event with a positive weight")
    p = float(weights[passed].sum() / total)
    error = float(np.sqrt((weights**2 * (passed - p) ** 2).sum()) / total)
    n = float(effective_events(weights))
    centre = (p + 0.5 / n) / (1 + 1 / n)
    half = math.sqrt(p * (1 - p) / n + 0.25 / n**2) / (1 + 1 / n)
    return Estimate(p, error, max(0.0, centre - half), min(1.0, centre + half))


def selection_rates(sample: Sample, selected: NDArray[np.bool_]) -> dict[str, dict[str, Figure]]:
    """TPR and FPR of a yes/no selection (n,), ``unweighted`` and ``weighted``: one point of a ROC plane."""
    rates: dict[str, dict[str, Figure]] = {}
    for kind, weight in (("unweighted", np.ones(sample.weight.size)), ("weighted", sample.weight)):
        rates[kind] = {}
        for name, members in (("tpr", sample.label), ("fpr", ~sample.label)):
            class_name = "signal" if name == "tpr" else "background"
            rates[kind][name] = figure(
                efficiency(selected[members], weight[members]),
                n_eff=float(effective_events(weight[members & selected])),
                of=f"selected {class_name} events",
            )
    return rates


def train_baseline(
    kind: Baseline, inputs: NDArray[Any], label: NDArray[np.bool_], weight: Floats | None, *, seed: int
) -> Any:
    """A fitted scikit-learn model; ``inputs`` (n, k), ``label`` (n,), ``weight`` (n,) as the network's loss.

    Weights are divided by their mean: the result must not depend on their unit. The same seed and
    events give the same model, bit for bit.
    """
    if label.all() or not label.any():
        raise UserError("the train split has events of one class only: a classifier needs both")
    sample_weight = None if weight is None else weight / weight.mean()
    return _model(kind, seed).fit(inputs, label, **_weights(kind, sample_weight))


def score_baseline(model: Any, inputs: NDArray[Any]) -> Floats:
    """Signal probability (n,) of a model of :func:`train_baseline`."""
    return np.asarray(model.predict_proba(inputs)[:, 1], dtype=np.float64)


def _model(kind: Baseline, seed: int) -> Any:
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if kind == "gbdt":
        return GradientBoostingClassifier(n_estimators=100, max_depth=3, random_state=seed)
    network = MLPClassifier(hidden_layer_sizes=(100,), early_stopping=True, random_state=seed)
    return make_pipeline(StandardScaler(), network)


def _weights(kind: Baseline, weight: Floats | None) -> dict[str, Floats]:
    if weight is None:
        return {}
    return {"sample_weight" if kind == "gbdt" else "mlpclassifier__sample_weight": weight}
