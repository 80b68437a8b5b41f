"""The whole pipeline through the command line, on real (few) events, and what users and machines do to it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpctrain.steps import STEPS

TINY = {
    "name": "tiny",
    "generate": {
        "processes": [{"process": "rpv_gluino", "events": 160}, {"process": "jz6", "events": 900}],
        "events_per_chunk": 60,
        "image_bins": 16,
    },
    "task": {"model": {"filters": [4, 4], "hidden": 8}},
    "training": {"epochs": 2, "global_batch_size": 32, "optimizer": {"learning_rate": 5e-3}},
    "evaluate": {"bootstrap": 100},
    "launch": {"ranks": 2},
}


def hpctrain(*arguments: object, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "hpctrain", *map(str, arguments)],
        capture_output=True, text=True, timeout=400, check=False, **options,
    )  # fmt: skip


def started(*arguments: object) -> subprocess.Popen:
    """An hpctrain that listens to Ctrl-C, as on a terminal: a shell's background jobs are deaf to it."""
    return subprocess.Popen(
        [sys.executable, "-m", "hpctrain", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def refused(result: subprocess.CompletedProcess, words: str) -> None:
    """One line with these words, exit code 2, no traceback."""
    assert result.returncode == 2, result.stdout + result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("hpctrain: error: ")
    assert words in result.stderr


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("experiment") / "tiny.yaml"
    path.write_text(json.dumps({**TINY, "output": str(path.parent / "runs")}))
    return path


@pytest.fixture(scope="module")
def tiny(config) -> Path:
    """A finished run directory."""
    result = hpctrain("run", config)
    assert result.returncode == 0, result.stdout + result.stderr
    return config.parent / "runs" / "tiny"


@pytest.mark.slow
def test_a_run_leaves_its_whole_record(tiny):
    summary = json.loads((tiny / "summary.json").read_text())
    assert {"generate", "train", "evaluate", "compress", "firmware"} <= set(summary)
    assert {"cnn", "gbdt", "selection"} <= set(summary["evaluate"])
    assert summary["firmware"]["passed"] is True
    assert summary["firmware"]["mismatches"] == 0
    assert (tiny / "report.html").stat().st_size > 100_000
    for name in STEPS:
        record = json.loads((tiny / "steps" / f"{name}.json").read_text())
        assert record["wall_s"] > 0
        assert record["peak_memory_bytes"] > 10**7
    environment = json.loads((tiny / "environment.json").read_text())
    assert environment["packages"]["torch"]
    assert "learning_rate: 0.005" in (tiny / "config.yaml").read_text()


@pytest.mark.slow
def test_a_step_done_with_the_same_inputs_is_not_done_again(tiny, config):
    before = {
        path: path.stat().st_mtime_ns for path in tiny.rglob("*.json") if path.name != "environment.json"
    }
    for target in (config, tiny):
        result = hpctrain("run", target)
        assert result.returncode == 0, result.stderr
        assert result.stdout.count("done before, same inputs") == len(STEPS)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_what_changes_only_the_speed_changes_nothing(tiny):
    result = hpctrain("run", tiny, "launch.ranks=1", "generate.workers=1", "site=laptop", "data.stage=site")
    assert result.stdout.count("done before, same inputs") == len(STEPS), result.stdout + result.stderr


@pytest.mark.slow
def test_what_a_user_should_know_is_shown_at_once(tiny, tmp_path):
    """A warning of a rank reaches the terminal, not only ``metrics.jsonl``."""
    subprocess.run(["cp", "-r", tiny, tmp_path / "warned"], check=True)
    result = hpctrain("train", tmp_path / "warned", "site=laptop", "data.stage=site", "--force")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "! the site laptop has no node-local folder" in result.stdout


@pytest.mark.slow
def test_another_configuration_is_refused_and_nothing_is_lost(tiny, config):
    before = (tiny / "config.yaml").read_text()
    refused(hpctrain("run", config, "training.epochs=3"), "training.epochs: 2 → 3")
    refused(hpctrain("evaluate", tiny, "evaluate.bootstrap=50"), "evaluate.bootstrap: 100 → 50")
    refused(
        hpctrain("evaluate", tiny, "training.epochs=3", "--force"), "step 'train' was done with other inputs"
    )
    assert (tiny / "config.yaml").read_text() == before


@pytest.mark.slow
def test_force_does_it_again_and_what_follows_is_no_longer_done(config):
    copy = hpctrain("train", config, "name=forced", "generate.processes.1.events=600")
    refused(copy, "'train' needs the results of 'generate'")
    assert hpctrain("generate", config, "name=forced", "generate.processes.1.events=600").returncode == 0
    run = config.parent / "runs" / "forced"
    assert hpctrain("train", run).returncode == 0
    assert hpctrain("evaluate", run).returncode == 0
    result = hpctrain("train", run, "training.epochs=1", "--force")
    assert result.returncode == 0, result.stderr
    assert not (run / "steps" / "evaluate.json").exists()
    assert not (run / "evaluation").exists(), "results of another network stayed"
    assert set(json.loads((run / "summary.json").read_text())) == {"generate", "train"}
    assert hpctrain("report", run).returncode == 0


DEADLY = """
import os
from typing import Literal
from hpctrain.config import ComponentConfig
from hpctrain.models.cnn import WholeDetectorCNN

class Deadly(WholeDetectorCNN):
    class Config(WholeDetectorCNN.Config):
        kind: Literal["deadly"] = "deadly"

    def __init__(self, config, **shapes):
        if os.environ.get("PMI_RANK") == "1":
            os.kill(os.getpid(), 9)
        super().__init__(config, **shapes)
"""


@pytest.mark.slow
def test_a_rank_that_dies_at_start_is_named(tiny, tmp_path):
    (tmp_path / "deadly.py").write_text(DEADLY)
    info = tmp_path / "deadly-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hpctrain.models]\ndeadly = deadly:Deadly\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run(["cp", "-r", tiny, tmp_path / "copy"], check=True)
    began = time.monotonic()
    result = hpctrain("train", tmp_path / "copy", "task.model.kind=deadly", "--force", env=environment)
    assert time.monotonic() - began < 60
    refused(result, "train: rank 1 was killed by signal 9 (SIGKILL)")
    assert (tmp_path / "copy" / "data" / "train" / "dataset.json").exists()
    assert (
        hpctrain("train", tmp_path / "copy", "task.model.kind=whole_detector_cnn", "--force").returncode == 0
    )


@pytest.mark.slow
def test_no_compiler_is_one_line_and_the_rest_stays(tiny, tmp_path):
    subprocess.run(["cp", "-r", tiny, tmp_path / "copy"], check=True)
    result = hpctrain("firmware", tmp_path / "copy", "--force", env={**os.environ, "PATH": str(tmp_path)})
    refused(result, "g++")
    assert (tmp_path / "copy" / "firmware" / "hls4ml" / "build_prj.tcl").exists()
    assert json.loads((tmp_path / "copy" / "summary.json").read_text())["firmware"]["passed"] is True


def children_of(marker: str) -> list[str]:
    out = subprocess.run(
        ["pgrep", "-f", f"hpctrain worker .*{marker}"], capture_output=True, text=True, check=False
    )
    return out.stdout.split()


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopping_hpctrain_stops_its_ranks(tiny, tmp_path, signum):
    name = f"stopped{signum}"
    subprocess.run(["cp", "-r", tiny, tmp_path / name], check=True)
    process = started("train", tmp_path / name, "training.epochs=4000", "--force")
    while not children_of(name) or not list((tmp_path / name / "checkpoints").glob("*.pt")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=30)
    if signum == signal.SIGINT:
        assert process.returncode == 130, errors
        assert "interrupted" in errors
        assert "Traceback" not in errors
    if signum == signal.SIGTERM:
        assert process.returncode == 75, errors
        assert "(SIGTERM to hpctrain); the same command" in errors
    deadline = time.monotonic() + 20
    while children_of(name):
        assert time.monotonic() < deadline, "ranks outlived hpctrain"
        time.sleep(0.2)


@pytest.mark.slow
def test_two_at_once_in_one_directory(tiny, tmp_path):
    subprocess.run(["cp", "-r", tiny, tmp_path / "busy"], check=True)
    first = started("train", tmp_path / "busy", "training.epochs=4000", "--force")
    while not children_of("busy"):
        time.sleep(0.1)
    try:
        refused(
            hpctrain("evaluate", tmp_path / "busy"), f"is in use by another hpctrain (process {first.pid})"
        )
    finally:
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=30)


@pytest.mark.slow
def test_a_run_directory_may_be_moved(tiny, tmp_path):
    subprocess.run(["cp", "-r", tiny, tmp_path / "elsewhere"], check=True)
    result = hpctrain("run", "elsewhere", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("done before") == len(STEPS)
    for option in (["."], [str(tmp_path / "elsewhere")]):
        assert hpctrain("report", *option, cwd=tmp_path / "elsewhere").stdout.count("done before") == 1
    assert not (tmp_path / "elsewhere" / "elsewhere").exists()


@pytest.mark.slow
def test_what_cannot_start_touches_nothing(tiny, tmp_path):
    subprocess.run(["cp", "-r", tiny, tmp_path / "copy"], check=True)
    before = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "copy").rglob("*")
        if path.is_file() and path.name not in {".ranks", ".lock"}
    }
    # A Python that has no mpiexec beside it, on a PATH that has none either.
    (tmp_path / "bin").mkdir()
    program = f"import sys; sys.executable = {str(tmp_path / 'bin' / 'python')!r}; from hpctrain.cli import main; main(sys.argv[1:])"
    result = subprocess.run(
        [sys.executable, "-c", program, "train", tmp_path / "copy", "--force"],
        capture_output=True, text=True, check=False, env={**os.environ, "PATH": str(tmp_path / "bin")},
    )  # fmt: skip
    refused(result, "needs mpiexec, and there is none")
    assert {p: p.stat().st_mtime_ns for p in before} == before


@pytest.mark.slow
def test_a_step_done_again_that_fails_gives_back_what_there_was(tiny, tmp_path):
    subprocess.run(["cp", "-r", tiny, tmp_path / "copy"], check=True)
    run = tmp_path / "copy"
    shard = run / "data" / "train" / "shard-00000.h5"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    refused(hpctrain("train", run, "--force"), "shard-00000.h5 is not what was written")
    summary = json.loads((run / "summary.json").read_text())
    assert {"train", "evaluate", "firmware"} <= set(summary)
    assert (run / "checkpoints" / "best.pt").exists()
    shard.write_bytes(content)
    result = hpctrain("run", run)
    assert result.stdout.count("done before, same inputs") == len(STEPS), result.stdout + result.stderr
    assert not (run / ".before").exists()


@pytest.mark.slow
def test_a_full_disk_under_the_run_is_one_clear_line(tiny, small_disk):
    run = small_disk / "run"
    subprocess.run(["mount", "-o", "remount,size=24m", small_disk], check=True)
    subprocess.run(["cp", "-r", tiny, run], check=True)
    free = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(b"x" * (free.f_bavail * free.f_frsize - 80_000))
    refused(
        hpctrain("train", run, "training.epochs=40", "training.keep=30", "--force"), "disk full while writing"
    )
    (small_disk / "filler").unlink()
    assert hpctrain("train", run, "training.epochs=40").returncode == 0
    assert json.loads((run / "summary.json").read_text())["train"]["epochs"] == 40


@pytest.mark.slow
def test_a_dead_gloo_rank_is_named_too(tiny, tmp_path):
    run = tmp_path / "gloo"
    subprocess.run(["cp", "-r", tiny, run], check=True)
    (run / "logs" / "train.log").unlink()
    process = started("train", run, "--force", "launch.engine=gloo", "training.epochs=4000")
    while "rank 1 is process" not in _text(run / "logs" / "train.log") or not list(
        run.glob("checkpoints/*.pt")
    ):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    line = next(
        x for x in _text(run / "logs" / "train.log").splitlines() if x.startswith("rank 1 is process")
    )
    os.kill(int(line.split()[-1]), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "train: rank 1 was killed by signal 9 (SIGKILL)" in errors


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


@pytest.mark.slow
def test_results_of_another_version_are_named_as_such(tiny, tmp_path):
    run = tmp_path / "old"
    subprocess.run(["cp", "-r", tiny, run], check=True)
    record = json.loads((run / "steps" / "generate.json").read_text())
    (run / "steps" / "generate.json").write_text(json.dumps({**record, "fingerprint": "of other fields"}))
    refused(hpctrain("train", run), "step 'generate' was done by another version of hpctrain")
    assert hpctrain("report", run, "--force").returncode == 0
