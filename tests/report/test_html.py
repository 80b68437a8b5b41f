"""The page: whole, self-contained, honest about what is missing, and safe whatever a run is called."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpctrain.data.schema import DenseField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.errors import UserError
from hpctrain.files import write_json
from hpctrain.run import RunDirectory

Report = Callable[..., tuple[str, dict[str, Any]]]
Copy = Callable[[RunDirectory], RunDirectory]
SECTIONS = {"data", "events", "training", "performance", "compression", "firmware", "cost", "provenance"}
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags close in order, and collects what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.pictures: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        self._look(tag, dict(attrs))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._look(tag, dict(attrs))

    def _look(self, tag: str, attrs: dict[str, str | None]) -> None:
        if attrs.get("id"):
            self.ids.append(str(attrs["id"]))
        self.addresses += [str(attrs[key]) for key in ("src", "href", "xlink:href") if attrs.get(key)]
        if tag == "img" or attrs.get("role") == "img":
            self.pictures.append(str(attrs.get("alt") or attrs.get("aria-label") or ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def parse(text: str) -> Page:
    page = Page(text)
    assert page.open == []
    return page


@pytest.fixture(scope="module")
def whole(complete: RunDirectory) -> tuple[RunDirectory, str, dict[str, Any]]:
    from hpctrain.report.html import HtmlReport

    with complete.tracker("report") as tracker:
        summary = HtmlReport(HtmlReport.Config()).run(complete, tracker)
    return complete, complete.report_path.read_text(encoding="utf-8"), summary


def test_every_section_is_there(whole: tuple[RunDirectory, str, dict[str, Any]]) -> None:
    _, text, summary = whole
    page = parse(text)
    assert set(page.ids) >= SECTIONS | {"headline"}
    assert summary["missing_sections"] == []
    assert "Not there yet" not in text


def test_it_needs_nothing_from_outside(whole: tuple[RunDirectory, str, dict[str, Any]]) -> None:
    _, text, summary = whole
    page = parse(text)
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert "script" not in page.tags
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert summary["bytes"] == len(text.encode()) < 6e6
    assert summary["path"] == "report.html"


def test_every_picture_has_words_and_no_id_stands_twice(
    whole: tuple[RunDirectory, str, dict[str, Any]],
) -> None:
    _, text, summary = whole
    page = parse(text)
    assert len(page.pictures) == len(summary["figures"]) == 9
    assert all(len(alt) > 20 for alt in page.pictures)
    assert len(page.ids) == len(set(page.ids))
    for target in re.findall(r'(?:href="|url\()#([^")]+)', text):
        assert target in page.ids


def test_figures_are_also_files_and_not_blank(whole: tuple[RunDirectory, str, dict[str, Any]]) -> None:
    from matplotlib.image import imread

    run, _, summary = whole
    for name in summary["figures"]:
        pixels = imread(run.path / name)[..., :3]
        assert pixels.shape[0] > 400
        assert (pixels.min(axis=2) < 0.7).mean() > 0.005, name


def test_it_shows_the_figures_of_the_run(whole: tuple[RunDirectory, str, dict[str, Any]]) -> None:
    from hpctrain.report.numbers import figure

    run, text, _ = whole
    results = json.loads((run.evaluation / "results.json").read_text())
    for entry in (
        results["cnn"]["auc"],
        results["gbdt"]["weighted"]["auc"],
        results["differences"]["unweighted"]["cnn-gbdt"],
        results["selection"]["unweighted"]["tpr"],
        json.loads((run.compressed / "results.json").read_text())["after"]["auc"],
    ):
        assert figure(entry) in text
    assert "synthetic test data, no physics" in text
    assert "rests on" in text  # figures of few events carry their warning
    assert "bit-exact" in text
    assert "estimates" in text
    assert "name: synthetic" in text  # the configuration
    assert "numpy" in text  # the versions


def test_a_run_that_was_only_trained_has_a_page(
    trained: RunDirectory, copy_of: Copy, write_report: Report
) -> None:
    text, summary = write_report(copy_of(trained))
    parse(text)
    assert summary["missing_sections"] == ["performance", "compression", "firmware"]
    for step in ("evaluate", "compress", "firmware"):
        assert f"hpctrain {step}" in text
    assert "validation AUC" in text


def test_a_run_that_did_nothing_has_a_page(
    trained: RunDirectory, tmp_path: Path, write_report: Report
) -> None:
    run = RunDirectory(tmp_path / "empty")
    run.path.mkdir()
    (run.path / "config.yaml").write_text(trained.config_path.read_text())
    run.logs.mkdir()
    text, summary = write_report(run)
    parse(text)
    assert set(summary["missing_sections"]) == SECTIONS - {"cost", "provenance"}
    assert "Nothing has been done" in text


def test_results_of_a_step_that_is_not_finished_are_not_shown(
    complete: RunDirectory, copy_of: Copy, write_report: Report
) -> None:
    run = copy_of(complete)
    (run.steps / "evaluate.json").unlink()
    _, summary = write_report(run)
    assert summary["missing_sections"] == ["performance"]


def test_a_refused_firmware_is_shown_as_refused(
    complete: RunDirectory, copy_of: Copy, write_report: Report
) -> None:
    run = copy_of(complete)
    record = json.loads((run.firmware / "verification.json").read_text())
    write_json(run.firmware / "verification.json", {**record, "passed": False, "mismatches": 3})
    (run.steps / "firmware.json").unlink()
    text, _ = write_report(run)
    assert "Refused." in text
    assert "no firmware project was left" in text
    assert "bit-exact" not in text


def test_hostile_names_stay_text(complete: RunDirectory, copy_of: Copy, write_report: Report) -> None:
    run = copy_of(complete)
    evil = '<script>alert("x")</script>${x}$'
    for split in ("train", "validation", "test"):
        path = run.data / split / "dataset.json"
        info = json.loads(path.read_text())
        info["provenance"]["label"] = evil
        for process in info["provenance"]["processes"]:
            process["label"] = evil
        path.write_text(json.dumps(info))
    with np.load(run.compressed / "weights.npz") as file:
        renamed = {name.replace("conv1", f"{evil}--><b>"): file[name] for name in file.files}
    np.savez(run.compressed / "weights.npz", **renamed)
    text, _ = write_report(run, title=evil)
    page = parse(text)
    assert "script" not in page.tags
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_data_of_another_kind_still_have_a_page(
    trained: RunDirectory, copy_of: Copy, write_report: Report
) -> None:
    run = copy_of(trained)
    for split in ("train", "validation", "test"):
        shutil.rmtree(run.data / split)
        fields = {"cells": DenseField(shape=(2,)), "label": DenseField(dtype="int64")}
        with ShardWriter(run.data / split, fields) as writer:
            writer.append({"cells": np.zeros((3, 2), dtype=np.float32), "label": np.zeros(3, dtype=np.int64)})
    text, summary = write_report(run)
    parse(text)
    assert "names no processes" in text
    assert "hold no images" in text
    assert summary["figures"] == ["figures/loss.png", "figures/time.png"]


def test_a_damaged_file_is_named(complete: RunDirectory, copy_of: Copy, write_report: Report) -> None:
    run = copy_of(complete)
    (run.evaluation / "curves.npz").write_bytes(b"PK torn")
    with pytest.raises(UserError, match=r"curves\.npz"):
        write_report(run)


def test_the_same_run_gives_the_same_figures(
    whole: tuple[RunDirectory, str, dict[str, Any]], copy_of: Copy, write_report: Report
) -> None:
    run, text, _ = whole
    again, _ = write_report(copy_of(run))

    def pictures(page: str) -> list[str]:
        return re.findall(r"<svg.*?</svg>", page, re.DOTALL)

    assert pictures(again) == pictures(text)


def test_importing_the_room_needs_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys, pkgutil, importlib, hpctrain.report as room\n"
        "[importlib.import_module(f'hpctrain.report.{m.name}') for m in pkgutil.iter_modules(room.__path__)]\n"
        "print([name for name in ('torch', 'matplotlib', 'sklearn', 'jinja2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
