import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.cgroups import Limits, parse_list, read_limits, write_list


@given(st.frozensets(st.integers(0, 300)))
def test_lists_there_and_back(numbers):
    assert parse_list(write_list(numbers)) == numbers


def test_nothing_to_read_limits_nothing(tmp_path):
    assert read_limits(tmp_path) == Limits(None, None, None)


@pytest.mark.parametrize(
    ("text", "cpus"), [("max 100000", None), ("50000 100000", 0.5), ("", None), ("1 0", None), ("a b", None)]
)
def test_quotas(tmp_path, text, cpus):
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text(text)
    assert read_limits(tmp_path).cpus == cpus
