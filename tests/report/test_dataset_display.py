"""Pictures of any dataset: what it holds decides what is drawn, and what it is stands in the picture."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from hpctrain.data.columns import RaggedRows, SparseRows
from hpctrain.data.schema import DenseField, RaggedField, SparseField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError
from hpctrain.report import dataset_display
from hpctrain.report.dataset_display import draw_dataset, typical_rows
from hpctrain.report.dataset_tables import describe
from hpctrain.report.panels import plan, radius_of

PARTICLES = RaggedField(shape=(3,), features=("pt", "eta", "phi"))
LABEL = DenseField(dtype="int64")


def particles(counts: list[int], seed: int = 0) -> RaggedRows:
    rng = np.random.default_rng(seed)
    return RaggedRows.from_lists([rng.uniform([1, -2, -2], [5, 2, 2], (n, 3)) for n in counts], (3,))


def write(folder: Path, fields: dict, columns: dict, **provenance: Any) -> ShardDataset:
    with ShardWriter(folder, fields, provenance=provenance) as writer:
        if columns:
            writer.append(columns)
    return ShardDataset.open(folder)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Draws a dataset and gives the figure beside what the picture is said to show."""
    figures: list[Figure] = []
    write_png = dataset_display.write_png

    def keep(figure: Figure, path: Path, *, trim: bool) -> bytes:
        figures.append(figure)
        return write_png(figure, path, trim=trim)

    monkeypatch.setattr(dataset_display, "write_png", keep)

    def draw(dataset: ShardDataset, rows: list[int] | None = None) -> tuple[Figure, str]:
        said = draw_dataset(dataset, tmp_path / "picture.png", rows)
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
        return figures[-1], said

    return draw


def render(dataset: ShardDataset) -> list[str]:
    """What is printed of it, in lines."""
    console = Console(width=200, record=True, file=io.StringIO())
    for part in describe(dataset, 100):
        console.print(part)
    return console.export_text().splitlines()


def texts(figure: Figure) -> str:
    found = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    return " | ".join(found)


def test_the_label_stands_in_the_picture_whole_and_as_it_is(tmp_path, drawn):
    label = "parametrised simulation, 5$ of it synthetic, " + "not Delphes " * 20
    dataset = write(tmp_path / "d", {"particles": PARTICLES}, {"particles": particles([3, 4])}, label=label)
    figure, _ = drawn(dataset)
    assert label.strip().replace("$", r"\$") in texts(figure).replace("\n", " ")
    nameless = write(tmp_path / "n", {"particles": PARTICLES}, {"particles": particles([3, 4])})
    assert "it is not said what these events are" in texts(drawn(nameless)[0])


def test_a_typical_event_of_each_class(tmp_path):
    counts = [9, 1, 2, 3, 50, 40, 30, 70, 60]
    label = np.array([0, 0, 0, 0, 0, 7, 7, 7, 7])
    dataset = write(
        tmp_path / "d", {"p": PARTICLES, "label": LABEL}, {"p": particles(counts), "label": label}
    )
    assert [counts[row] for row in typical_rows(dataset)] == [3, 60]
    one = write(tmp_path / "one", {"p": PARTICLES}, {"p": particles(counts)})
    assert sorted(counts[row] for row in typical_rows(one)) == [30, 50]


def test_points_have_their_place_and_an_area_by_pt(tmp_path, drawn):
    items = np.array([[10, 0.5, 1.0], [40, -1.5, -2.0], [20, 2.0, 3.0]], dtype=np.float32)
    dataset = write(
        tmp_path / "d", {"p": PARTICLES}, {"p": RaggedRows.from_lists([items], (3,))}, label="toy"
    )
    figure, said = drawn(dataset)
    assert said == "events 0"
    points = figure.axes[0].collections[0]
    np.testing.assert_allclose(points.get_offsets(), items[[1, 2, 0], 1:])
    areas = points.get_sizes()
    assert areas[0] - areas[1] == pytest.approx(2 * (areas[1] - areas[2]), rel=1e-5)
    assert "p (3), area ∝ pt" in texts(figure)


@pytest.mark.parametrize(
    ("said", "circles", "rings"), [("anti-kT R=0.4 of visible particles", 2, 0), (None, 0, 1)]
)
def test_jets_are_circles_of_the_radius_that_was_told(tmp_path, drawn, said, circles, rings):
    features = ("pt", "eta", "phi", "mass")
    jets = np.array([[300, 1.0, 3.0, 30], [0, 0, 0, 0]], dtype=np.float32)  # one at the seam, one padded
    dataset = write(
        tmp_path / "d", {"jets": DenseField(shape=(2, 4), features=features)}, {"jets": jets[None]},
        label="toy", **({"jets": said} if said else {}),
    )  # fmt: skip
    figure, _ = drawn(dataset)
    radii = [patch.radius for patch in figure.axes[0].patches]
    assert radii == [0.4] * circles
    assert len(figure.axes[0].collections) == rings
    assert "300" in texts(figure)


def test_radius_in_words_or_as_a_number():
    assert radius_of("jets", {"jets": "anti-kT R=1.0, trimmed R=0.2"}) == 1.0
    assert radius_of("fat_jets", {"jets": "R = 0.4", "fat_jets": {"radius": 0.8}}) == 0.8
    assert radius_of("jets", {"jets": ["something"]}) is None


def test_a_shower_is_seen_from_three_sides(tmp_path, drawn):
    cells = np.zeros((1, 5, 6, 9), dtype=np.float32)
    cells[0, 1, 2, 3] = 4.0
    cells[0, 1, 2, 7] = 2.0
    dataset = write(
        tmp_path / "d",
        {"ecal": SparseField(shape=(5, 6, 9))},
        {"ecal": SparseRows.from_dense(cells)},
        label="toy",
    )
    figure, _ = drawn(dataset)
    pictures = [axis.images[0].get_array().filled(0) for axis in figure.axes[:3]]
    assert [picture.shape for picture in pictures] == [(6, 5), (5, 9), (6, 9)]  # (up, across)
    assert pictures[0][2, 1] == 6.0
    assert pictures[1][1, [3, 7]].tolist() == [4.0, 2.0]
    assert pictures[2][2, [3, 7]].tolist() == [4.0, 2.0]
    assert [(axis.get_xlabel(), axis.get_ylabel()) for axis in figure.axes[:3]] == [
        ("x [cell]", "y [cell]"), ("z [cell]", "x [cell]"), ("z [cell]", "y [cell]"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "titles"),
    [
        ({"image": SparseField(shape=(3, 64, 64)), "jets": DenseField(shape=(5, 4))}, ["ECAL [GeV]", "HCAL [GeV]", "tracks"]),
        ({"image": SparseField(shape=(1, 25, 25))}, ["image"]),
        ({"view": DenseField(shape=(80, 100))}, ["view"]),
        ({"hcal": SparseField(shape=(4, 4, 60))}, ["hcal, sum along z", "hcal, sum along y", "hcal, sum along x"]),
        ({"a": RaggedField(shape=(2,), features=("eta", "phi")), "jets": RaggedField(shape=(3,), features=("pt", "eta", "phi"))}, ["particles and jets"]),
        ({"c": RaggedField(shape=(5,), features=("pt", "eta", "phi", "eta_rel", "phi_rel"))}, ["c around the axis"]),
        ({"hits": RaggedField(shape=(4,), features=("x", "y", "z", "energy"))}, ["hits, x and y", "hits, z and x"]),
        ({"met": DenseField(), "n_jets": DenseField(dtype="int64")}, []),
    ],
    ids=["detector", "jet image", "view", "volume", "clouds", "constituents", "hits", "table"],
)  # fmt: skip
def test_what_is_drawn_follows_from_the_fields(fields, titles):
    assert [panel.title for panel in plan(fields, {})] == titles


def test_images_whose_axes_nobody_named_are_drawn_in_cells(tmp_path, drawn):
    image = SparseRows.from_dense(np.ones((1, 1, 25, 25), dtype=np.float32))
    dataset = write(tmp_path / "d", {"image": SparseField(shape=(1, 25, 25))}, {"image": image}, label="toy")
    axis = drawn(dataset)[0].axes[0]
    assert axis.get_xlabel() == "cell"
    assert axis.images[0].get_extent() == [0, 25, 0, 25]


def test_channels_of_other_detectors_are_not_called_ours(tmp_path, drawn):
    image = SparseRows.from_dense(np.ones((1, 3, 16, 16), dtype=np.float32))
    dataset = write(
        tmp_path / "d", {"image": SparseField(shape=(3, 16, 16))}, {"image": image},
        label="toy", image_axes="cells", image_channels=["all energy", "EM energy", "tracks"],
    )  # fmt: skip
    axes = drawn(dataset)[0].axes
    assert [axis.get_title(loc="left") for axis in axes[:3]] == ["all energy", "EM energy", "tracks"]
    assert axes[0].get_xlabel() == "cell"


def test_units_that_were_told_stand_at_the_axes(tmp_path, drawn):
    hits = RaggedField(shape=(4,), features=("x", "y", "z", "e"))
    rows = RaggedRows.from_lists([np.array([[1, 2, 25_000, 4], [1, 2, -700_000, 4]])], (4,))
    dataset = write(tmp_path / "d", {"h": hits}, {"h": rows}, label="toy", units={"x": "mm", "z": "cm"})
    figure, _ = drawn(dataset)
    assert [(axis.get_xlabel(), axis.get_ylabel()) for axis in figure.axes] == [
        ("x [mm]", "y"),
        ("z [cm]", "x [mm]"),
    ]
    figure.draw_without_rendering()
    edges = [label.get_window_extent() for label in figure.axes[1].get_xticklabels() if label.get_text()]
    assert len(edges) > 1
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(edges))


def test_no_jet_is_outside_its_panel(tmp_path, drawn):
    features = ("pt", "eta", "phi", "mass")
    jets = RaggedRows.from_lists([np.array([[30, -4.4, 1.0, 3], [20, 0.1, 1.0, 3]])], (4,))
    field = RaggedField(shape=(4,), features=features)
    figure, _ = drawn(write(tmp_path / "d", {"jets": field}, {"jets": jets}, label="toy"))
    low, high = figure.axes[0].get_xlim()
    assert low < -4.4
    assert high > 4.4


def test_a_table_is_drawn_as_distributions_of_its_classes(tmp_path, drawn):
    rng = np.random.default_rng(0)
    fields = {"met": DenseField(), "x": DenseField(shape=(2,), features=("c2", "d2")), "label": LABEL}
    columns = {
        "met": rng.random(100).astype("f4"),
        "x": np.ones((100, 2), "f4"),
        "label": rng.integers(0, 2, 100),
    }
    figure, said = drawn(write(tmp_path / "d", fields, columns, label="synthetic numbers"))
    assert said == "distributions of 100 events"
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["met"]
    assert "the same in all: c2 1, d2 1" in texts(figure)
    assert "synthetic numbers" in texts(figure)
    ones = int(columns["label"].sum())
    assert f"label 1 ({ones})" in texts(figure)


def test_numbers_have_their_units_and_what_is_not_drawn_is_named(tmp_path, drawn):
    fields = {f"x{n}": DenseField() for n in range(11)} | {"n": DenseField(dtype="int64")}
    columns = {name: np.arange(6, dtype=field.dtype) for name, field in fields.items()}
    dataset = write(tmp_path / "d", fields, columns, label="toy", units={"x0": "GeV"})
    figure, _ = drawn(dataset)
    assert figure.axes[0].get_title(loc="left") == "x0 [GeV]"
    assert "not drawn: x9, x10, n" in texts(figure)
    assert "x0 [GeV]" in "".join(map(str, render(dataset)))


def test_points_that_are_not_drawn_are_counted(tmp_path, drawn):
    far = RaggedRows.from_lists([np.array([[1, 0.0, 0], [1, 7, 1], [1, -8, 1]], dtype="f4")], (3,))
    figure, _ = drawn(write(tmp_path / "far", {"p": PARTICLES}, {"p": far}, label="toy"))
    assert "p (3, 2 beyond)" in texts(figure)
    assert len(figure.axes[0].collections[0].get_offsets()) == 1

    x = np.linspace(-1, 1, 300)
    items = np.column_stack([x, x[::-1], x]).astype("f4")
    items[0] = 7e5  # a decay 700 m away would press the rest into one point
    hits = RaggedField(shape=(3,), features=("x", "y", "z"))
    dataset = write(
        tmp_path / "hits", {"h": hits}, {"h": RaggedRows.from_lists([items], (3,))}, label="toy",
        units={"x": "mm", "y": "mm", "z": "mm"},
    )  # fmt: skip
    figure, _ = drawn(dataset)
    assert figure.axes[0].get_xlim()[1] < 2
    assert figure.axes[0].get_xlabel() == "x [mm]"
    assert "beyond" in texts(figure)


def test_the_pt_of_a_jet_at_the_lower_edge_stands_above_it(tmp_path, drawn):
    jets = np.array([[[50, 1.0, -3.1, 5], [60, 1.0, 1.0, 5]]], dtype="f4")
    field = DenseField(shape=(2, 4), features=("pt", "eta", "phi", "mass"))
    figure, _ = drawn(write(tmp_path / "d", {"jets": field}, {"jets": jets}, label="toy"))
    heights = {text.get_text(): text.xyann[1] for text in figure.axes[0].texts}
    assert heights["50"] > 0 > heights["60"]
    assert "R not known" in texts(figure)


@pytest.mark.parametrize(("processes", "title"), [(["qcd"], "event 0"), (["qcd", "top"], "process qcd")])
def test_the_process_is_told_where_there_are_several(tmp_path, drawn, processes, title):
    fields = {"p": PARTICLES, "process": DenseField(dtype="int64"), "met": DenseField()}
    columns = {"p": particles([3]), "process": np.zeros(1, "i8"), "met": np.ones(1, "f4")}
    known = [{"name": name} for name in processes]
    dataset = write(tmp_path / "d", fields, columns, label="toy", processes=known, units={"met": "GeV"})
    said = texts(drawn(dataset, [0])[0])
    assert title in said
    assert ("process qcd" in said) == (len(processes) > 1)
    assert "met 1 GeV" in said


def test_events_without_items_and_single_ones_are_drawn(tmp_path, drawn):
    dataset = write(tmp_path / "d", {"p": PARTICLES}, {"p": particles([0])}, label="toy")
    figure, _ = drawn(dataset)
    assert "p (0)" in texts(figure)


def test_what_cannot_be_drawn_is_said(tmp_path):
    empty = write(tmp_path / "empty", {"p": PARTICLES}, {})
    with pytest.raises(UserError, match="has no events to draw"):
        draw_dataset(empty, tmp_path / "x.png")
    dataset = write(tmp_path / "d", {"p": PARTICLES}, {"p": particles([1, 2])})
    with pytest.raises(UserError, match=r"has the events 0 to 1, not all of \[0, 2\]"):
        draw_dataset(dataset, tmp_path / "x.png", [0, 2])
    assert not (tmp_path / "x.png").exists()
