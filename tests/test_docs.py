"""Documents that say what the code says."""

import importlib.util
import re
from pathlib import Path

import pytest

from hpctrain import registry

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def test_the_page_of_keys_is_that_of_the_schema():
    spec = importlib.util.spec_from_file_location(
        "make_configuration", ROOT / "docs" / "make_configuration.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "configuration.md").read_text() == module.page(), (
        "run `python docs/make_configuration.py`"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_room_has_its_page():
    rooms = {path.parent.name for path in (ROOT / "hpctrain").glob("*/__init__.py")}
    assert rooms <= {page.stem for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_kinds_named_in_examples_exist(page):
    known = {kind for group in registry.GROUPS for kind in registry.kinds(group)} | {"ring"}
    for kind in re.findall(r"kind: ([a-z0-9_]+)", page.read_text()):
        assert kind in known, f"{page.name} names kind {kind}"
