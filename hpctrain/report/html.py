"""One self-contained page of a run: no script, no network, readable from a file and on paper."""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

import hpctrain
from hpctrain.config import ComponentConfig
from hpctrain.files import write_atomically
from hpctrain.registry import register
from hpctrain.report import numbers
from hpctrain.report.contents import STEP_TITLES, Contents
from hpctrain.report.gallery import Gallery
from hpctrain.report.headline import cards
from hpctrain.report.sections import all_sections
from hpctrain.run import RunDirectory
from hpctrain.track import Tracker

STEPS_OF_REPORT = 3
"""Progress: figures and sections, page, file."""


@register("report")
class HtmlReport:
    """Writes ``RUN/report.html`` and the figures alone as ``RUN/figures/*.png``."""

    class Config(ComponentConfig):
        kind: Literal["html"] = "html"
        title: str | None = None
        """Title of the page; None takes the name of the run."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def run(self, run: RunDirectory, tracker: Tracker) -> dict[str, Any]:
        """Write the page from whatever steps have finished; returns its path, size and figures."""
        contents = Contents(run)
        gallery = Gallery(run.figures)
        tracker.progress(0, STEPS_OF_REPORT, "parts")
        sections = all_sections(contents, gallery)
        tracker.progress(1, STEPS_OF_REPORT, "parts")
        page = _render(contents, sections, self.config.title or contents.name)
        tracker.progress(2, STEPS_OF_REPORT, "parts")
        content = page.encode()
        write_atomically(run.report_path, content)
        tracker.progress(STEPS_OF_REPORT, STEPS_OF_REPORT, "parts")
        missing = [section.key for section in sections if section.missing]
        return {
            "headline": f"{run.report_path} ({numbers.size(len(content))})",
            "path": run.report_path.name,
            "bytes": len(content),
            "figures": [f"{run.figures.name}/{name}.png" for name in gallery.drawn],
            "missing_sections": missing,
        }


def _render(contents: Contents, sections: Any, title: str) -> str:
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("hpctrain.report"),
        autoescape=True,  # every template here is HTML, and names in a run may be anything
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": numbers.figure,
        "number": numbers.number,
        "count": numbers.count,
        "percent": numbers.percent,
        "seconds": numbers.seconds,
        "bytes": numbers.size,
        "si": numbers.si,
        "pm": numbers.with_error,
    }
    return environment.get_template("report.html.j2").render(
        title=title,
        cards=cards(contents),
        sections=sections,
        step_titles=STEP_TITLES,
        run_path=contents.run.path,
        label=contents.provenance.get("label"),
        luminosity=contents.provenance.get("luminosity_fb"),
        seed=contents.config.get("seed"),
        written=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=hpctrain.__version__,
    )
