import pytest

from hpctrain.cli import main
from hpctrain.errors import UserError
from hpctrain.files import read_json
from hpctrain.training.lr_finder import Trial, find


def test_the_rates_are_where_the_loss_falls_and_where_it_is_least():
    rates = [10.0 ** (k / 10 - 6) for k in range(60)]
    losses = [1.0 if r < 1e-4 else 0.2 if r > 1e-2 else 1 - 0.4 * (k - 20) / 10 for k, r in enumerate(rates)]
    losses[45] = 0.19
    trial = Trial(rates[:46], losses[:46])
    assert 1e-4 < trial.steepest < 1e-2
    assert trial.at_lowest == rates[45]
    assert trial.suggested == min(trial.steepest, rates[35])


def test_a_trial_leaves_the_run_as_it_is(toy_run, capsys):
    run = toy_run("x", events=400)
    before = {path for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as ended:
        main(["lr-find", str(run.path), "--steps", "80"])
    assert not ended.value.code
    after = {path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file()}
    assert after - {p.relative_to(run.path).as_posix() for p in before} - {".lock"} == {
        "lr_finder.json",
        "lr_finder.png",
    }
    found = read_json(run.path / "lr_finder.json")
    assert 1e-4 < found["steepest"] <= found["lowest"] <= 10
    assert found["losses"][0] == pytest.approx(0.69, abs=0.05), "log 2: the network knows nothing yet"
    assert min(found["losses"]) < 0.6
    assert f"learning_rate={found['suggested']:.2g}" in capsys.readouterr().out


def test_a_rate_that_is_too_high_from_the_start_is_said(toy_run):
    with pytest.raises(UserError, match="Give a smaller --low"):
        find(toy_run("x"), low=1e3, high=1e6, steps=40)
    with pytest.raises(UserError, match="0 < low < high"):
        find(toy_run("y"), low=1.0, high=0.1)
