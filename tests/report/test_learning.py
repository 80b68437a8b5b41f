"""Metrics of a training that was stopped, resumed and done again."""

from __future__ import annotations

from hpctrain.report.learning import history, loss_curves
from hpctrain.report.style import house_style


def step(number: int, epoch: int, loss: float = 0.5) -> dict:
    return {
        "step": "train",
        "event": "step",
        "global_step": number,
        "epoch": epoch,
        "samples_seen": 64 * number,
        "loss": loss,
    }


def epoch(number: int, auc: float | None, loss: float = 0.4) -> dict:
    line = {"step": "train", "event": "epoch", "epoch": number, "train_loss": 0.5, "validation_loss": loss}
    return line if auc is None else {**line, "validation_auc": auc}


def test_only_training_counts() -> None:
    other = {**step(1, 0), "step": "compress"}
    assert not history([other, {"step": "train", "event": "resume", "epoch": 0}])


def test_lines_after_a_resume_replace_those_before() -> None:
    lines = [
        step(1, 0),
        step(2, 0),
        epoch(0, 0.8),
        step(3, 1),
        step(4, 1),
        {"step": "train", "event": "resume"},
    ]
    lines += [step(3, 1, 0.3), step(4, 1, 0.2), epoch(1, 0.9)]
    found = history(lines)
    assert [(s["global_step"], s["loss"]) for s in found.steps] == [(1, 0.5), (2, 0.5), (3, 0.3), (4, 0.2)]
    assert [e["epoch"] for e in found.epochs] == [0, 1]


def test_a_training_done_anew_forgets_the_old_one() -> None:
    old = [step(1, 0), epoch(0, 0.99), step(2, 1), epoch(1, 0.99)]
    found = history([*old, step(1, 0, 0.7), epoch(0, 0.6)])
    assert len(found.steps) == len(found.epochs) == 1
    assert found.best is not None
    assert found.best["validation_auc"] == 0.6


def test_best_epoch_is_the_one_that_training_recorded() -> None:
    lines = [epoch(0, 0.8, 0.1), epoch(1, 0.9, 0.9), epoch(2, 0.85, 0.5)]
    best = history(lines, monitor="auc", best_epoch=2).best
    assert best is not None
    assert best["epoch"] == 2


def test_best_epoch_so_far_is_chosen_as_training_chooses_it() -> None:
    lines = [epoch(0, 0.8, 0.1), epoch(1, 0.9, 0.9)]
    for monitor, expected in (("auc", 1), ("loss", 0)):
        best = history(lines, monitor=monitor).best
        assert best is not None
        assert best["epoch"] == expected
    without_auc = history([epoch(0, None, 0.9), epoch(1, None, 0.1)]).best
    assert without_auc is not None
    assert without_auc["epoch"] == 1
    assert history([]).best is None


def test_a_null_loss_and_an_epoch_not_over_can_be_drawn() -> None:
    with house_style():
        figure = loss_curves(history([step(1, 0), {**step(2, 0), "loss": None}]), 640)
    assert len(figure.axes) == 1
    assert figure.axes[0].lines
