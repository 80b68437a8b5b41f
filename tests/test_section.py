import pytest

from hpctrain.errors import UserError
from hpctrain.section import read_yaml


def test_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "demo.yaml").write_text("name: x")
    with pytest.raises(UserError, match=r"no configuration file .*did you mean 'demo.yaml'"):
        read_yaml(tmp_path / "dmo.yaml")


def test_binary_file_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot read"):
        read_yaml(tmp_path / "x.yaml")
