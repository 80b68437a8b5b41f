"""Figures as SVG for a page and as PNG for everything else."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np

from hpctrain.report.gallery import Gallery
from hpctrain.report.style import (
    BLUE,
    INK,
    SVG_LIMIT_BYTES,
    VARIABLES,
    house_style,
    new_figure,
    plain,
    to_svg,
)


def line(title: str = "a title"):
    figure = new_figure(4, 3)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color=BLUE)
    axis.fill_between([0, 1], [0, 1], [1, 2], color=BLUE, alpha=0.2)
    axis.set_title(plain(title))
    return figure


def test_svg_follows_the_colours_of_the_page() -> None:
    with house_style():
        svg = to_svg(line(), "line")
    ET.fromstring(svg)
    assert f"var(--blue, {BLUE})" in svg
    assert f"var(--ink, {INK})" in svg
    bare = re.sub(r"var\([^)]*\)", "", svg)
    assert not any(colour in bare for colour in VARIABLES)


def test_two_figures_share_no_id() -> None:
    with house_style():
        first, second = (set(re.findall(r'id="([^"]+)"', to_svg(line(), name))) for name in ("a", "b"))
    assert first
    assert not first & second


def test_the_same_figure_gives_the_same_bytes() -> None:
    with house_style():
        assert to_svg(line(), "a") == to_svg(line(), "a")


def test_every_variable_is_set_in_every_scheme() -> None:
    css = (Path(__file__).parents[2] / "hpctrain/report/templates/style.css").read_text()
    for variable in VARIABLES.values():
        assert len(re.findall(rf"--{variable}:", css)) == 3, variable  # light, dark, print


def test_colours_stand_out_from_the_paper() -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    css = (Path(__file__).parents[2] / "hpctrain/report/templates/style.css").read_text()
    light, dark, _ = (
        dict(re.findall(r"--([a-z]+): (#[0-9a-f]{3,6})", part)) for part in css.split(":root {")[1:4]
    )
    for scheme in (light, dark):
        paper = luminance(scheme["paper"])
        for name in ("ink", "muted", "blue", "vermilion", "green", "amber", "purple"):
            high, low = sorted((luminance(scheme[name]), paper), reverse=True)
            assert (high + 0.05) / (low + 0.05) > 3, name  # WCAG 2.2, graphical objects


def test_settings_end_with_the_context() -> None:
    before = mpl.rcParams["axes.grid"]
    with house_style():
        assert mpl.rcParams["axes.grid"] is True
    assert mpl.rcParams["axes.grid"] == before


def test_a_heavy_figure_is_embedded_as_png(tmp_path: Path) -> None:
    def heavy():
        figure = line()
        # Every marker is a path of its own colour: SVG writes each out.
        figure.axes[0].scatter(*np.random.default_rng(0).uniform(size=(2, 9000)), c=np.arange(9000), s=2)
        return figure

    gallery = Gallery(tmp_path)
    light, dark = gallery.add("light", line, "a line"), gallery.add("heavy", heavy, 'dots "and" <more>')
    assert (light.kind, dark.kind) == ("svg", "png")
    assert len(light.element) < SVG_LIMIT_BYTES
    assert 'alt="dots &quot;and&quot; &lt;more&gt;"' in dark.element
    assert {path.name for path in tmp_path.iterdir()} == {"light.png", "heavy.png"}


def test_text_of_files_starts_no_formula() -> None:
    with house_style():
        assert "<svg" in to_svg(line("$\\frac{broken"), "evil")
