import pytest
import torch

from hpctrain.tuning import bf16
from hpctrain.tuning.bf16 import Bf16, flags, instructions


@pytest.mark.parametrize(
    ("line", "name"),
    [
        # Flags as lscpu prints them: Sapphire Rapids, Cooper Lake and Zen 4, Zen 3, Knights Landing; Neoverse V1.
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16 amx_tile amx_int8", "AMX"),
        ("flags\t\t: fpu avx2 avx512f avx512_bf16", "AVX-512 BF16"),
        ("flags\t\t: fpu avx2 fma sha_ni vaes", None),
        ("flags\t\t: fpu avx2 avx512f avx512pf avx512er avx512cd", None),
        ("Features\t: fp asimd evtstrm sve i8mm bf16 dgh", "Arm BF16"),
    ],
)
def test_flags_of_processors(tmp_path, line, name):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: x\n{line}\n\nprocessor\t: 1\n")
    assert instructions(flags(cpuinfo)) == name


def test_no_cpuinfo(tmp_path):
    assert flags(tmp_path / "none") == frozenset()


def test_what_is_measured_is_a_product_of_both_types(monkeypatch):
    seen = []
    product = torch.Tensor.__matmul__

    def watched(one, other):
        seen.append(one.dtype)
        return product(one, other)

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    found = bf16.measure(size=32, rounds=2)
    assert seen == [torch.float32, torch.bfloat16] * 3
    assert found.ratio > 0


def test_in_words():
    assert str(Bf16("AMX", 4.0)) == "bf16 by AMX: a matrix product is 4.0 times as fast as in float32"
    assert "without instructions for it" in str(Bf16(None, 0.5))
    assert "2.0 times as slow" in str(Bf16(None, 0.5))
    assert (Bf16("AMX", 4.0).pays, Bf16(None, 0.5).pays) == (True, False)
