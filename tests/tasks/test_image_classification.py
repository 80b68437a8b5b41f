import numpy as np
import pytest
import torch

from hpctrain.data.loader import Loader
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError
from hpctrain.tasks.image_classification import ImageClassification


@pytest.fixture
def dataset(tmp_path, write_toy):
    return ShardDataset.open(write_toy(tmp_path / "d", 120))


def prepared(dataset, **config):
    model = {"kind": "whole_detector_cnn", "filters": [4], "hidden": 4}
    task = ImageClassification.Config(model=model, **config).build()
    task.prepare(dataset, seed=5)
    return task


@pytest.mark.parametrize("mode", ["none", "cross_section", "log"])
def test_loss_weights_have_mean_one_and_equal_classes(dataset, mode):
    labels, weights = dataset.column("label"), dataset.column("weight")
    w = prepared(dataset, loss_weights=mode).sample_weights(weights, labels)
    assert w.mean() == pytest.approx(1)
    assert w[labels == 0].sum() == pytest.approx(w[labels == 1].sum())
    background = labels == 0
    raw = {"none": np.ones(120), "cross_section": weights, "log": np.log1p(weights / weights.min())}[mode]
    ratio = w[background] / raw[background]
    assert ratio == pytest.approx(np.full(background.sum(), ratio[0]))


@pytest.mark.parametrize(("transform", "expected"), [("linear", 0.5), ("log", np.log(5) / np.log(9))])
def test_inputs_are_scaled_by_the_training_set(dataset, transform, expected):
    task = prepared(dataset, transform=transform)
    image = torch.full((1, 3, 16, 16), 4.0)
    assert task.inputs({"image": image}).unique().tolist() == pytest.approx([expected])
    assert task.inputs({"image": torch.zeros(1, 3, 16, 16)}).abs().max() == 0


def test_the_loss_is_a_sum_so_shares_add_up(dataset):
    task = prepared(dataset, loss_weights="log")
    loader = Loader(dataset, names=task.fields)
    rows = np.arange(30)
    with torch.no_grad():
        whole = task.loss(loader.load(rows))
        parts = [task.loss(loader.load(part)) for part in (rows[:11], rows[11:12], rows[12:])]
    assert float(whole.total) == pytest.approx(float(sum(p.total for p in parts)), rel=1e-6)
    assert float(whole.weight) == pytest.approx(float(sum(p.weight for p in parts)), rel=1e-6)


def test_the_same_seed_is_the_same_network(dataset):
    a, b = (prepared(dataset).model.state_dict() for _ in range(2))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_scores_and_probabilities_order_events_alike(dataset):
    task = prepared(dataset)
    batch = Loader(dataset, names=task.fields).load(np.arange(50))
    with torch.no_grad():
        probability, score = task.predict(batch), task.validate(batch)["score"]
    assert torch.allclose(torch.sigmoid(score), probability, atol=1e-6)


def test_data_that_do_not_fit_are_named(dataset, tmp_path, write_toy):
    task = ImageClassification.Config().build()
    del dataset.info.fields["weight"]
    with pytest.raises(UserError, match="has no field 'weight'"):
        task.prepare(dataset, seed=0)
