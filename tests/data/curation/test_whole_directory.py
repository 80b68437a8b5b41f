"""Where a directory may be written, and that it is there whole or not at all."""

import pytest

from hpctrain.data.curation.whole_directory import whole_directory
from hpctrain.errors import UserError


def fill(output):
    with whole_directory(output) as folder:
        (folder / "file").write_text("whole")


def test_a_link_is_followed(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "to empty").symlink_to("empty")
    (tmp_path / "to nothing yet").symlink_to(tmp_path / "scratch" / "new")
    for name, place in {"to empty": "empty", "to nothing yet": "scratch/new"}.items():
        fill(tmp_path / name)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / place / "file").read_text() == "whole"


def test_what_cannot_become_a_directory_is_told_before_anything_is_written(tmp_path, small_disk):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "dataset.json").write_text("{}")
    (tmp_path / "link").symlink_to("dataset")
    before = sorted(tmp_path.rglob("*"))
    for output, words in {
        tmp_path / "file": "exists and is no folder",
        tmp_path / "file" / "x": "cannot write",
        tmp_path / "loop": "is a link to itself",
        tmp_path / "dataset": "already holds a dataset",
        tmp_path / "dataset" / "new" / "deep": "lies in the dataset",
        tmp_path / "link" / "new": "lies in the dataset",
        tmp_path: "is not empty",
        small_disk: "is a mount point. Write into a new folder in it: ",
        tmp_path / ("x" * 300): "File name too long",
    }.items():
        with pytest.raises(UserError, match=words):
            fill(output)
    assert sorted(tmp_path.rglob("*")) == before


def test_after_an_error_there_is_nothing(tmp_path):
    def half():
        with whole_directory(tmp_path / "x" / "out") as folder:
            (folder / "file").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert not list((tmp_path / "x").iterdir())


def test_what_came_meanwhile_is_left_alone(tmp_path):
    def overtaken():
        with whole_directory(tmp_path / "out"):
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "file").write_text("another's")

    with pytest.raises(UserError, match="is not empty"):
        overtaken()
    assert [(p.name, p.read_text()) for p in (tmp_path / "out").iterdir()] == [("file", "another's")]
