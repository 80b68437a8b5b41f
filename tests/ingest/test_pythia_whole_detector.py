"""The whole step: Pythia in worker processes, shards on disk."""

import json
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from pydantic import ValidationError

from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError
from hpctrain.ingest import generation
from hpctrain.ingest.clusters import local
from hpctrain.ingest.pythia_whole_detector import PythiaWholeDetector, not_generated
from hpctrain.physics.processes import find_process
from hpctrain.registry import find
from hpctrain.run import RunDirectory
from hpctrain.track import read_metrics

Generate = Callable[..., tuple[RunDirectory, dict[str, Any]]]
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def done(
    generate: Generate, small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunDirectory, dict[str, Any]]:
    """The small generation by two workers."""
    return generate(tmp_path_factory.mktemp("two"), workers=2, **small)


def _files(run: RunDirectory) -> dict[str, bytes]:
    return {str(p.relative_to(run.data)): p.read_bytes() for p in sorted(run.data.rglob("*")) if p.is_file()}


def test_it_is_registered() -> None:
    assert find("ingest", "pythia_whole_detector") is PythiaWholeDetector


def test_shards_are_what_the_other_rooms_expect(done: tuple[RunDirectory, dict[str, Any]]) -> None:
    run, _ = done
    for split in SPLITS:
        dataset = ShardDataset.open(run.data / split)
        rows = dataset.read(np.arange(dataset.events))
        images = rows["image"].dense((3, 64, 64))
        assert images.shape == (dataset.events, 3, 64, 64)
        assert np.all(
            images[:, :2].sum(axis=(1, 2, 3)) > 440
        )  # GeV, where the leading jet alone has 440 of pT
        assert set(rows["label"]) == {0, 1}
        assert np.array_equal(rows["label"], 1 - rows["process"])
        assert rows["jets"].shape == (dataset.events, 5, 4)
        dtypes = {name: str(values.dtype) for name, values in rows.items() if name != "image"}
        assert dtypes == {
            "label": "int64", "weight": "float64", "process": "int64", "jets": "float32", "n_jets": "int64",
            "sum_mass": "float32", "delta_eta": "float32", "selected": "uint8", "event_id": "int64",
        }  # fmt: skip


def test_weights_are_expected_events(done: tuple[RunDirectory, dict[str, Any]]) -> None:
    run, figures = done
    for split in SPLITS:
        dataset = ShardDataset.open(run.data / split)
        label, weight, process = (dataset.column(n) for n in ("label", "weight", "process"))
        fraction = np.array([p["split_fraction"] for p in dataset.provenance["processes"]])
        total = np.bincount(label, weights=weight / fraction[process])
        assert total[1] == pytest.approx(figures["expected_signal"]["value"])
        assert total[0] == pytest.approx(figures["expected_background"]["value"])
    # 13 fb at leading order × 36/fb, about 95% preselected
    assert figures["expected_signal"]["value"] == pytest.approx(445, rel=0.3)


def test_figures(done: tuple[RunDirectory, dict[str, Any]]) -> None:
    run, figures = done
    json.dumps(figures, allow_nan=False)
    assert figures["generated"] == figures["generated_now"] == 200
    assert figures["events_per_second"] > 0
    assert figures["workers"] == 2
    assert 50e6 < figures["worker_peak_memory_bytes"] < 2e9
    assert sum(figures["events"].values()) == figures["preselected"]
    assert {s: ShardDataset.open(run.data / s).events for s in SPLITS} == figures["events"]


def test_provenance_says_what_this_is(done: tuple[RunDirectory, dict[str, Any]]) -> None:
    provenance = ShardDataset.open(done[0].data / "train").provenance
    assert provenance["label"] == "Pythia 8.317, Delphes-ATLAS-like parametrised simulation"
    assert provenance["seed"] == 5
    assert provenance["units"] == {"sum_mass": "GeV"}
    assert provenance["luminosity_fb"] == 36
    assert provenance["generator"]["pythia8mc"] == "8.317.2"
    assert provenance["not_generated"].startswith("QCD with pT-hat below 1800 GeV, above 2500 GeV; ")
    jz7 = provenance["processes"][1]
    assert (jz7["name"], jz7["pthat"], jz7["generated"]) == ("jz7", [1800.0, 2500.0], 160)
    assert jz7["cross_section_mb"] == pytest.approx(1.173e-10, rel=0.2)


def test_only_the_splits_stay(done: tuple[RunDirectory, dict[str, Any]]) -> None:
    assert sorted(p.name for p in done[0].data.iterdir()) == sorted(SPLITS)


def test_progress_and_metrics(done: tuple[RunDirectory, dict[str, Any]]) -> None:
    run, figures = done
    last = json.loads(run.progress_path("generate").read_text())
    kept = figures["preselected"]
    assert (last["done"], last["total"], last["unit"]) == (kept, kept, "events assembled")
    lines = read_metrics(run.metrics_path)
    assert sum(line["event"] == "chunk" for line in lines) == 5
    assert lines[-1]["event"] == "generated"


def test_one_worker_writes_the_same_bytes_as_two(
    done: tuple[RunDirectory, dict[str, Any]], generate: Generate, small: dict[str, Any], tmp_path: Path
) -> None:
    run, figures = generate(tmp_path, workers=1, **small)
    assert figures["workers"] == 1
    assert _files(run) == _files(done[0])


def test_another_seed_gives_other_events(
    done: tuple[RunDirectory, dict[str, Any]], generate: Generate, small: dict[str, Any], tmp_path: Path
) -> None:
    fewer = [{"process": "rpv_gluino", "events": 20}, {"process": "jz7", "events": 80}]
    run, _ = generate(tmp_path, seed=6, **{**small, "processes": fewer})
    mine, theirs = (ShardDataset.open(r.data / "train").column("sum_mass") for r in (run, done[0]))
    assert not np.isin(mine, theirs).any()


def test_a_killed_generation_goes_on_from_its_parts(
    done: tuple[RunDirectory, dict[str, Any]], generate: Generate, small: dict[str, Any], tmp_path: Path
) -> None:
    """SIGKILL once two parts are there: no process stays, the parts are kept, the shards come out the same."""
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
            PythiaWholeDetector.Config.model_validate({small!r} | {{"workers": 2}}).build().run(
                run, run.tracker("generate")
            )
        """)
    )
    folder = tmp_path / "run"
    process = subprocess.Popen([sys.executable, script, folder])
    parts = folder / "data" / "parts"
    deadline = time.monotonic() + 120
    while len(list(parts.glob("*.json"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert family
    psutil.wait_procs(family, timeout=20)
    assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    kept = {p.name: p.stat().st_mtime_ns for p in parts.glob("*.json")}
    assert 2 <= len(kept) < 5
    assert not (folder / "data" / "train").exists()

    run, figures = generate(folder, workers=2, **small)
    resumed = next(line for line in read_metrics(run.metrics_path) if line["event"] == "resumed")
    assert resumed["parts"] == len(kept)
    assert figures["generated_now"] == 200 - resumed["events"]
    assert figures["generated"] == 200
    assert _files(run) == _files(done[0])


def test_parts_of_other_settings_are_made_again(
    generate: Generate, small: dict[str, Any], tmp_path: Path
) -> None:
    tiny = {**small, "processes": [{"process": "rpv_gluino", "events": 20}, {"process": "jz7", "events": 6}]}
    with pytest.raises(UserError, match="no background event"):
        generate(tmp_path, **tiny)
    assert list((tmp_path / "data" / "parts").glob("jz7*.json"))
    more = {**tiny, "processes": [tiny["processes"][0], {"process": "jz7", "events": 80}]}
    run, figures = generate(tmp_path, **more)
    assert figures["generated_now"] == 80  # the signal's part was taken as it was
    assert not (run.data / "parts").exists()


def test_a_slice_without_preselected_events_is_warned_of(
    generate: Generate, small: dict[str, Any], tmp_path: Path
) -> None:
    processes = [
        {"process": "jz3", "events": 20},
        {"process": "jz7", "events": 80},
        {"process": "rpv_gluino", "events": 20},
    ]
    run, figures = generate(tmp_path, **{**small, "processes": processes})
    warnings = [line["text"] for line in read_metrics(run.metrics_path) if line["event"] == "warning"]
    assert len(warnings) == 1
    assert warnings[0].startswith("jz3: none of 20 events passed the preselection")
    jz3 = figures["processes"]["jz3"]
    assert jz3["preselected"] == 0
    # σ·L / generated: 1.64e-4 mb × 36/fb over 20 events is 3e8 events each.
    weight = ShardDataset.open(run.data / "test").provenance["processes"][0]["weight"]
    assert weight == pytest.approx(1.64e-4 * 36e12 / 20, rel=0.1)
    assert jz3["expected_events"]["value"] == 0
    assert jz3["expected_events"]["error"] == weight
    assert jz3["expected_events"]["upper_limit_of_empty"] == pytest.approx(1.148 * weight, rel=1e-3)
    assert figures["expected_background"]["error"] >= weight
    assert figures["empty_processes"] == figures["expected_background"]["empty_processes"] == ["jz3"]


@pytest.mark.parametrize(
    ("slices", "words"),
    [
        (["jz4", "jz5"], "below 400 GeV, above 1300 GeV"),
        (["jz7", "jz3", "jz5"], "below 160 GeV, 400-800 GeV, 1300-1800 GeV, above 2500 GeV"),
    ],
)
def test_every_range_without_a_slice_is_named(slices: list[str], words: str) -> None:
    processes = [find_process(name) for name in ("rpv_gluino", *slices)]
    assert f"QCD with pT-hat {words};" in not_generated(processes)


@pytest.mark.parametrize(("module", "room"), [(generation, "require_physics"), (local, "require_dask")])
def test_check_looks_for_the_packages_and_imports_none(
    module: Any, room: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    component = PythiaWholeDetector.Config().build()
    component.check()

    def missing() -> None:
        raise UserError("not installed")

    monkeypatch.setattr(module, room, missing)
    with pytest.raises(UserError, match="not installed"):
        component.check()
    code = (
        "import sys; from hpctrain.ingest.pythia_whole_detector import PythiaWholeDetector as P; "
        "P.Config().build().check(); print({'pythia8mc', 'fastjet', 'distributed'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_data_folder_that_cannot_be_made_is_a_user_error(
    generate: Generate, small: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        generate(tmp_path, **small)


def test_missing_packages_are_named_before_anything_is_done(
    generate: Generate, small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise UserError("generating events needs pythia8mc", hint="pip install 'hpctrain[physics]'")

    monkeypatch.setattr(generation, "require_physics", missing)
    with pytest.raises(UserError, match="pythia8mc"):
        generate(tmp_path, **small)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"processes": [{"process": "jz55", "events": 5}]}, "did you mean 'jz5'"),
        ({"processes": [{"process": "jz5", "events": 5}]}, "at least one signal and one background"),
        (
            {"processes": [{"process": "jz5", "events": 5, "masses": {"m_gluino": 1}}]},
            "does not take m_gluino",
        ),
        (
            {"processes": [{"process": "rpv_gluino", "events": 5, "masses": {"m_gluino": 500}}]},
            "m_neutralino 850",
        ),
        ({"processes": [{"process": "jz5", "events": 0}]}, "greater than 0"),
        ({"split": {"train": 0.5, "validation": 0.1, "test": 0.1}}, "must add up to 1"),
        ({"luminosity_fb": float("inf")}, "finite number"),
        ({"luminosity_fb": float("nan")}, "finite number"),
        (
            {"processes": [{"process": "rpv_gluino", "events": 5, "masses": {"m_gluino": float("inf")}}]},
            "finite number",
        ),
        ({"workers": 0}, "greater than 0"),
        ({"image_bin": 64}, "image_bins"),
    ],
)
def test_wrong_settings_are_refused_with_the_cure(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PythiaWholeDetector.Config.model_validate(settings)


def test_defaults() -> None:
    config = PythiaWholeDetector.Config()
    assert config.luminosity_fb == 36.0
    assert config.image_bins == 64
    assert config.trimmed
    assert config.workers is None
    assert {entry.process for entry in config.processes} == {"rpv_gluino", "jz4", "jz5", "jz6", "jz7"}
