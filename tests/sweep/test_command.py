"""The command as users give it, on a real (toy) training."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from hpctrain.cli import main
from hpctrain.sweep.directory import Sweep


def call(capsys, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["sweep", *map(str, arguments)])
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def test_trials_are_listed_and_nothing_is_done(capsys, sweep_file, tmp_path):
    code, out, _ = call(capsys, sweep_file(), "--dry-run", "search.trials=3")
    assert code == 0
    assert [line[:19] for line in out.splitlines()] == [f"000{i}  learning rate" for i in range(3)]
    code, out, _ = call(capsys, sweep_file(search="optuna"), "--dry-run", "search.trials=2")
    assert out.splitlines() == ["0000  chosen when it begins", "0001  chosen when it begins"]
    code, out, _ = call(capsys, sweep_file(), "--slurm-array", "--dry-run", "--jobs", 3)
    assert "#SBATCH --array=0-3%3\n" in out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--jobs", "0"], "--jobs 0: nothing would be done"),
        (["--trial", "9"], "--trial 9: the trials are 0 to 3"),
        (["--trial", "1"], "are not there yet"),
        (["--show"], "is not begun"),
        (["--show", "--trial", "1"], "not allowed with"),
        (["search.kind=gird"], "unknown searches kind 'gird'"),
    ],
)
def test_a_mistake_is_one_line(capsys, sweep_file, tmp_path, arguments, words):
    code, _, err = call(capsys, sweep_file(), *arguments)
    assert code == 2
    assert words in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_directory_that_is_no_sweep(capsys, tmp_path):
    code, _, err = call(capsys, tmp_path)
    assert (code, "has no sweep.yaml" in err) == (2, True)


@pytest.mark.slow
def test_from_the_file_to_the_table_and_the_picture(capsys, sweep_file):
    file = sweep_file()
    code, out, err = call(capsys, file, "--jobs", 2, "search.trials=2")
    assert code == 0, out + err
    sweep = Sweep.open(file)
    result = json.loads((sweep.path / "sweep.json").read_text())
    best = result["trials"][result["best"]]
    assert best["value"] == max(trial["value"] for trial in result["trials"])
    assert f"Go on with the best:  hpctrain run {sweep.path / best['run']}" in out
    assert "2 of 2 trials done" in out
    assert (sweep.path / "sweep.png").stat().st_size > 10_000
    # The best trial is an ordinary run: its training is done.
    with pytest.raises(SystemExit) as caught:
        main(["train", str(sweep.path / best["run"])])
    assert caught.value.code == 0
    assert capsys.readouterr().out.count("done before, same inputs") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "code", "words"),
    [
        (signal.SIGTERM, 75, "sweep stopped with 0 of 2 trials done (train stopped after"),
        (signal.SIGINT, 130, "interrupted; the same command"),
    ],
)
def test_stopped_it_goes_on_from_the_checkpoint(sweep_file, signum, code, words):
    file = sweep_file(search="grid", parameters={"training.epochs": [40, 1]})
    command = [sys.executable, "-m", "hpctrain", "sweep", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    trial = Sweep.open(file).trial_path(0)
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    end = time.monotonic() + 60
    while not any((trial / "checkpoints").glob("step-*.pt")):
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signum)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert words in said
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"resume"' in (trial / "metrics.jsonl").read_text()
    assert [t.state for t in Sweep.open(file).trials()] == ["done", "done"]
