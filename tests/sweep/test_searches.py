import json
import math
from itertools import product

import pytest

from hpctrain.errors import UserError
from hpctrain.sweep.searches.base import Past, Told
from hpctrain.sweep.searches.grid import GridSearch
from hpctrain.sweep.searches.optuna_search import JOURNAL, OptunaSearch
from hpctrain.sweep.searches.random_draws import RandomSearch
from hpctrain.sweep.space import Choices, Range

SPACE = {
    "rate": Range(low=1e-4, high=1, log=True),
    "width": Range(low=4, high=64, int=True),
    "filters": Choices(choices=([4, 4], [8, 8])),
    "kind": Choices(choices=("adam", None, 3)),
}


@pytest.fixture
def past(tmp_path):
    return lambda trials=(): Past(trials, "maximise", tmp_path)


def score(parameters) -> float:
    return 1 - abs(math.log10(parameters["rate"]) + 2)


def test_a_grid_is_every_combination_once_the_last_key_fastest(past):
    space = {"a": Choices(choices=(1, 2)), "b": Choices(choices=("x", "y", "z")), "c": Choices(choices=(0,))}
    search = GridSearch.Config().build()
    found = [tuple(search.parameters(space, i, past()).values()) for i in range(search.count(space))]
    assert found == list(product((1, 2), "xyz", (0,)))


def test_a_grid_of_a_range_and_one_without_end_are_refused():
    search = GridSearch.Config().build()
    with pytest.raises(UserError, match=r"parameters\.rate: a grid needs values"):
        search.check(SPACE)
    with pytest.raises(UserError, match="1,000,000 trials"):
        search.check({name: Choices(choices=tuple(range(100))) for name in "abc"})


def test_a_random_trial_follows_from_seed_number_and_key_alone(past):
    first, more = (RandomSearch.Config(trials=n).build() for n in (5, 50))
    drawn = [more.parameters(SPACE, number, past()) for number in range(50)]
    assert [first.parameters(SPACE, number, past()) for number in range(5)] == drawn[:5]
    fewer = {key: SPACE[key] for key in ("kind", "rate")}
    assert more.parameters(fewer, 7, past()) == {key: drawn[7][key] for key in fewer}
    assert RandomSearch.Config(seed=2).build().parameters(SPACE, 0, past()) != drawn[0]
    assert len({json.dumps(parameters) for parameters in drawn}) == 50
    assert {parameters["kind"] for parameters in drawn} == {"adam", None, 3}


def searched(search, past, number, trials=None):
    trials = [] if trials is None else trials
    for i in range(len(trials), number):
        parameters = search.parameters(SPACE, i, past(trials))
        trials.append(Told(i, parameters, score(parameters)))
        search.learn(SPACE, past(trials))
    return trials


def test_optuna_proposes_the_same_for_the_same_seed_and_does_better_than_it_began(tmp_path, past):
    search = OptunaSearch.Config(seed=3, startup=8).build()
    trials = searched(search, past, 24)
    (tmp_path / JOURNAL).unlink()
    assert searched(search, past, 24) == trials
    values = [told.value for told in trials]
    assert sum(values[8:]) / 16 > sum(values[:8]) / 8
    assert {type(told.parameters["width"]) for told in trials} == {int}
    assert all(told.parameters["filters"] in ([4, 4], [8, 8]) for told in trials)


def test_tasks_that_know_nothing_of_one_another_try_different_things(past):
    drawn = [OptunaSearch.Config().build().parameters(SPACE, number, past()) for number in range(6)]
    assert len({told["rate"] for told in drawn}) == 6


def states(folder):
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    study = optuna.load_study(
        study_name=folder.name, storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    )
    return sorted((t.user_attrs["hpctrain_trial"], t.state.name, t.value) for t in study.trials)


def test_a_journal_that_was_lost_is_written_again_from_the_trials(tmp_path, past):
    search = OptunaSearch.Config().build()
    trials = searched(search, past, 4)
    trials[2] = Told(2, trials[2].parameters, None)  # failed
    before = [(t.number, "FAIL" if t.value is None else "COMPLETE", t.value) for t in trials]
    (tmp_path / JOURNAL).unlink()
    search.learn(SPACE, past(trials))
    assert states(tmp_path) == before
    search.learn(SPACE, past(trials))
    assert states(tmp_path) == before, "told twice"


def test_a_trial_that_failed_and_then_did_not_is_told_again(tmp_path, past):
    search = OptunaSearch.Config().build()
    parameters = search.parameters(SPACE, 0, past())
    search.learn(SPACE, past([Told(0, parameters, None)]))
    search.learn(SPACE, past([Told(0, parameters, 0.5)]))
    assert states(tmp_path) == [(0, "COMPLETE", 0.5), (0, "FAIL", None)]


@pytest.mark.parametrize("damage", [b"no JSON\n{}\n", b'{"op_code": 99, "worker_id": "x"}\n', b"[]\n"])
def test_a_damaged_journal_is_named_with_its_cure(tmp_path, past, damage):
    search = OptunaSearch.Config().build()
    searched(search, past, 2)
    path = tmp_path / JOURNAL
    path.write_bytes(damage + path.read_bytes())
    with pytest.raises(UserError, match=r"optuna\.journal is damaged: .*Delete it"):
        search.parameters(SPACE, 2, past())


def test_a_journal_torn_by_a_full_disk_is_not_written_on(tmp_path, past):
    search = OptunaSearch.Config().build()
    trials = searched(search, past, 2)
    path = tmp_path / JOURNAL
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="is damaged"):
        searched(search, past, 4, trials)
    path.unlink()
    assert len(searched(search, past, 4, trials)) == 4


def test_without_optuna_the_cure_is_said(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'hpctrain\[sweep\]'"):
        OptunaSearch.Config().build().check(SPACE)
