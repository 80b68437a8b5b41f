"""Where the time went: epochs of metrics, some written before this was measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hpctrain.files import read_json, write_json
from hpctrain.report.speed import PARTS, shares, time_figure, with_parts
from hpctrain.report.style import house_style
from hpctrain.run import RunDirectory
from hpctrain.training.clock import PARTS as MEASURED

Report = Callable[..., tuple[str, dict[str, Any]]]
Copy = Callable[[RunDirectory], RunDirectory]


def epoch(number: int, *, mfu: float | None = None, **seconds: float) -> dict[str, Any]:
    parts = {f"seconds_{part}": seconds.get(part, 0.0) for part in PARTS}
    return {"epoch": number, "seconds": sum(parts.values()), **parts, **({} if mfu is None else {"mfu": mfu})}


def test_every_part_that_is_measured_is_drawn() -> None:
    assert set(PARTS) == set(MEASURED)


def test_older_epochs_are_passed_over() -> None:
    older = {"epoch": 0, "seconds": 3.0}
    assert with_parts([older, epoch(1)]) == [epoch(1)]


def test_shares_are_of_all_epochs() -> None:
    found = shares([epoch(0, forward=1.0, data=1.0), epoch(1, forward=5.0, communication=1.0)])
    assert found["forward"] == pytest.approx(0.75)
    assert found["communication exposed"] == found["waiting for data"] == pytest.approx(0.125)
    assert sum(found.values()) == pytest.approx(1.0)


def test_a_bar_is_as_high_as_its_epoch_is_long() -> None:
    epochs = [epoch(0, forward=1.0, data=0.5), epoch(1, backward=2.0, other=0.25)]
    with house_style():
        figure = time_figure(epochs)
    (axis,) = figure.axes
    tops = {}
    for bar in axis.patches:
        place = round(bar.get_x() + bar.get_width() / 2)
        tops[place] = max(tops.get(place, 0.0), bar.get_y() + bar.get_height())
    assert tops == pytest.approx({1: 1.5, 2: 2.25})


def test_mfu_has_a_panel_of_its_own() -> None:
    with house_style():
        figure = time_figure([epoch(0, forward=1.0, mfu=0.25), epoch(1, forward=1.0, mfu=0.5)])
    assert len(figure.axes) == 2
    assert list(figure.axes[1].lines[0].get_ydata()) == [0.25, 0.5]


def test_the_page_says_where_the_time_went(trained: RunDirectory, write_report: Report) -> None:
    page, summary = write_report(trained)
    assert "figures/time.png" in summary["figures"]
    assert "Where the time went." in page
    assert "communication exposed" in page
    assert "MFU" in page


def test_the_page_says_what_mfu_and_energy_are(
    trained: RunDirectory, copy_of: Copy, write_report: Report
) -> None:
    run = copy_of(trained)
    record = read_json(run.steps / "train.json")
    record["summary"] |= {
        "mfu": 0.31, "flops_per_sample": 1.5e6, "flops_per_second": 3.1e10, "peak_flops_per_second": 1e11,
        "peak_measured_with": "float32 matrix products 1024×1024 on one rank, 1 thread",
        "energy": {"joules": 1234.0, "joules_per_sample": 0.0021, "counted": ["processors (RAPL)"]},
    }  # fmt: skip
    write_json(run.steps / "train.json", record)
    page, _ = write_report(run)
    text = " ".join(page.split())
    assert "<b>MFU 31 %</b>" in text
    assert (
        "1.5 MFLOP a sample and were done at 31 GFLOP/s, of the 100 GFLOP/s that float32 matrix products"
        in text
    )
    assert "Energy: 1.23 kJ, 2.1 mJ a sample: processors (RAPL) of every node" in text
    record["summary"]["energy"] = "not readable here"
    write_json(run.steps / "train.json", record)
    assert "Energy: not readable here." in write_report(run)[0]
