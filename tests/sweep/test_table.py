import doctest
import io
import json

import pytest
from rich.console import Console

from hpctrain.stopping import Warned
from hpctrain.sweep import array, table
from hpctrain.sweep.driver import left, prepare, search
from hpctrain.sweep.table import repetition_table, repetitions, write_result

from .conftest import RATE


def text(drawn) -> list[str]:
    console = Console(width=200, file=io.StringIO())
    console.print(drawn)
    return [line.split() for line in console.file.getvalue().splitlines()]


@pytest.fixture
def finished(open_sweep, watcher, instant):
    def make(fail=(), **changed):
        instant["fail"] = lambda number: "the loss is nan" if number in fail else ""
        sweep = open_sweep(**changed)
        prepare(sweep, watcher, Warned())
        search(sweep, left(sweep, retry_failed=False), watcher, Warned())
        return sweep, list(sweep.trials())

    return make


@pytest.mark.parametrize("module", [table, array])
def test_examples(module):
    assert doctest.testmod(module).failed == 0


def test_the_table_has_the_best_first_and_counts_the_rest(finished):
    sweep, trials = finished(
        fail={1}, search="grid", parameters={RATE: [0.1, 0.001, 0.01], "training.epochs": [1]}
    )
    head, *rows = text(table.table(sweep, trials))
    assert head == ["trial", "validation", "AUC", "learning", "rate", "epochs", "seconds"]
    assert rows == [["0002", "1", "0.01", "1", "2.0"], ["0000", "0.9", "0.1", "1", "2.0"]]
    assert table.counts(sweep, trials) == "2 of 3 trials done; 1 failed (--retry-failed does them again)"


def test_minimised_the_smallest_is_first(finished):
    objective = {"metric": "train.gain", "direction": "minimise"}
    sweep, trials = finished(search="grid", parameters={RATE: [0.1, 0.01]}, objective=objective)
    assert [row[0] for row in text(table.table(sweep, trials))[1:3]] == ["0001", "0000"]


def test_the_result_on_disk_has_every_trial(finished):
    sweep, trials = finished(fail={0}, search="grid", parameters={RATE: [0.1, 0.01]})
    write_result(sweep, trials)
    result = json.loads((sweep.path / "sweep.json").read_text())
    assert result["best"] == 1
    assert [entry["state"] for entry in result["trials"]] == ["failed", "done"]
    assert result["trials"][0]["error"] == "the loss is nan. Mend it"
    assert (sweep.path / result["trials"][1]["run"] / "config.yaml").exists()
    assert "means_over_seeds" not in result


def test_trials_that_differ_in_the_seed_alone_are_repetitions(finished):
    sweep, trials = finished(search="grid", parameters={"seed": [1, 2, 3], RATE: [0.1, 0.01]})
    # The AUC of the made-up training knows no seed: give it a spread whose mean and error are known.
    shift = {1: -0.01, 2: 0.0, 3: 0.01}
    spread = [
        table.Trial(t.number, t.parameters, "done", t.value + shift[t.parameters["seed"]]) for t in trials
    ]
    best, other = repetitions(sweep, spread)
    assert best["parameters"] == {RATE: 0.01}
    assert (best["value"], best["seeds"]) == (pytest.approx(1), 3)
    assert best["error"] == pytest.approx(0.01 / 3**0.5)
    assert other["value"] == pytest.approx(0.9)
    assert text(repetition_table(sweep, [best, other]))[1] == ["3", "1.0000", "±", "0.0058", "0.01"]
