import pytest

from hpctrain.errors import UserError
from hpctrain.files import read_json, write_atomically, write_json


def test_full_disk_leaves_the_old_file_and_one_clear_line(small_disk):
    path = small_disk / "record.bin"
    write_atomically(path, b"a" * 600_000)
    with pytest.raises(
        UserError, match=r"disk full while writing .*record.bin \(0.9 MB needed, 0.4 MB free\)"
    ):
        write_atomically(path, b"b" * 900_000)
    assert path.read_bytes() == b"a" * 600_000
    assert [p.name for p in small_disk.iterdir()] == ["record.bin"]


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_atomically(tmp_path / "file" / "x", b"")


def test_json_is_whole_or_refused(tmp_path):
    write_json(tmp_path / "a.json", {"φ": [1.5, None]})
    assert read_json(tmp_path / "a.json") == {"φ": [1.5, None]}
    assert read_json(tmp_path / "none.json") is None
    (tmp_path / "torn.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"torn\.json: not readable JSON"):
        read_json(tmp_path / "torn.json")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "nan.json", {"x": float("nan")})
