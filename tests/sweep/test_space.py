import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from hpctrain.sweep.space import Axis, Choices, Range


class Swept(BaseModel):
    x: Axis


def axis(value):
    return Swept.model_validate({"x": value}).x


@given(st.floats(1e-6, 1e6), st.floats(1.01, 1e3), st.booleans(), st.floats(0, 1))
def test_what_is_drawn_is_inside_the_range(low, factor, log, fraction):
    drawn = Range(low=low, high=low * factor, log=log).at(fraction)
    assert low <= drawn <= low * factor


def test_whole_numbers_have_equal_shares():
    drawn = [Range(low=1, high=4, int=True).at(i / 4000) for i in range(4000)]
    assert {type(value) for value in drawn} == {int}
    assert [drawn.count(value) for value in (1, 2, 3, 4)] == pytest.approx([1000] * 4, abs=2)


def test_a_logarithmic_range_has_half_of_its_draws_below_the_geometric_mean():
    assert Range(low=1e-4, high=1, log=True).at(0.5) == pytest.approx(1e-2)
    assert Range(low=1e-4, high=1).at(0.5) == pytest.approx(0.50005)


def test_every_choice_has_its_turn():
    assert [Choices(choices=("a", [1], None)).at(i / 3) for i in range(3)] == ["a", [1], None]


def test_a_list_is_choices_and_numbers_that_yaml_takes_for_text_are_numbers():
    assert axis([1, 2]).choices == (1, 2)
    assert axis({"choices": ["1e-3", "sgd", "1e"]}).choices == (1e-3, "sgd", "1e")
    assert axis({"low": "1e-3", "high": 1}).low == 1e-3


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "no value is given"),
        ([1, 2, 1], "1 stands twice"),
        (3, "expected a list of values, or low and high; got 3"),
        ({"low": 2, "high": 1}, "low must be below high"),
        ({"low": 0, "high": 1, "log": True}, "starts above 0"),
        ({"low": 0.5, "high": 3, "int": True}, "whole numbers"),
        ({"low": 0, "hihg": 3}, "did you mean 'high'"),
        ({"choices": 4}, "valid tuple"),
    ],
)
def test_what_cannot_be_swept_over(value, words):
    with pytest.raises(ValidationError, match=words):
        axis(value)
