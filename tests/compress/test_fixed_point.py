"""Fixed point against a slow exact reference, and against the real ap_fixed types that firmware is made of."""

import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.compress.fixed_point import FixedPoint, fake_quantise
from hpctrain.errors import UserError

kinds = st.builds(
    FixedPoint,
    width=st.integers(2, 20),
    integer=st.integers(-4, 12),
    signed=st.booleans(),
    rounding=st.sampled_from(["TRN", "RND"]),
    saturation=st.sampled_from(["WRAP", "SAT"]),
)
values = st.floats(-5000, 5000, allow_nan=False, width=32)


def reference(value: float, kind: FixedPoint) -> Fraction:
    """The definition of UG1399 in whole numbers."""
    step = Fraction(2) ** -kind.fraction
    code = (Fraction(value) / step + (Fraction(1, 2) if kind.rounding == "RND" else 0)).__floor__()
    low = -(2 ** (kind.width - 1)) if kind.signed else 0
    high = low + 2**kind.width - 1
    if kind.saturation == "SAT":
        return min(max(code, low), high) * step
    return ((code - low) % 2**kind.width + low) * step


@given(kind=kinds, value=values)
def test_equals_the_definition(kind: FixedPoint, value: float) -> None:
    assert Fraction(float(kind.quantise(torch.tensor(value, dtype=torch.float64)))) == reference(value, kind)


@given(kind=kinds, value=values)
def test_overflow_is_where_wrapping_or_saturating_changes_the_rounded_value(
    kind: FixedPoint, value: float
) -> None:
    wide = FixedPoint(kind.width + 40, kind.integer + 40, True, kind.rounding, "SAT")
    changed = reference(value, wide) != reference(value, kind)
    assert bool(kind.overflows(torch.tensor(value, dtype=torch.float64))) == changed


@given(kind=kinds)
def test_text_is_read_back(kind: FixedPoint) -> None:
    assert FixedPoint.parse(str(kind)) == kind


@given(low=values, high=values, width=st.integers(2, 16))
def test_type_for_a_range_holds_it_and_none_finer_does(low: float, high: float, width: int) -> None:
    low, high = min(low, high), max(low, high)
    kind = FixedPoint.for_range(low, high, width)
    ends = torch.tensor([low, high], dtype=torch.float64)
    assert not kind.overflows(ends).any()
    finer = FixedPoint(width, kind.integer - 1, kind.signed)
    assert (low, high) == (0.0, 0.0) or bool(finer.overflows(ends).any()) or finer.lowest > low


def test_gradient_passes_inside_the_range_and_stops_where_it_saturates() -> None:
    x = torch.tensor([-9.0, -1.3, 0.2, 1.9, 9.0], requires_grad=True)
    fake_quantise(x, FixedPoint(6, 2)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("text", ["float", "fixed<8>", "fixed<0,0>", "ap_int<8>", "fixed<8,1,RND_CONV,SAT>"])
def test_other_types_are_refused(text: str) -> None:
    with pytest.raises(UserError):
        FixedPoint.parse(text)


@settings(deadline=None)
@given(st.lists(values, min_size=1, max_size=30))
def test_quantising_twice_changes_nothing(numbers: list[float]) -> None:
    kind = FixedPoint(9, 3)
    once = kind.quantise(torch.tensor(numbers, dtype=torch.float64))
    assert torch.equal(kind.quantise(once), once)


CPP_KINDS = [
    FixedPoint(width, integer, signed, rounding, saturation)  # type: ignore[arg-type]
    for width, integer in ((8, 3), (8, 0), (6, -2), (5, 9), (16, 6), (18, 8))
    for signed in (True, False)
    for rounding in ("TRN", "RND")
    for saturation in ("WRAP", "SAT")
]


def ap_type(kind: FixedPoint) -> str:
    prefix = "ap_fixed" if kind.signed else "ap_ufixed"
    return f"{prefix}<{kind.width},{kind.integer},AP_{kind.rounding},AP_{kind.saturation}>"


@pytest.fixture(scope="module")
def ap_fixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that reads doubles and writes each of them in every type of CPP_KINDS."""
    import hls4ml

    headers = Path(hls4ml.__file__).parent / "templates" / "vivado" / "ap_types"
    folder = tmp_path_factory.mktemp("ap_fixed")
    casts = "\n".join(f'    std::printf("%a ", (double) {ap_type(kind)}(x));' for kind in CPP_KINDS)
    (folder / "cast.cpp").write_text(
        f'#include <cstdio>\n#include "ap_fixed.h"\nint main() {{\n  double x;\n'
        f'  while (std::scanf("%la", &x) == 1) {{\n{casts}\n    std::printf("\\n");\n  }}\n}}\n'
    )
    program = folder / "cast"
    subprocess.run(["g++", "-O1", f"-I{headers}", "cast.cpp", "-o", str(program)], cwd=folder, check=True)
    return program


def test_equals_the_real_ap_fixed(ap_fixed: Path) -> None:
    rng = np.random.default_rng(5)
    steps = np.concatenate(
        [rng.integers(-5000, 5000, 400) / 2**k for k in range(10)]
    )  # halves and ties of every grid
    numbers = np.concatenate([steps, rng.normal(size=2000) * 10.0 ** rng.integers(-3, 4, 2000), [0.0, -0.0]])
    text = "\n".join(float(x).hex() for x in numbers)
    result = subprocess.run([str(ap_fixed)], input=text, capture_output=True, text=True, check=True).stdout
    theirs = np.array([[float.fromhex(word) for word in line.split()] for line in result.splitlines()])
    ours = np.stack([kind.quantise(torch.from_numpy(numbers)).numpy() for kind in CPP_KINDS], axis=1)
    assert theirs.shape == ours.shape
    wrong = [
        ap_type(kind)
        for kind, a, b in zip(CPP_KINDS, ours.T, theirs.T, strict=True)
        if not np.array_equal(a, b)
    ]
    assert wrong == []
