import numpy as np
import pytest

from hpctrain.config import Experiment
from hpctrain.data.schema import RaggedField, check
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError
from hpctrain.tuning.specimen import random_columns, write_specimen


def test_events_of_the_shapes_of_a_recipe(tmp_path):
    experiment = Experiment.from_mapping({"name": "a", "generate": {"image_bins": 16}})
    folder = write_specimen(experiment, tmp_path, 40)
    train, validation = (ShardDataset.open(folder / split) for split in ("train", "validation"))
    assert (train.events, validation.events) == (40, 40)
    assert train.fields["image"].shape == (3, 16, 16)
    assert "random numbers" in train.info.provenance["label"]
    experiment.task.build().prepare(train, 1)  # has all it wants: labels of both classes, scales, weights


def test_ragged_fields_too():
    fields = {"hits": RaggedField(shape=(3,), dtype="float64")}
    assert check(random_columns(fields, 5, np.random.default_rng(1)), fields, "here") == 5


def test_a_recipe_that_tells_no_shapes(tmp_path):
    experiment = Experiment.from_mapping({"name": "a", "generate": {"kind": "shards"}})
    with pytest.raises(UserError, match=r"generate.kind=shards does not tell.*hpctrain generate"):
        write_specimen(experiment, tmp_path, 4)
