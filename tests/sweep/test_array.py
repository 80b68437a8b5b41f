"""Arrays of a real Slurm (see tests/conftest.py)."""

import json
import os
import subprocess
import sys
import time

import pytest

from hpctrain.sweep.array import script
from hpctrain.sweep.directory import Sweep


def test_the_script_says_what_it_does(tmp_path):
    text = script("hpctrain-x", tmp_path / "a b", [0, 1, 2, 5], 2, tmp_path, cpus=4, retry_failed=True)
    lines = text.splitlines()
    assert "#SBATCH --array=0-2,5%2" in lines
    assert "#SBATCH --cpus-per-task=4" in lines
    assert f"#SBATCH --output='{tmp_path}/a b/logs/array-%a.log'" in lines
    assert (
        f"{sys.executable} -m hpctrain sweep '{tmp_path}/a b' --retry-failed --trial \"$SLURM_ARRAY_TASK_ID\" &"
        in lines
    )
    assert "--array=0\n" in script("x", tmp_path, [0], None, tmp_path)
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    assert "$$" not in text


def hpctrain(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "hpctrain", "sweep", *map(str, words)],
        capture_output=True, text=True, check=False, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}, **options,
    )  # fmt: skip


def until(condition, within_s=120):
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)


@pytest.fixture
def submitted(resolvable_slurm, tmp_path):
    """Writes the script of a sweep with one of its trials failed, submits it; gives the sweep and the job's number."""

    def submit(file):
        written = hpctrain(file, "--slurm-array", "--jobs", 2, cwd=tmp_path)
        assert written.returncode == 0, written.stdout + written.stderr
        sweep = Sweep.open(file)
        assert f"sbatch {sweep.path / 'array.sbatch'}" in written.stdout
        # The test's Slurm stands on small nodes.
        number = resolvable_slurm(
            "sbatch", "--parsable", "--export=ALL,OMP_NUM_THREADS=1", str(sweep.path / "array.sbatch")
        )
        return sweep, number

    yield submit
    resolvable_slurm.cancel_all()


def logs(sweep):
    return "".join(path.read_text() for path in sorted(sweep.path.glob("logs/array-*.log")))


@pytest.mark.slow
def test_tasks_of_an_array_do_the_trials_and_only_those_that_are_left(
    resolvable_slurm, submitted, sweep_file, tmp_path
):
    # Trial 1 cannot halve its images so often; Optuna is asked by tasks at once.
    file = sweep_file(
        search="grid", parameters={"task.model.filters": [[4], [4, 4, 4, 4, 4], [4, 4]], "seed": [1]}
    )
    sweep, _ = submitted(file)
    until(lambda: not resolvable_slurm.jobs())
    assert [t.state for t in sweep.trials()] == ["done", "failed", "done"], logs(sweep)
    assert "cannot halve an image" in sweep.trial(1).error
    shown = hpctrain(sweep.path, "--show")
    assert shown.returncode == 0, shown.stderr
    assert "2 of 3 trials done; 1 failed" in shown.stdout
    assert "0001  filters [4, 4, 4, 4, 4]" in hpctrain(file, "--dry-run", "--retry-failed").stdout
    again = hpctrain(file, "--slurm-array", "--retry-failed", "--dry-run").stdout
    assert "#SBATCH --array=1\n" in again


@pytest.mark.slow
def test_tasks_ask_optuna_at_the_same_time(resolvable_slurm, submitted, sweep_file):
    sweep, _ = submitted(sweep_file(search={"kind": "optuna", "trials": 4, "startup": 1}))
    until(lambda: not resolvable_slurm.jobs())
    trials = list(sweep.trials())
    assert [t.state for t in trials] == ["done"] * 4, logs(sweep)
    assert len({json.dumps(t.parameters) for t in trials}) == 4


@pytest.mark.slow
def test_a_task_that_is_warned_stops_with_a_checkpoint_and_asks_for_more(
    resolvable_slurm, submitted, sweep_file
):
    file = sweep_file(
        search="grid", parameters={"training.epochs": [200]}, changes={"training.checkpoint_steps": 50}
    )
    sweep, job = submitted(file)
    job_task = f"{job}_0"
    trial = sweep.trial_path(0)
    until(lambda: any((trial / "checkpoints").glob("step-*.pt")))
    resolvable_slurm("scancel", "--batch", "--signal=USR2", job_task)
    until(lambda: "train stopped after" in logs(sweep))
    until(lambda: resolvable_slurm.jobs() == {job_task: "PENDING"})
    assert "Requeue=1 Restarts=1" in resolvable_slurm("scontrol", "show", "job", job_task)
    # Slurm lets it wait for two minutes. What it does then:
    resolvable_slurm("scancel", job_task)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    task = [sys.executable, "-m", "hpctrain", "sweep", str(sweep.path), "--trial", "0"]
    process = subprocess.Popen(task, env=environment, stderr=subprocess.DEVNULL)
    try:
        until(lambda: '"resume"' in (trial / "metrics.jsonl").read_text())
    finally:
        process.terminate()
    assert process.wait(60) == 75
