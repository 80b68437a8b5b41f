"""Where labels and weights come from: a number, a branch, a cross section; for all files or by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Discriminator, Field, Tag

from hpctrain.data.columns import Array
from hpctrain.errors import UserError
from hpctrain.section import Section

FB_PER_PB = 1000.0
EVERY = "*"
"""The pattern that stands for all files."""

KEYS = frozenset({"branch", "values", "cross_section_pb", "luminosity_fb", "sum_of_weights"})
"""Keys of a rule: a mapping with one of them is one rule for all files, and not patterns of names."""
INT64 = np.iinfo(np.int64)

Finite = Annotated[float, Field(allow_inf_nan=False)]
Label = Annotated[int, Field(ge=INT64.min, le=INT64.max, strict=True)]
FinitePositive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class FromBranch(Section):
    """The value that a branch (dataset, column) has in each event."""

    branch: str
    """Its name in the files."""
    values: Annotated[dict[int, Label], Field(min_length=1)] | None = None
    """For labels: the class of each value. A value that is not named stops the conversion."""


class FromCrossSection(Section):
    """σ·L·w / Σw: what an event stands for at a luminosity."""

    cross_section_pb: FinitePositive
    """Cross section of the sample in picobarn, before any selection."""
    luminosity_fb: FinitePositive
    """Integrated luminosity in 1/fb that the weights refer to."""
    sum_of_weights: FinitePositive | None = None
    """Σw of the whole sample. None: the sum over all events of its files, which are read once for it."""
    branch: str | None = None
    """Generator's weight w of each event. None: the format's own, 1 where it has none."""


def _by_pattern(value: Any) -> Any:
    """One rule for all files as ``{"*": rule}``; a name as ``{branch: name}``."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or KEYS & set(value):
        value = {EVERY: value}
    return {pattern: {"branch": rule} if isinstance(rule, str) else rule for pattern, rule in value.items()}


FORMS = frozenset({"a number", "a branch", "a cross section"})
"""Names of the forms that a rule may have; they stand in pydantic's path to what is wrong."""


def _form(rule: Any) -> str:
    """Which of its forms a rule has, so that what is wrong in it is told of that form alone."""
    if isinstance(rule, FromBranch | FromCrossSection):
        return "a branch" if isinstance(rule, FromBranch) else "a cross section"
    if not isinstance(rule, Mapping):
        return "a number"
    return (
        "a branch"
        if "branch" in rule and not {"cross_section_pb", "luminosity_fb"} & set(rule)
        else "a cross section"
    )


def _label_form(rule: Any) -> str:
    return "a number" if _form(rule) == "a number" else "a branch"


LabelRules = Annotated[
    dict[
        str,
        Annotated[
            Annotated[Label, Tag("a number")] | Annotated[FromBranch, Tag("a branch")],
            Discriminator(_label_form),
        ],
    ],
    BeforeValidator(_by_pattern),
]
WeightRules = Annotated[
    dict[
        str,
        Annotated[
            Annotated[Finite, Tag("a number")]
            | Annotated[FromCrossSection, Tag("a cross section")]
            | Annotated[FromBranch, Tag("a branch")],
            Discriminator(_form),
        ],
    ],
    BeforeValidator(_by_pattern),
]

Rule = TypeVar("Rule")


def rule_of(rules: Mapping[str, Rule], path: Path, option: str) -> tuple[str, Rule] | None:
    """The first pattern that the file's name or path matches, with its rule; None without any rules.

    Raises ``UserError`` when there are patterns and none fits.
    """
    for pattern, rule in rules.items():
        if fnmatch(path.name, pattern) or fnmatch(str(path), pattern):
            return pattern, rule
    if rules:
        raise UserError(
            f"{path}: no pattern of {option} fits this file ({', '.join(rules)})",
            hint=f"Add one, or '{EVERY}' for all others",
        )
    return None


def whole_numbers(found: Array, where: str) -> NDArray[np.int64]:
    """The numbers as int64. Raises ``UserError`` for one that is not whole, or too large."""
    with np.errstate(invalid="ignore"):  # what does not fit is found below
        numbers = found.astype(np.int64)
    wrong = (numbers != found) | ((numbers < 0) != (found < 0))
    if wrong.any():
        raise UserError(
            f"{where} has {found[wrong][0]:g}, which is not a whole number of 64 bits",
            hint="Choose a branch of whole numbers",
        )
    return np.asarray(numbers)


@dataclass(frozen=True)
class LabelOf:
    """How the events of one file get their label."""

    constant: int | None = None
    branch: str | None = None
    values: Mapping[int, int] | None = None

    def apply(self, scalars: Mapping[str, Array], count: int, where: str) -> NDArray[np.int64]:
        """(count,) labels. Raises ``UserError`` for a value that is not whole or has no class."""
        if self.branch is None:
            return np.full(count, self.constant, dtype=np.int64)
        labels = whole_numbers(scalars[self.branch], f"{where}: label: {self.branch}")
        if self.values is None:
            return labels
        known = np.array(sorted(self.values), dtype=np.int64)
        classes = np.array([self.values[value] for value in known.tolist()], dtype=np.int64)
        place = np.minimum(np.searchsorted(known, labels), len(known) - 1)
        if (known[place] != labels).any():
            value = labels[known[place] != labels][0]
            raise UserError(
                f"{where}: label: {self.branch} has {value}, for which values names no class",
                hint=f"values has {', '.join(map(str, known.tolist()))}; add {value}",
            )
        return classes[place]


@dataclass(frozen=True)
class WeightOf:
    """How the events of one file get their weight: ``factor`` times the branch, or ``factor`` alone."""

    factor: float = 1.0
    branch: str | None = None

    def apply(self, scalars: Mapping[str, Array], count: int) -> NDArray[np.float64]:
        """(count,) weights."""
        if self.branch is None:
            return np.full(count, self.factor)
        return np.asarray(scalars[self.branch], dtype=np.float64) * self.factor


@dataclass(frozen=True)
class Sample:
    """Files that share their rules: one process of the provenance."""

    name: str
    label: LabelOf | None
    weight: WeightOf
    files: tuple[int, ...]
    cross_section: FromCrossSection | None = None

    @property
    def wanted(self) -> tuple[str, ...]:
        """Names of the scalars that its rules read."""
        names = [rule.branch for rule in (self.label, self.weight) if rule is not None and rule.branch]
        return tuple(dict.fromkeys(names))


def samples_of(
    inputs: Sequence[Path],
    labels: Mapping[str, int | FromBranch],
    weights: Mapping[str, float | FromCrossSection | FromBranch],
    default_label: str | None,
    default_weight: str | None,
) -> list[Sample]:
    """The inputs in groups of equal rules. The factor of a cross section still lacks 1/Σw.

    Raises ``UserError`` for a file that no pattern fits.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for number, path in enumerate(inputs):
        patterns = [rule_of(labels, path, "label"), rule_of(weights, path, "weight")]
        label_pattern, weight_pattern = (EVERY if found is None else found[0] for found in patterns)
        groups.setdefault((label_pattern, weight_pattern), []).append(number)
    samples = []
    for (label_pattern, weight_pattern), files in groups.items():
        rule = weights.get(weight_pattern)
        samples.append(
            Sample(
                name=_name(label_pattern, weight_pattern, "all" if len(groups) == 1 else "others"),
                label=_label_of(labels.get(label_pattern), default_label),
                weight=_weight_of(rule, default_weight),
                files=tuple(files),
                cross_section=rule if isinstance(rule, FromCrossSection) else None,
            )
        )
    return samples


def _name(label_pattern: str, weight_pattern: str, every: str) -> str:
    patterns = dict.fromkeys(p for p in (label_pattern, weight_pattern) if p != EVERY)
    return ", ".join(p.strip("*") or p for p in patterns) or every


def _label_of(rule: int | FromBranch | None, default: str | None) -> LabelOf | None:
    if isinstance(rule, FromBranch):
        return LabelOf(branch=rule.branch, values=rule.values)
    if rule is not None:
        return LabelOf(constant=rule)
    return LabelOf(branch=default) if default else None


def _weight_of(rule: float | FromCrossSection | FromBranch | None, default: str | None) -> WeightOf:
    if isinstance(rule, FromCrossSection):
        factor = rule.cross_section_pb * FB_PER_PB * rule.luminosity_fb
        return WeightOf(factor=factor, branch=rule.branch or default)
    if isinstance(rule, FromBranch):
        return WeightOf(branch=rule.branch)
    return WeightOf(branch=default) if rule is None else WeightOf(factor=rule)
