import hashlib
import pickle
import subprocess

import pytest
import torch

from hpctrain.errors import UserError
from hpctrain.training.checkpoint import Checkpoints, load


def state(value):
    return {"model": {"weight": torch.full((3, 2), float(value))}, "step": value, "position": {"epoch": 0}}


def test_what_is_saved_is_loaded(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(7), 7)
    got = checkpoints.latest()
    assert got["step"] == 7
    assert torch.equal(got["model"]["weight"], torch.full((3, 2), 7.0))


def test_the_last_few_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in range(1, 6):
        checkpoints.save(state(step), step, best=step == 2)
    assert sorted(p.name for p in tmp_path.glob("*.pt")) == [
        "best.pt",
        "step-00000004.pt",
        "step-00000005.pt",
    ]
    assert checkpoints.best()["step"] == 2
    assert checkpoints.latest()["step"] == 5


def test_the_checksum_file_is_what_sha256sum_reads(tmp_path):
    Checkpoints(tmp_path).save(state(1), 1, best=True)
    subprocess.run(["sha256sum", "-c", "step-00000001.pt.sha256", "best.pt.sha256"], cwd=tmp_path, check=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(path.read_bytes()[:200] + b"\0" + path.read_bytes()[201:]),
        lambda path: path.with_name(path.name + ".sha256").unlink(),
    ],
    ids=["torn", "flipped byte", "killed before the checksum"],
)
def test_a_damaged_newest_falls_back_to_the_one_before_and_says_so(tmp_path, damage):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1), 1)
    damage(checkpoints.save(state(2), 2))
    warnings = []
    assert checkpoints.latest(warnings.append)["step"] == 1
    assert len(warnings) == 1
    assert "step-00000002.pt" in warnings[0]


def test_none_is_none(tmp_path):
    assert Checkpoints(tmp_path / "nowhere").latest() is None
    with pytest.raises(UserError, match="no best checkpoint"):
        Checkpoints(tmp_path).best()


@pytest.mark.parametrize(
    "write", [lambda o, p: torch.save(o, p), lambda o, p: p.write_bytes(pickle.dumps(o, 2))]
)
def test_code_in_a_checkpoint_is_never_run(tmp_path, write):
    path = tmp_path / "step-00000001.pt"
    marker = tmp_path / "marker"
    hostile = type("Hostile", (), {"__reduce__": lambda self: (exec, (f"open({str(marker)!r}, 'w')",))})()
    write({"model": hostile}, path)
    path.with_name(path.name + ".sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(UserError, match="not loaded"):
        load(path)
    assert not marker.exists()


def test_full_disk_keeps_what_was_there(small_disk):
    checkpoints = Checkpoints(small_disk, keep=5)
    checkpoints.save(state(1), 1, best=True)
    big = {"model": {"weight": torch.zeros(400_000)}, "step": 2}
    with pytest.raises(UserError, match="disk full while writing"):
        checkpoints.save(big, 2, best=True)
    assert checkpoints.latest()["step"] == 1
    assert checkpoints.best()["step"] == 1
