import io

import numpy as np
import pytest
from matplotlib.image import imread

from hpctrain.sweep.directory import Trial
from hpctrain.sweep.picture import Scale, draw, reach
from hpctrain.sweep.space import Choices, Range


def test_places_and_ticks_of_an_axis():
    scale = Scale(Range(low=1e-4, high=1e-2, log=True))
    assert scale.place(1e-3) == pytest.approx(0.5)
    assert [text for _, text in scale.ticks(most=5)] == ["0.0001", "0.001", "0.01"]
    assert len(scale.ticks()) == 7
    choices = Scale(Choices(choices=([8, 8], "a", 3)))
    assert [place for place, _ in choices.ticks()] == pytest.approx([1 / 6, 1 / 2, 5 / 6])
    assert choices.place("a") == pytest.approx(0.5)


def test_the_worst_do_not_press_the_others_together():
    worst, best = reach([0.99, 0.985, 0.98, 0.975, 0.5])
    assert 0.95 < worst < 0.975
    assert best > 0.99
    worst, best = reach([0.1, 0.2, 0.3, 0.4])  # minimised
    assert best < 0.1
    assert worst > 0.4


@pytest.mark.parametrize("values", [[0.7], [0.7] * 3, [0.9, 0.8, 0.2, 0.85, 0.86, 0.87, 0.88, 0.89]])
def test_a_picture_of_any_result(open_sweep, values):
    sweep = open_sweep()
    sweep.path.mkdir(parents=True)
    trials = [
        Trial(number, sweep.parameters(number), "done", value, seconds=1.0)
        for number, value in enumerate(values)
    ]
    trials.append(Trial(99, sweep.parameters(99), "failed", error="the loss is $nan$"))
    pixels = imread(io.BytesIO(draw(sweep, trials)))
    orange = np.abs(pixels[..., :3] - np.array([0xD5, 0x5E, 0x00]) / 255).max(axis=-1) < 0.02
    assert orange.any(), "the best trial is not to be seen"
    assert (sweep.path / "sweep.png").exists()


def test_no_picture_of_nothing(open_sweep):
    assert draw(open_sweep(), []) is None
