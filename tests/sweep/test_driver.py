"""Trials that take no time: what is done, done again, gone on with, refused, stopped."""

import json
import threading

import pytest

from hpctrain.errors import LostRank, Stopped, UserError
from hpctrain.files import read_json
from hpctrain.run import RunDirectory
from hpctrain.stopping import Warned
from hpctrain.sweep.directory import Sweep
from hpctrain.sweep.driver import HOPELESS, do_trial, left, prepare, require_prepared, search

from .conftest import PARAMETERS, RATE


@pytest.fixture
def go(watcher, instant):
    """Does what is left of a sweep, as the command does."""

    def run(sweep, *, retry_failed=False, jobs=1, warned=None):
        warned = warned or Warned()
        prepare(sweep, watcher, warned)
        search(sweep, left(sweep, retry_failed=retry_failed), watcher, warned, jobs=jobs)

    return run


def states(sweep) -> list[str]:
    return [trial.state for trial in sweep.trials()]


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_trial_is_an_ordinary_run_on_the_same_events(open_sweep, go, watcher, jobs):
    sweep = open_sweep()
    go(sweep, jobs=jobs)
    assert states(sweep) == ["done"] * 4
    assert sorted(watcher.begun) == [0, 1, 2, 3]
    for trial in sweep.trials():
        run = RunDirectory.open(sweep.trial_path(trial.number))
        assert run.experiment.training.optimizer.learning_rate == trial.parameters[RATE]
        assert run.experiment.generate.path == sweep.path / "data"
        assert run.experiment.output / run.experiment.name == run.path
        assert trial.value == run.summary()["train"]["validation_auc"]


def test_what_is_done_is_not_done_again_and_more_may_be_asked_for(open_sweep, go, instant):
    go(open_sweep())
    first = [trial.parameters for trial in open_sweep().trials()]
    go(open_sweep())
    assert instant["order"] == [0, 1, 2, 3]
    sweep = open_sweep(search={"kind": "random", "trials": 6})
    go(sweep)
    assert instant["order"] == [0, 1, 2, 3, 4, 5]
    assert [trial.parameters for trial in sweep.trials()][:4] == first


def test_a_failure_is_written_down_and_only_done_again_when_asked(open_sweep, go, instant):
    instant["fail"] = lambda number: LostRank("train: rank 1 was killed") if number == 2 else ""
    sweep = open_sweep()
    go(sweep)
    assert states(sweep) == ["done", "done", "failed", "done"]
    assert sweep.trial(2).error == "train: rank 1 was killed"
    instant["fail"] = lambda number: ""
    go(sweep)
    assert states(sweep)[2] == "failed"
    go(sweep, retry_failed=True)
    assert states(sweep) == ["done"] * 4
    assert instant["order"] == [0, 1, 2, 3, 2]


def test_when_all_fail_the_sweep_ends(open_sweep, go, instant):
    instant["fail"] = lambda number: "no mpiexec"
    with pytest.raises(UserError, match=r"3 trials failed and none was done; the last: no mpiexec\. Mend it"):
        go(open_sweep(search={"kind": "random", "trials": 50}))
    assert len(instant["order"]) == HOPELESS


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_stop_leaves_what_is_done_and_the_rest_to_be_gone_on_with(open_sweep, go, instant, jobs):
    instant["fail"] = lambda number: Stopped("train stopped after 7 steps; go on") if number == 2 else ""
    sweep = open_sweep()
    with pytest.raises(Stopped, match=r"of 4 trials done \(train stopped after 7 steps\)"):
        go(sweep, jobs=jobs)
    assert sweep.trial(2).state == "begun"
    instant["fail"] = lambda number: ""
    go(sweep)
    assert states(sweep) == ["done"] * 4


def test_a_signal_between_two_trials(open_sweep, go, instant):
    warned = Warned()
    instant["fail"] = lambda number: warned.signals.append("SIGTERM") or ""
    with pytest.raises(Stopped, match=r"1 of 4 trials done \(SIGTERM to hpctrain\)"):
        go(open_sweep(), warned=warned)
    assert instant["order"] == [0]


def test_a_trial_that_another_process_has_is_passed_over(open_sweep, go, watcher):
    sweep = open_sweep()
    prepare(sweep, watcher, Warned())
    with RunDirectory(sweep.trial_path(1)).lock():
        go(sweep)
    assert watcher.passed == [1]
    assert [trial.number for trial in sweep.trials()] == [0, 2, 3]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"parameters": {**PARAMETERS, RATE: [0.1, 0.2]}}, r"parameters\.training\.optimizer\.learning_rate"),
        ({"search": {"kind": "random", "seed": 2}}, r"search\.seed: 1 → 2"),
        ({"search": {"kind": "optuna"}}, r"search\.kind: \"random\" → \"optuna\""),
        ({"changes": {"training.epochs": 9}}, r"base\.training\.epochs: 1 → 9"),
        ({"changes": {"seed": 9}}, r"base\.seed: 1 → 9"),
    ],
)
def test_a_sweep_that_was_changed_is_refused(open_sweep, go, changed, words):
    go(open_sweep())
    with pytest.raises(UserError, match=f"has trials of another sweep .*{words}.*Give name: NEW"):
        open_sweep(**changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"changes": {"launch.ranks": 2, "training.keep": 5}},
        {"changes": {"evaluate.bootstrap": 10}},  # a step that trials do not do
        {"objective": {"metric": "train.epochs", "direction": "minimise"}},
    ],
)
def test_what_no_trial_follows_from_may_change(open_sweep, go, changed):
    go(open_sweep())
    assert states(open_sweep(**changed)) == ["done"] * 4


def test_what_optuna_learnt_from_may_not_change(open_sweep, go):
    search_ = {"kind": "optuna", "trials": 3}
    go(open_sweep(search=search_))
    with pytest.raises(UserError, match=r"objective\.direction"):
        open_sweep(search=search_, objective={"direction": "minimise"})


def test_optuna_is_told_by_the_trials_and_goes_on(open_sweep, go):
    sweep = open_sweep(search={"kind": "optuna", "trials": 5, "startup": 2})
    go(sweep, jobs=2)
    told = [json.loads(line) for line in (sweep.path / "optuna.journal").read_text().splitlines()]
    assert sum(line.get("state") == 1 for line in told) == 5
    go(open_sweep(search={"kind": "optuna", "trials": 7, "startup": 2}))
    assert states(sweep) == ["done"] * 7
    assert len({json.dumps(trial.parameters) for trial in sweep.trials()}) == 7


def test_a_metric_that_is_not_there_ends_the_sweep_and_loses_nothing(open_sweep, go, instant):
    with pytest.raises(
        UserError, match=r"no number 'train\.validation_auk'\. did you mean 'train\.validation_auc'"
    ):
        go(open_sweep(objective={"metric": "validation_auk"}))
    assert instant["order"] == [0]
    go(open_sweep())
    assert instant["order"] == [0, 1, 2, 3]


def test_a_figure_with_an_error_is_taken_by_its_value(open_sweep, go):
    sweep = open_sweep(objective={"metric": "train.gain"})
    go(sweep)
    assert all(trial.value < 0 for trial in sweep.trials())


def test_swept_events_are_made_by_each_trial(open_sweep, go, toy_shards):
    sweep = open_sweep(parameters={"generate.path": [str(toy_shards)], "training.epochs": [1, 2]})
    go(sweep)
    assert not (sweep.path / "steps" / "generate.json").exists()
    assert sweep.experiment(0, {"generate.path": str(toy_shards)}).generate.path == toy_shards


def test_a_trial_alone_needs_the_events(open_sweep, watcher, instant):
    sweep = open_sweep()
    with pytest.raises(UserError, match=r"are not there yet\. `hpctrain sweep FILE --slurm-array`"):
        require_prepared(sweep, "hpctrain sweep FILE --slurm-array")
    prepare(sweep, watcher, Warned())
    require_prepared(sweep, "")
    assert do_trial(sweep, 3, watcher, Warned()).state == "done"
    assert [trial.number for trial in sweep.trials()] == [3]


def test_the_directory_speaks_for_itself(open_sweep, go, tmp_path):
    sweep = open_sweep()
    go(sweep)
    (tmp_path / "sweep.yaml").unlink()
    again = Sweep.open(sweep.path)
    again.check()
    assert states(again) == ["done"] * 4


def test_a_folder_of_something_else_is_left_alone(open_sweep, go):
    sweep = open_sweep()
    sweep.path.mkdir(parents=True)
    (sweep.path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="exists and is no run directory"):
        go(sweep)
    assert sorted(path.name for path in sweep.path.iterdir()) == [".lock", "thesis.tex"]


def test_a_torn_record_is_named_with_its_cure(open_sweep, go):
    sweep = open_sweep()
    go(sweep)
    (sweep.path / "trials" / "0001.json").write_text('{"number": 1')
    with pytest.raises(UserError, match=r"0001\.json: not readable JSON: .*the trial is then begun anew"):
        go(sweep)
    (sweep.path / "trials" / "0001.json").unlink()
    go(sweep)
    assert read_json(sweep.path / "trials" / "0001.json")["parameters"] == sweep.parameters(1)


def test_an_error_of_ours_in_one_thread_ends_the_others(open_sweep, go, instant):
    waiting = threading.Event()

    def fail(number):
        if number == 0:
            return ZeroDivisionError("a bug")
        waiting.wait(5)
        return ""

    instant["fail"] = fail
    with pytest.raises(ZeroDivisionError):
        go(open_sweep(search={"kind": "random", "trials": 40}), jobs=2)
    assert len(instant["order"]) <= 3
