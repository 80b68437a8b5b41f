import random

import numpy as np
import pytest
import torch

from hpctrain.training.position import Drawn, Position, seed_generators


@pytest.mark.parametrize(("seen", "batch"), [(0, 0), (32, 1), (192, 6), (203, 7)])
def test_the_next_batch_follows_also_after_a_small_last_one(seen, batch):
    """203 events in batches of 32: the seventh has 11; a stop in validation comes after it."""
    assert Position(samples_seen=seen).next_batch(32) == batch


def test_the_end_of_an_epoch():
    position = Position(epoch=3, samples_seen=203, loss_sum=1.5, weight_sum=2.0)
    position.end_epoch({"auc": 0.7})
    assert position == Position(epoch=4, history=[{"auc": 0.7}])


def draws(*place):
    seed_generators(*place)
    return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()  # noqa: NPY002


def test_what_is_drawn_follows_from_the_place_for_every_generator():
    first = draws(1, 7, 0)
    draws(1, 8, 0)
    assert draws(1, 7, 0) == first
    others = [
        draws(2, 7, 0),
        draws(1, 8, 0),
        draws(1, 7, 1),
        draws(1, 7, 0, Drawn.VALIDATION),
        draws(1, 7, 0, Drawn.EPOCH),
    ]
    for other in others:
        assert all(a != b for a, b in zip(first, other, strict=True))


def test_it_is_torch_manual_seed():
    """Golden values of networks that draw in a step stay what they were."""
    seed_generators(1, 7, 0)
    got = torch.rand(3)
    drawn = int(np.random.SeedSequence([1, 7, 0]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    torch.manual_seed(drawn)
    assert torch.equal(got, torch.rand(3))
