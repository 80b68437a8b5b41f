import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.errors import UserError
from hpctrain.tuning.yaml_keys import set_keys

KEYS = {"launch.ranks": 4, "launch.threads": 2, "training.compile": True, "training.precision": "bf16"}
WRITTEN = {
    "launch": {"ranks": 4, "threads": 2},
    "training": {"compile": True, "precision": "bf16"},
}


@pytest.mark.parametrize(
    "text",
    [
        "name: a\n",
        "name: a  # mine\nlaunch:\n  # why two\n  ranks: 2   # as on my laptop\n\ntraining:\n    epochs: 3\n",
        "launch: {ranks: 2}\ntraining: {}\nname: a",
        "name: a\nlaunch:\ntraining:\n  epochs: 3\n  precision: float32\n",
        "{name: a, launch: {ranks: 2}}\n",
        "name: a\nlaunch: local\n",
        "name: a\ntraining:\n  optimizer:\n    kind: adam\n  compile: false\nlaunch:\n  ranks: 1",
    ],
)
def test_keys_are_set_and_all_else_stays(text):
    before, changed = yaml.safe_load(text), set_keys(text, KEYS, "a.yaml")
    after = yaml.safe_load(changed)
    for section, keys in WRITTEN.items():
        old = before.get(section) or {}
        old = {"kind": old} if isinstance(old, str) else old
        assert after[section] == {**old, **keys}
    assert after["name"] == "a"
    for line in text.splitlines():
        if "#" in line:
            assert line.partition("#")[2] in changed


def test_comments_and_order_stay():
    text = "# an experiment\nname: a\nlaunch:\n  ranks: 2  # of my laptop\ntask: {}  # last\n"
    assert set_keys(text, {"launch.ranks": 4}, "a.yaml") == text.replace("ranks: 2", "ranks: 4")


def test_what_cannot_be_changed_is_said():
    text = "name: a\nother: &x {ranks: 1}\nlaunch: *x\n"
    with pytest.raises(UserError, match=r"a.yaml cannot be changed.*Set by hand: launch.ranks=4"):
        set_keys(text, {"launch.ranks": 4}, "a.yaml")


@given(
    st.dictionaries(st.sampled_from(["ranks", "threads", "bind"]), st.integers(0, 9), min_size=1),
    st.booleans(),
    st.integers(0, 99),
)
def test_any_form_of_yaml(launch, flow, ranks):
    text = yaml.safe_dump(
        {"name": "a", "launch": launch, "seed": 3}, default_flow_style=flow, sort_keys=False
    )
    changed = yaml.safe_load(set_keys(text, {"launch.ranks": ranks}, "a.yaml"))
    assert changed == {"name": "a", "launch": {**launch, "ranks": ranks}, "seed": 3}
