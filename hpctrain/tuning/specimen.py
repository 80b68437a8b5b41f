"""Random events of a recipe's fields, for measuring speed before there are any: they mean nothing."""

from pathlib import Path
from typing import Any

import numpy as np

from hpctrain.config import Experiment
from hpctrain.data.columns import Columns, RaggedRows, SparseRows, index_dtype, offsets_of
from hpctrain.data.schema import Fields, RaggedField, SparseField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.errors import UserError
from hpctrain.ingest.assemble import finished_fields
from hpctrain.ingest.generation import Generation

OCCUPANCY = 0.05
"""Cells of a sparse image that are not zero; ragged fields have 40 items an event."""
ITEMS = 40


def write_specimen(experiment: Experiment, folder: Path, events: int) -> Path:
    """Splits ``train`` and ``validation`` of random events in the shapes that ``generate`` would give; ``folder``.

    Raises ``UserError`` when its kind does not tell them.
    """
    recipe = experiment.generate.build()
    if not isinstance(recipe, Generation):
        raise UserError(
            f"there are no events to measure with, and generate.kind={experiment.generate.kind} does not tell their shapes",
            hint="Do `hpctrain generate` first",
        )
    settings = recipe.settings(experiment.seed)
    fields = finished_fields(settings.fields())
    for number, (split, count) in enumerate((("train", events), ("validation", min(events, 64)))):
        columns = random_columns(fields, count, np.random.default_rng(number))
        scale = recipe.scale(settings)
        scale.add(columns)
        provenance = {"label": "random numbers, for measuring speed"}
        with ShardWriter(folder / split, fields, provenance=provenance, scale=scale.constants()) as writer:
            writer.append(columns)
    return folder


def random_columns(fields: Fields, events: int, rng: np.random.Generator) -> Columns:
    """Events of any fields: positive numbers around 1, integers 0 and 1 in turn."""
    return {name: _values(field, events, rng) for name, field in fields.items()}


def _values(field: Any, events: int, rng: np.random.Generator) -> Any:
    if isinstance(field, SparseField):
        size = int(np.prod(field.shape))
        cells = max(1, round(OCCUPANCY * size))
        indices = np.stack([np.sort(rng.choice(size, cells, replace=False)) for _ in range(events)]).reshape(
            -1
        )
        numbers = _numbers((events * cells,), field.dtype, rng)
        return SparseRows(offsets_of(np.full(events, cells)), indices.astype(index_dtype(size)), numbers)
    if isinstance(field, RaggedField):
        numbers = _numbers((events * ITEMS, *field.shape), field.dtype, rng)
        return RaggedRows(offsets_of(np.full(events, ITEMS)), numbers)
    return _numbers((events, *field.shape), field.dtype, rng)


def _numbers(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> Any:
    if np.dtype(dtype).kind == "f":
        return rng.exponential(1.0, shape).astype(dtype) + np.asarray(0.01, dtype)
    return (np.arange(np.prod(shape)).reshape(shape) % 2).astype(dtype)
