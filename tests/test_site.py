"""Sites: those that come with the package and the user's own, by name and by file."""

import configparser
import re
from pathlib import Path

import pytest

from hpctrain.errors import UserError
from hpctrain.site import SHIPPED, known_sites, load_site, user_folder

ROOT = Path(__file__).parent.parent


@pytest.fixture
def mine(monkeypatch, tmp_path) -> Path:
    """The user's own folder of sites."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "hpctrain" / "sites"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_sites_are_valid_and_name_their_sources(path):
    site = load_site(path.stem)
    assert site == load_site(str(ROOT / "configs" / "sites" / path.name)), (
        "configs/sites is where a clone has them"
    )
    assert site.description
    assert not site.node_local or "https://" in path.read_text()


def test_those_that_are_promised_are_there():
    assert {"laptop", "generic-cpu", "perlmutter-cpu", "cori-knl"} <= set(known_sites())
    assert load_site("cori-knl").node_local == ("$DW_JOB_STRIPED",)


def test_a_site_of_ones_own_comes_first(mine):
    (mine / "here.yaml").write_text("name: here\nnode_local: [/local/$USER]\n")
    (mine / "laptop.yaml").write_text("name: laptop\nnode_local: [/fast]\n")
    assert load_site("here").node_local == ("/local/$USER",)
    assert load_site("laptop").node_local == ("/fast",)
    assert load_site(str(SHIPPED / "laptop.yaml")).node_local == ()


def test_where_ones_own_are(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert user_folder() == tmp_path / ".config" / "hpctrain" / "sites"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")  # which the specification tells to pass over
    assert user_folder() == tmp_path / ".config" / "hpctrain" / "sites"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("perlmuter-cpu", "unknown site 'perlmuter-cpu'. did you mean 'perlmutter-cpu'?; your own go to "),
        ("zzz", "known sites are cori-knl, generic-cpu, laptop, mine, perlmutter-cpu; your own go to "),
        ("nosuch/mine.yaml", "no configuration file nosuch/mine.yaml"),
        ("", "unknown site ''"),
    ],
)
def test_an_unknown_site_is_answered_with_the_known(mine, name, words):
    (mine / "mine.yaml").write_text("name: mine\n")
    with pytest.raises(UserError, match=re.escape(words)):
        load_site(name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- 1", "expected 'key: value' lines, found list"),
        ("name: mine\nnode_locl: []", "unknown key 'node_locl'; did you mean 'node_local'?"),
        ("name: mine\nnode_local: $TMPDIR", "node_local: Input should be a valid tuple"),
        ("name: mine\nnode_local: ['']", "node_local.0: String should have at least 1 character"),
        ("node_local: []", "name: Field required"),
        ("name: laptop", "the name is 'laptop', the file's is 'mine'. Make them the same"),
        ("name: [", "line 1: not valid YAML"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_the_file(mine, text, words):
    (mine / "mine.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_site("mine")
    assert words in str(caught.value)
    assert str(mine / "mine.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wheel_has_them():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    packaged = settings["options.package_data"]["hpctrain"].split()
    for path in SHIPPED.iterdir():
        assert any(path.relative_to(SHIPPED.parent).match(pattern) for pattern in packaged), path
