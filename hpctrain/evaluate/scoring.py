"""Scores of the network and of the shallow baselines for every event of a split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hpctrain.data.loader import Loader
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError
from hpctrain.evaluate.roc import Floats
from hpctrain.evaluate.significance import split_weights
from hpctrain.physics.features import shallow_features

FEATURE_COLUMNS = ("jets", "n_jets", "sum_mass", "delta_eta")


@dataclass(frozen=True)
class SplitEvents:
    """What evaluation needs to know of the events of one split, in stored order; arrays (n, ...)."""

    event_id: NDArray[np.int64]
    label: NDArray[np.bool_]
    weight: Floats
    """Expected events; the sum over the split is that over the whole sample."""
    loss_weight: Floats
    """Weight as stored, σ·L/N: what the task makes its loss weights of."""
    process: NDArray[np.int64]
    selected: NDArray[np.bool_]
    features: NDArray[np.float32]
    """The 23 inputs of the shallow models."""


def read_split(dataset: ShardDataset) -> SplitEvents:
    """The columns of a split. Raises ``UserError`` when one that evaluation needs is missing."""
    names = ["event_id", "label", "weight", "process", "selected", *FEATURE_COLUMNS]
    missing = [name for name in names if name not in dataset.fields]
    if missing:
        raise UserError(
            f"{dataset.directory} has no field '{missing[0]}', which evaluate: classifier needs",
            hint="See docs/ingest.md for the fields; `hpctrain compress`, `firmware` and `report` do without them",
        )
    columns: dict[str, Any] = dataset.read(np.arange(len(dataset)), names)
    try:
        fractions = [float(process["split_fraction"]) for process in dataset.provenance["processes"]]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{dataset.directory}/dataset.json: provenance has no split_fraction of its processes"
        ) from error
    return SplitEvents(
        event_id=columns["event_id"],
        label=columns["label"].astype(bool),
        weight=split_weights(columns["weight"], columns["process"], fractions),
        loss_weight=columns["weight"],
        process=columns["process"],
        selected=columns["selected"].astype(bool),
        features=shallow_features(*(columns[name] for name in FEATURE_COLUMNS)),
    )


def score_network(
    task: Any, dataset: ShardDataset, *, batch_size: int, seen: Callable[[int], None]
) -> Floats:
    """Signal probability (n,) of a classification task for every event, in stored order.

    Made from the difference of the logits in double precision: a float32 softmax rounds confident
    scores to exactly 1 and so ties events that the network does tell apart. ``seen`` hears how many
    events were done after each batch.
    """
    loader = Loader(dataset, names=list(task.fields))
    logits: list[Floats] = []
    done = 0
    task.model.eval()
    with torch.no_grad():
        for batch in loader.sequential(batch_size, whole=True):
            logits.append(task.validate(batch)["score"].double().cpu().numpy())
            done += len(logits[-1])
            seen(done)
    joined = np.concatenate(logits)
    if not np.isfinite(joined).all():
        raise UserError(
            f"the network gives {int((~np.isfinite(joined)).sum())} scores that are not finite on {dataset.directory}",
            hint="train again with a lower learning rate",
        )
    return np.asarray(1 / (1 + np.exp(-joined.clip(-700, 700))))


def baseline_weights(task: Any, events: SplitEvents) -> Floats:
    """Weights (n,) for training a baseline: those of the network's loss, ones when the task has none."""
    if not hasattr(task, "sample_weights"):
        return np.ones(events.label.size)
    return np.asarray(task.sample_weights(events.loss_weight, events.label), dtype=np.float64)
