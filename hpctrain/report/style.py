"""One look for every figure of the project, on paper and on a screen, light or dark.

Colours are Okabe and Ito's (distinguishable with every common colour blindness) and are used by
role. Figures that go into a page are SVG whose colours are CSS variables, so that the page's light
or dark scheme applies to them too.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpctrain.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1f2933", "#66717f", "#d9dee4", "#fefefe"
BLUE, VERMILION, GREEN, PURPLE, SKY, AMBER = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#b0579a",
    "#56b4e9",
    "#c98a00",
)

VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAPER: "paper",
    BLUE: "blue",
    VERMILION: "vermilion",
    GREEN: "green",
    PURPLE: "purple",
    SKY: "sky",
    AMBER: "amber",
}
"""Colour → CSS variable (``--ink`` …) that stands for it in a page."""

SIGNAL, BACKGROUND = VERMILION, BLUE
MODELS = {"cnn": BLUE, "gbdt": AMBER, "mlp": GREEN, "selection": INK}
"""Colour of each model wherever it is drawn."""
MODEL_NAMES = {"cnn": "CNN", "gbdt": "GBDT", "mlp": "MLP", "selection": "benchmark selection"}
SPARE = (PURPLE, SKY, VERMILION)

SVG_LIMIT_BYTES = 350_000
"""A figure with a larger SVG is embedded as PNG."""
PNG_DPI = 160


def model_colour(name: str, number: int = 0) -> str:
    """Colour of a model, a spare one for a model the house does not know."""
    return MODELS.get(name, SPARE[number % len(SPARE)])


def plain(text: str) -> str:
    """Text for a figure that came from a file: no dollar may start a formula."""
    return text.replace("$", r"\$")


@contextmanager
def house_style() -> Iterator[None]:
    """Matplotlib settings of the project, for the figures made inside.

    The figures hold no state of a global backend: make them with :func:`new_figure`.
    """
    import matplotlib as mpl

    settings: Any = {
        "font.family": "DejaVu Sans",
        "font.size": 9.5,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 9.5,
        "axes.labelcolor": INK,
        "axes.edgecolor": MUTED,
        "axes.linewidth": 0.8,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.facecolor": "none",
        "axes.titlecolor": INK,
        "figure.facecolor": "none",
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "lines.linewidth": 1.8,
        "lines.solid_capstyle": "round",
        "text.color": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "svg.fonttype": "path",
        "svg.hashsalt": "hpctrain",  # the same figure gives the same bytes
        "image.interpolation": "none",
    }
    with mpl.rc_context(settings):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure (inches) with constrained layout and no window system behind it."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def to_png(figure: Figure, dpi: int = PNG_DPI, *, trim: bool = False) -> bytes:
    """The figure on white paper; ``trim`` cuts off what is left empty around it."""
    stream = io.BytesIO()
    figure.savefig(
        stream, format="png", dpi=dpi, facecolor="white", metadata={"Software": "hpctrain"},
        bbox_inches="tight" if trim else None,
    )  # fmt: skip
    return stream.getvalue()


def to_svg(figure: Figure, name: str) -> str:
    """An ``<svg>`` element to stand in a page: colours are CSS variables, ids begin with ``name``."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": "hpctrain"})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))  # the other ids would only fill the page
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'((?:xlink:)?href="|url\()#', rf"\1#{name}-", svg)
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable}, {colour})")
    return svg


def write_png(figure: Figure, path: Path, *, trim: bool = False) -> bytes:
    """Write the PNG (whole or not at all) and return it."""
    content = to_png(figure, trim=trim)
    write_atomically(path, content)
    return content
