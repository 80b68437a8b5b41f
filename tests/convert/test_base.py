from pathlib import Path

import numpy as np
import pytest

from hpctrain import registry
from hpctrain.convert.base import Finite, listed, said_by_all
from hpctrain.convert.driver import read_config
from hpctrain.data.columns import RaggedRows, SparseRows
from hpctrain.errors import UserError

KINDS = ("delphes", "hdf5", "hepmc3", "nanoaod", "nersc_hdf5", "table")


def test_the_kinds():
    assert set(KINDS) <= set(registry.kinds("converters"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_is_documented(kind):
    for name, field in type(read_config(kind)).model_fields.items():
        assert name == "kind" or field.description, name


def test_the_earliest_event_is_named_whatever_the_kind_of_rows():
    numbers = np.arange(100, 104)
    dense = np.array([[0.0, 1], [2, 3], [4, 5], [np.inf, 7]])
    ragged = RaggedRows(np.array([0, 2, 2, 4, 5]), np.array([[1.0], [2], [3], [np.nan], [5]]))
    sparse = SparseRows(np.array([0, 0, 1, 1, 1]), np.array([3], np.uint16), np.array([np.nan]))
    rows = {"a": dense, "b": ragged, "c": sparse, "d": np.arange(4)}
    with pytest.raises(
        UserError, match=r"f\.root: branch c has NaN or infinity in event 101\..*non_finite=drop"
    ):
        Finite("refuse", Path("f.root"), "branch").keep(numbers, rows)
    finite = Finite("drop", Path("f.root"), "branch")
    assert finite.keep(numbers, rows).tolist() == [True, False, False, False]
    assert finite.dropped == 3
    assert finite.keep(numbers, {"d": np.arange(4)}).all()
    assert finite.dropped == 3


def test_many_names_are_counted():
    assert listed(["a"]) == "file a"
    assert listed(list("abcde"), "table") == "tables a, b, c and 2 more"


def test_what_files_say_of_themselves_is_repeated_when_they_agree():
    assert said_by_all([{"description": "muons\n  at rest"}] * 2) == ": muons at rest"
    assert said_by_all([{"title": "a"}, {"title": "b"}]) == ""
    assert said_by_all([{"title": "a"}, {}]) == ""
    assert said_by_all([{"title": "x" * 201}]) == ""
