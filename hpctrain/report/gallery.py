"""Figures on their way into a page and into ``RUN/figures``."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from hpctrain.report.style import SVG_LIMIT_BYTES, house_style, to_svg, write_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """One figure of the page."""

    name: str
    element: str
    """HTML of an ``<svg>`` or an ``<img>``, safe to stand in a page."""
    kind: str
    """``svg`` follows the page's colours, ``png`` stands on white paper."""


class Gallery:
    """Draws figures, writes each as ``NAME.png`` and makes the element that embeds it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.drawn: list[str] = []

    def add(self, name: str, draw: Callable[[], Figure], alt: str) -> Picture:
        """Draw a figure in the house style. ``alt`` says in words what it shows."""
        with house_style():
            figure = draw()
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # laid out once, saved twice
            png = write_png(figure, self.folder / f"{name}.png")
            svg = to_svg(figure, name)
        self.drawn.append(name)
        label = escape(alt, quote=True)
        if len(svg.encode()) <= SVG_LIMIT_BYTES:
            element = svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
            return Picture(name, element, "svg")
        data = base64.b64encode(png).decode()
        return Picture(name, f'<img alt="{label}" src="data:image/png;base64,{data}">', "png")
