import torch
from torch import nn

from hpctrain.training.average import MovingAverage


class Task:
    def __init__(self, model):
        self.model = model


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def step(network):
    with torch.no_grad():
        for p in network.parameters():
            p += 1
        network[1].running_mean += 1


def test_it_is_the_exponential_average_of_what_it_saw():
    network = model()
    average = MovingAverage(network, 0.75)
    seen = []
    for _ in range(4):
        step(network)
        average.update()
        seen.append(network[0].weight.detach().clone())
    expected = seen[0]
    for value in seen[1:]:
        expected = 0.75 * expected + 0.25 * value
    state = average.state()
    assert torch.allclose(state["0.weight"], expected)
    assert torch.equal(state["1.running_mean"], network[1].running_mean), "buffers are the newest"
    assert set(state) == {*network.state_dict(), "n_averaged"}


def test_it_stands_in_for_the_model_and_leaves_it_as_it_was():
    network = model()
    average, task = MovingAverage(network, 0.5), Task(network)
    average.update()
    before = network[0].weight.detach().clone()
    step(network)
    average.update()
    with average.in_place(task):
        assert torch.allclose(task.model[0].weight, before + 0.5)
    assert task.model is network
    assert torch.equal(network[0].weight, before + 1)


def test_it_goes_on_from_its_state():
    network = model()
    average = MovingAverage(network, 0.9)
    for _ in range(3):
        step(network)
        average.update()
    again = MovingAverage(model(), 0.9)
    again.load({k: v.clone() for k, v in average.state().items()})
    step(network)
    average.update()
    again.model.load_state_dict(network.state_dict())
    again.update()
    for name, value in average.state().items():
        assert torch.equal(value, again.state()[name]), name
