from pathlib import Path

import numpy as np
import pytest

from hpctrain.convert.driver import read_config
from hpctrain.convert.rules import FromBranch, FromCrossSection, LabelOf, WeightOf, samples_of
from hpctrain.errors import UserError

FILES = [Path("/data/ttbar_1.root"), Path("/data/qcd_1.root"), Path("/data/ttbar_2.root")]


def rules(*settings):
    config = read_config("table", settings)
    return config.label, config.weight


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("label=1", {"*": 1}),
        ("label=truth", {"*": FromBranch(branch="truth")}),
        (
            "label={branch: pdg, values: {11: 0, 22: 1}}",
            {"*": FromBranch(branch="pdg", values={11: 0, 22: 1})},
        ),
        ("label={'*ttbar*': 1, '*': 0}", {"*ttbar*": 1, "*": 0}),
        (
            "label={'*a*': 1, '*b*': truth}",
            {"*a*": 1, "*b*": FromBranch(branch="truth")},
        ),
    ],
)
def test_a_label_may_be_written_short(setting, expected):
    assert rules(setting)[0] == expected


def test_a_weight_may_be_a_number_a_branch_or_a_cross_section():
    assert rules("weight=0.5")[1] == {"*": 0.5}
    assert rules("weight=w")[1] == {"*": FromBranch(branch="w")}
    assert rules("weight.cross_section_pb=2", "weight.luminosity_fb=36")[1] == {
        "*": FromCrossSection(cross_section_pb=2, luminosity_fb=36)
    }


@pytest.mark.parametrize(
    "setting", ["label=1.5", "weight=.nan", "weight={cross_section_pb: -1, luminosity_fb: 1}", "label=[1]"]
)
def test_a_wrong_rule_is_refused_with_its_key(setting):
    with pytest.raises(UserError, match=setting.split("=", maxsplit=1)[0]):
        rules(setting)


def test_files_of_equal_rules_are_one_sample():
    samples = samples_of(FILES, *rules("label={'*ttbar*': 1, '*qcd*': 0}"), None, "gen")
    assert [(s.name, s.files, s.label.constant) for s in samples] == [
        ("ttbar", (0, 2), 1),
        ("qcd", (1,), 0),
    ]
    assert {s.weight for s in samples} == {WeightOf(branch="gen")}


def test_patterns_of_label_and_weight_together_make_the_samples():
    samples = samples_of(
        FILES, *rules("label={'*ttbar*': 1, '*': 0}", "weight={'*_1*': 2, '*_2*': 3}"), None, None
    )
    assert [(s.name, s.files, s.weight.factor) for s in samples] == [
        ("ttbar, _1", (0,), 2.0),
        ("_1", (1,), 2.0),
        ("ttbar, _2", (2,), 3.0),
    ]


def test_files_of_no_other_pattern_are_the_others():
    samples = samples_of(FILES, *rules("label={'*ttbar*': 1, '*': 0}"), None, None)
    assert {s.name for s in samples} == {"ttbar", "others"}
    assert {s.name for s in samples_of(FILES, *rules("label=1"), None, None)} == {"all"}


def test_a_file_that_no_pattern_fits_is_named():
    with pytest.raises(UserError, match=r"qcd_1.root: no pattern of label fits.*'\*' for all others"):
        samples_of(FILES, *rules("label={'*ttbar*': 1}"), None, None)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "label={branch: pdg, values: {11: a}}",
            r"table: label\.\*\.values\.11: Input should be a valid int",
        ),
        ("label={branch: pdg, values: {}}", r"label.*values: .*at least 1"),
        ("label=1.5", r"label\.\*: Input should be a valid integer"),
        ("label=true", r"label\.\*: Input should be a valid integer"),
        ("labell=1", r"did you mean 'label'\? `hpctrain"),
        ("label=99999999999999999999", r"label\.\*: Input should be less than or equal"),
        (
            "weight={cross_section_pb: 0, luminosity_fb: 1}",
            r"weight.*cross_section_pb: Input should be greater than 0",
        ),
        ("weight={cross_section_pb: 1}", r"weight.*luminosity_fb: Field required"),
        (
            "weight={cross_sectio_pb: 1, luminosity_fb: 1}",
            r"'cross_sectio_pb'; did you mean 'cross_section_pb'",
        ),
        (
            "description=CMS: tt",
            r"description: Input should be a valid string \(YAML takes what has ': ' in it",
        ),
        ("weight=.nan", r"weight\.\*: Input should be a finite number"),
        ("label={*ttbar*: 1}", r"not valid YAML\. As a shell needs it: label='\{\"\*ttbar\*\": 1"),
        ('label={"*ttbar*":', r"not valid YAML\. As a shell needs it"),
    ],
)
def test_mistakes_in_rules_are_told_of_the_form_that_was_meant(setting, message):
    with pytest.raises(UserError, match=message) as caught:
        rules(setting)
    assert "\n" not in str(caught.value)


def test_without_rules_the_format_decides():
    (sample,) = samples_of(FILES, {}, {}, "y", None)
    assert sample.label == LabelOf(branch="y")
    assert sample.weight == WeightOf()
    assert sample.wanted == ("y",)
    assert samples_of(FILES, {}, {}, None, None)[0].label is None


def test_values_are_translated_to_classes():
    label = LabelOf(branch="flavour", values={5: 2, 0: 0, 4: 1})
    assert label.apply({"flavour": np.array([0, 5, 4, 5], dtype=np.int8)}, 4, "f").tolist() == [0, 2, 1, 2]
    with pytest.raises(
        UserError, match=r"f: label: flavour has 21, for which values names no class.*0, 4, 5"
    ):
        label.apply({"flavour": np.array([0, 21])}, 2, "f")


def test_a_label_with_a_fraction_is_refused():
    label = LabelOf(branch="y")
    assert label.apply({"y": np.array([1.0, 0.0])}, 2, "f").tolist() == [1, 0]
    with pytest.raises(UserError, match=r"f: label: y has 0\.5, which is not a whole number"):
        label.apply({"y": np.array([1.0, 0.5])}, 2, "f")
