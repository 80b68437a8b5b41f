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
    selected: NDArray[np.bool_] | None
    """Whether the benchmark selection takes it; None when the data do not say."""
    features: NDArray[np.float32] | None
    """The 23 inputs of the shallow models; None when the data have no jet variables."""
    rescaled: bool = True
    """Whether ``weight`` is that of the whole sample; False when the data do not say what fraction a split is."""


def read_split(dataset: ShardDataset) -> SplitEvents:
    """The columns of a split; what an analysis of its own data may not have is left out.

    Raises ``UserError`` when there is no event, label or weight is missing or no number, or a label is not 0 or 1.
    """
    for name in ("label", "weight"):
        if name not in dataset.fields:
            raise UserError(
                f"{dataset.directory} has no field '{name}', which evaluate: classifier needs",
                hint="docs/data.md shows how to write one",
            )
        field = dataset.fields[name]
        if field.kind != "dense" or field.shape:
            raise UserError(
                f"{dataset.directory}: field '{name}' is {field.kind} of the shape {list(field.shape)}, "
                "which evaluate: classifier needs as one number an event"
            )
    if not dataset.events:
        raise UserError(
            f"{dataset.directory} holds no events", hint="Generate more events, or split otherwise"
        )
    names = ["event_id", "label", "weight", "process", "selected", *FEATURE_COLUMNS]
    columns: dict[str, Any] = dataset.read_range(
        0, dataset.events, [name for name in names if name in dataset.fields]
    )
    strange = ~np.isin(columns["label"], (0, 1))
    if strange.any():
        raise UserError(
            f"{dataset.directory}: field 'label' must be 0 or 1, found {columns['label'][strange][0]}"
        )
    process = columns.get("process", np.zeros(dataset.events, dtype=np.int64))
    fractions = split_fractions(dataset)
    weight = columns["weight"].astype(np.float64)
    return SplitEvents(
        event_id=columns.get("event_id", np.arange(dataset.events)),
        label=columns["label"].astype(bool),
        weight=weight if fractions is None else split_weights(weight, process, fractions),
        loss_weight=columns["weight"],
        process=process,
        selected=columns["selected"].astype(bool) if "selected" in columns else None,
        features=shallow_features(*(columns[name] for name in FEATURE_COLUMNS))
        if all(name in columns for name in FEATURE_COLUMNS)
        else None,
        rescaled=fractions is not None,
    )


def split_fractions(dataset: ShardDataset) -> list[float] | None:
    """Fraction of each process' events that is in this split; None when provenance does not say."""
    try:
        fractions = [float(process["split_fraction"]) for process in dataset.provenance["processes"]]
    except (KeyError, TypeError, ValueError):
        return None
    return fractions if "process" in dataset.fields and all(f >= 0 for f in fractions) else None


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
