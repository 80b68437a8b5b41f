import time

import pytest
import torch
from torch import nn

from hpctrain.parallel.communicator import SingleCommunicator
from hpctrain.tasks.base import LossSum, Phase
from hpctrain.training import clock as clocks
from hpctrain.training.clock import PARTS, Clock, StreamClock, clock_of
from hpctrain.training.trainer import Trainer


@pytest.fixture
def times(monkeypatch):
    """Makes the host's clock show these seconds, one after the other."""

    def show(*seconds):
        readings = iter(seconds)
        monkeypatch.setattr(time, "perf_counter", lambda: next(readings))

    return show


def test_every_part_gets_its_laps_and_the_rest_is_other(times):
    times(0.0, 10.0, 11.0, 13.0, 13.5, 17.0)
    clock = Clock()
    clock.start()
    clock.lap("data")
    clock.lap("forward")
    clock.lap("data")
    assert clock.read() == {**dict.fromkeys(PARTS, 0.0), "data": 1.5, "forward": 2.0, "other": 3.5}


def test_an_interval_knows_nothing_of_the_one_before(times):
    times(0.0, 1.0, 5.0, 6.0, 8.0, 8.0)
    clock = Clock()
    clock.start()
    clock.lap("backward")
    before = clock.read()
    clock.start()
    assert before["backward"] == 4.0
    assert sum(clock.read().values()) == 0.0


class Stream:
    """A GPU that lags behind the host: events get their time only when it has come to them."""

    def __init__(self):
        self.now, self.host, self.waits, self.made = 0.0, 0.0, 0, 0

    def event(self):
        self.made += 1
        return Event(self)


class Event:
    def __init__(self, stream):
        self.stream, self.at = stream, None

    def record(self):
        self.at = self.stream.host

    def query(self):
        return self.at <= self.stream.now

    def synchronize(self):
        self.stream.waits += 1
        self.stream.now = max(self.stream.now, self.at)

    def elapsed_time(self, later):
        assert self.query(), "read before the stream has passed it"
        assert later.query(), "read before the stream has passed it"
        return 1e3 * (later.at - self.at)


def test_a_stream_is_never_waited_for_in_a_step():
    stream = Stream()
    clock = StreamClock(stream.event)
    clock.start()
    waits = stream.waits
    for step in range(2000):
        for part in ("data", "forward"):
            stream.host += 0.25 if part == "data" else 0.75
            clock.lap(part)
        stream.now = stream.host - 40.0 if step > 100 else 0.0  # 80 events behind
    assert stream.waits == waits
    seconds = clock.read()
    assert stream.waits == waits + 1
    assert seconds == pytest.approx({**dict.fromkeys(PARTS, 0.0), "data": 500.0, "forward": 1500.0})
    assert stream.made < 1000  # of 4000: they are used again


def test_a_new_interval_of_a_stream_begins_when_the_stream_is_there():
    stream = Stream()
    clock = StreamClock(stream.event)
    clock.start()
    stream.host = 3.0
    clock.lap("forward")
    stream.host = 5.0
    clock.start()
    stream.host = 6.0
    clock.lap("data")
    assert clock.read() == {**dict.fromkeys(PARTS, 0.0), "data": 1.0}


def test_the_clock_is_that_of_the_device(monkeypatch):
    stream = Stream()
    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: stream.event())
    assert type(clock_of(torch.device("cpu"))) is Clock
    assert type(clock_of(torch.device("cuda"))) is StreamClock


class Notes(clocks.Clock):
    def __init__(self):
        super().__init__()
        self.parts = []

    def lap(self, part):
        self.parts.append(part)


def test_the_trainer_tells_the_parts_of_a_step():
    model = nn.Linear(3, 1)
    phase = Phase(
        "fit",
        list(model.parameters()),
        lambda batch: LossSum(model(batch["x"]).sum(), torch.tensor(float(len(batch["x"])))),
    )
    notes = Notes()
    trainer = Trainer(
        [phase],
        [torch.optim.SGD(phase.parameters, lr=0.1)],
        SingleCommunicator(),
        micro_batch_size=2,
        clock=notes,
    )
    trainer.step({"x": torch.ones(4, 3)})
    assert notes.parts == [
        "other", "forward", "backward", "forward", "backward", "optimiser",
    ]  # fmt: skip
