"""The same shards, bit for bit, from every kind of cluster, whatever is killed on the way. Pythia, some tens of events."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from hpctrain.config import Experiment
from hpctrain.run import RunDirectory
from hpctrain.steps import fingerprint
from hpctrain.track import read_metrics

Generate = Callable[..., tuple[RunDirectory, dict[str, Any]]]

SMALL = {
    "processes": [{"process": "rpv_gluino", "events": 20}, {"process": "jz7", "events": 45}],
    "events_per_chunk": 15,
}
SLURM = {
    "kind": "slurm",
    "interface": "lo",
    "memory": "800MB",
    "check_s": 0.5,
}


def _files(folder: Path) -> dict[str, bytes]:
    data = folder / "data"
    return {str(p.relative_to(data)): p.read_bytes() for p in sorted(data.rglob("*")) if p.is_file()}


def _until_parts(folder: Path, number: int) -> int:
    until = time.monotonic() + 60
    while (found := len(list((folder / "data" / "parts").glob("*.json")))) < number:
        assert time.monotonic() < until, "no part was made"
        time.sleep(0.01)
    return found


def _meanwhile(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


@pytest.fixture(scope="module")
def reference(generate: Generate, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What two workers on this machine write (one writes the same: test_pythia_whole_detector)."""
    folder = tmp_path_factory.mktemp("local")
    generate(folder, workers=2, **SMALL)
    return _files(folder)


def _kill_one_of(mark: str) -> None:
    """SIGKILL to a Python process below this one whose command line has such a word."""
    below = [p for p in psutil.Process().children(recursive=True) if p.name().startswith("python")]
    os.kill(next(p.pid for p in below if mark in " ".join(p.cmdline())), signal.SIGKILL)


def test_a_cluster_changes_the_speed_and_not_the_result(tmp_path: Path) -> None:
    marks = set()
    for cluster in ("local", "slurm", {"kind": "mpi", "memory": "1GB"}):
        experiment = Experiment.from_mapping({"name": "test", "generate": {"cluster": cluster}})
        marks.add(fingerprint("generate", experiment, RunDirectory(tmp_path, experiment)))
    assert len(marks) == 1


def test_this_machine_with_a_worker_killed(
    generate: Generate, reference: dict[str, bytes], tmp_path: Path
) -> None:
    def kill() -> None:
        _until_parts(tmp_path, 1)
        _kill_one_of("multiprocessing.spawn")

    thread = _meanwhile(kill)
    _, figures = generate(tmp_path, workers=2, **SMALL)
    thread.join()
    assert _files(tmp_path) == reference
    assert figures["generated"] == 65


def test_slurm_with_hpctrain_killed_and_then_a_job(
    slurm: Any, generate: Generate, reference: dict[str, bytes], tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from hpctrain.config import Experiment
        from hpctrain.ingest.pythia_whole_detector import PythiaWholeDetector
        from hpctrain.run import RunDirectory

        if __name__ == "__main__":
            run = RunDirectory(Path(sys.argv[1]), Experiment(name="test", seed=5))
            run.logs.mkdir(parents=True)
            PythiaWholeDetector.Config.model_validate({SMALL!r} | {{"cluster": {SLURM!r}}}).build().run(
                run, run.tracker("generate")
            )
        """)
    )
    folder = tmp_path / "run"
    process = subprocess.Popen([sys.executable, script, folder])
    try:
        _until_parts(folder, 1)
    finally:
        process.kill()
        process.wait()
    until = time.monotonic() + 20
    while slurm.jobs() and time.monotonic() < until:
        time.sleep(0.05)
    assert slurm.jobs() == {}
    kept = _until_parts(folder, 1)
    assert kept < 4

    def cancel() -> None:
        _until_parts(folder, kept + 1)
        slurm("scancel", *slurm.jobs())

    thread = _meanwhile(cancel)
    run, figures = generate(folder, cluster=SLURM, **SMALL)
    thread.join()
    assert _files(folder) == reference
    assert next(m for m in read_metrics(run.metrics_path) if m["event"] == "resumed")["parts"] == kept
    assert 0 < figures["generated_now"] < 65
    assert figures["workers"] == 1
    assert (
        len(list((run.logs / "workers").glob("*.err"))) == 3
    )  # the killed one's job, the cancelled one, its successor


def test_mpi_with_a_rank_killed(generate: Generate, reference: dict[str, bytes], tmp_path: Path) -> None:
    def kill() -> None:
        _until_parts(tmp_path, 1)
        _kill_one_of("dask_mpi.cli")

    thread = _meanwhile(kill)
    run, figures = generate(tmp_path, workers=2, cluster={"kind": "mpi", "interface": "lo"}, **SMALL)
    thread.join()
    assert _files(tmp_path) == reference
    assert figures["generated_now"] == 65
    assert len(list((run.logs / "workers").iterdir())) == 2
