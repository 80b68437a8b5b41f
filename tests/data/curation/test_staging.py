"""Shards copied to node-local storage, and what goes wrong on the way. The same tests on one rank and on N."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from hpctrain.config import Experiment
from hpctrain.data.curation import shard_copy
from hpctrain.data.curation.staging import folders, stage, staged
from hpctrain.data.shard_file import same_file
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError
from hpctrain.parallel.communicator import SingleCommunicator
from hpctrain.steps import fingerprint
from hpctrain.track import read_metrics

ALONE = SingleCommunicator()


@pytest.fixture
def place(tmp_path, world) -> Path:
    """A folder that is the same on all ranks."""
    return Path(world.gather(str(tmp_path))[0])


@pytest.fixture
def source(place, world, write_toy) -> Path:
    """Ten shards on a disk that is far away, and a folder near by."""
    if world.rank == 0:
        write_toy(place / "far" / "train", 600)
        (place / "near").mkdir()
    world.barrier()
    return place / "far" / "train"


def whole(copy: Path, source: Path) -> bool:
    """Whether the copy is the dataset, byte for byte, with nothing else in it but the lock."""
    info = ShardDataset.open(copy).info
    wanted = {shard.file for shard in info.shards} | {"dataset.json"}
    return (
        (copy / "dataset.json").read_bytes() == (source / "dataset.json").read_bytes()
        and all(same_file(copy / shard.file, shard) for shard in info.shards)
        and {path.name for path in copy.iterdir()} == wanted | {".lock"}
    )


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """What tells whether a shard was written again."""
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.glob("*.h5")}


def flip(path: Path) -> bytes:
    """Damage a file; returns what it was."""
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    return content


@pytest.mark.mpi
def test_one_rank_of_those_that_see_a_folder_copies(source, place, world):
    steps = []
    copy = stage(source, [str(place / "near")], world, lambda done, total: steps.append((done, total)))
    assert whole(copy, source)
    assert copy.parent == place / "near"
    told = [rank for rank in world.gather(steps) if rank]
    assert len(told) == 1, "one rank copies"
    assert [done for done, _ in told[0]] == sorted(done for done, _ in told[0])
    size = sum(shard.bytes for shard in ShardDataset.open(source).info.shards)
    assert told[0][-1] == (size, size)
    before = files(copy)
    assert stage(source, [str(place / "near")], world) == copy
    assert files(copy) == before, "what is there was copied again"


@pytest.mark.mpi
def test_nodes_that_do_not_see_each_other_copy_each(source, place, world, monkeypatch):
    """As $TMPDIR is another folder on every node."""
    near = place / f"node{world.rank // 2}"
    near.mkdir(exist_ok=True)
    monkeypatch.setenv("NODE_DISK", str(near))
    steps = []
    copy = stage(source, ["$UNSET_ANYWHERE/x", "${NODE_DISK}"], world, lambda *_: steps.append(1))
    assert copy.parent == near
    assert whole(copy, source)
    assert world.gather(bool(steps)) == [rank % 2 == 0 for rank in range(world.size)]


@pytest.mark.mpi
def test_a_node_without_room_ends_all_with_the_numbers(source, place, world, monkeypatch, request):
    """The last rank has a disk of 1 MB, the others have room."""
    last = world.rank == world.size - 1
    near = request.getfixturevalue("small_disk") if last else place / "near"
    if last:
        (near / "filler").write_bytes(b"x" * 700_000)
    monkeypatch.setenv("NODE_DISK", str(near))
    with pytest.raises(UserError) as error:
        stage(source, ["$NODE_DISK"], world)
    disk = world.gather(str(near))[-1]
    assert f"staging {source} needs 0.5 MB, {disk} on " in str(error.value)
    assert re.search(r"has 0\.3 MB free\. Free space there", str(error.value))
    assert len(set(world.gather(str(error.value)))) == 1
    if not last:
        assert whole(stage(source, ["$NODE_DISK"], ALONE), source), "others keep what they copied"
    world.barrier()


@pytest.mark.mpi
def test_a_damaged_source_is_refused_on_all_and_nothing_of_it_stays(source, place, world):
    shard = source / "shard-00004.h5"
    if world.rank == 0:
        flip(shard)
    world.barrier()
    with pytest.raises(
        UserError, match=r"far/train/shard-00004.h5 is not what was written: its SHA-256 differs"
    ):
        stage(source, [str(place / "near")], world)
    (copy,) = (place / "near").iterdir()
    assert not (copy / "shard-00004.h5").exists()
    assert not (copy / "dataset.json").exists(), "a folder with a dataset.json is whole"
    assert not list(copy.glob(".*.part"))


def test_a_source_shard_that_is_cut_or_missing_is_refused_before_copying(source, place):
    content = (source / "shard-00007.h5").read_bytes()
    (source / "shard-00007.h5").write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"shard-00007.h5 is not what was written"):
        stage(source, [str(place / "near")], ALONE)
    (source / "shard-00007.h5").unlink()
    with pytest.raises(UserError, match=r"shard-00007.h5 is missing"):
        stage(source, [str(place / "near")], ALONE)
    assert not list((place / "near").iterdir())


def test_the_first_folder_that_can_be_used(source, place, small_disk, monkeypatch):
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("NEAR", str(place / "near"))
    (place / "a file").write_text("")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    useless = [
        "$SLURM_TMPDIR",
        "${EMPTY}/tmp",
        str(place / "nowhere"),
        str(place / "a file"),
        str(small_disk),
    ]
    copy = stage(source, [*useless, "$NEAR", str(place)], ALONE)
    assert copy.parent == place / "near"
    with pytest.raises(UserError) as error:
        stage(source, useless, ALONE)
    for words in (
        f"no folder to stage {source} to on ",
        "$SLURM_TMPDIR (SLURM_TMPDIR is not set), ${EMPTY}/tmp (EMPTY is not set)",
        f"{place / 'nowhere'} ({place / 'nowhere'} is not a folder)",
        f"{place / 'a file'} is not a folder",
        f"{small_disk}: Read-only file system",
    ):
        assert words in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="none is named"):
        stage(source, [], ALONE)


def test_datasets_never_mix(source, place, write_toy):
    other = write_toy(place / "elsewhere" / "train", 600, seed=1)
    one, two = (stage(path, [str(place / "near")], ALONE) for path in (source, other))
    assert one != two
    assert whole(one, source)
    assert whole(two, other)


def test_what_is_damaged_missing_or_left_over_there_is_mended(source, place):
    copy = stage(source, [str(place / "near")], ALONE)
    before = files(copy)
    flip(copy / "shard-00002.h5")
    (copy / "shard-00005.h5").unlink()
    (copy / "dataset.json").write_text("{}")
    left = copy / f".shard-00005.h5.{os.uname().nodename}.1.part"
    left.write_bytes(b"half")
    assert stage(source, [str(place / "near")], ALONE) == copy
    assert whole(copy, source)
    again = {name for name, what in files(copy).items() if what != before[name]}
    assert again == {"shard-00002.h5", "shard-00005.h5"}


def test_room_is_needed_only_for_what_is_missing(source, small_disk, write_toy, tmp_path):
    small = write_toy(tmp_path / "small", 1000)
    copy = stage(small, [str(small_disk)], ALONE)
    size = sum(shard.bytes for shard in ShardDataset.open(small).info.shards)
    assert size > 1_048_576 / 2, "it does not fit twice"
    flip(copy / "shard-00001.h5")
    assert whole(stage(small, [str(small_disk)], ALONE), small)
    with pytest.raises(UserError, match=r"needs 0\.5 MB, .* has 0\.[23] MB free"):
        stage(source, [str(small_disk)], ALONE)


def test_a_disk_that_fills_up_meanwhile(tmp_path, small_disk, write_toy):
    small = write_toy(tmp_path / "small", 300)

    def fill(done: int, total: int) -> None:
        if done > total / 3 and not (small_disk / "filler").exists():
            with (small_disk / "filler").open("wb", 0) as stream, contextlib.suppress(OSError):
                while stream.write(b"x" * 4096):
                    pass

    with pytest.raises(UserError, match=r"disk full while writing .*shard-0000\d.h5"):
        stage(small, [str(small_disk)], ALONE, fill)
    (copy,) = small_disk.glob("hpctrain-*")
    assert not (copy / "dataset.json").exists()
    assert not list(copy.glob(".*.part"))
    before = files(copy)
    assert before, "what was copied is lost"
    (small_disk / "filler").unlink()
    assert whole(stage(small, [str(small_disk)], ALONE), small)
    assert {name: files(copy)[name] for name in before} == before


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Writes a site of the user's own, called ``here``."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "config" / "hpctrain" / "sites"
    folder.mkdir(parents=True)

    def write(*node_local: object) -> None:
        folders = ", ".join(f"'{each}'" for each in node_local)
        (folder / "here.yaml").write_text(f"name: here\nnode_local: [{folders}]\n")

    return write


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["data.stage=[$A, /b]"], ("$A", "/b")),
        (["data.stage=$A"], ("$A",)),
        (["data.stage=site"], ("$NODE", "/local")),
        (["data.stage=[$A, site, /b]"], ("$A", "$NODE", "/local", "/b")),
        (["data.stage=./site"], ("./site",)),
        (["data.stage=site", "site=laptop"], ()),
        ([], ()),
    ],
)
def test_the_word_site_stands_for_what_the_site_has(site, settings, expected):
    site("$NODE", "/local")
    experiment = Experiment.from_mapping({"name": "x", "site": "here"}, settings)
    assert folders(experiment) == expected
    assert folders(Experiment.from_mapping(yaml.safe_load(experiment.to_yaml()))) == expected


def test_a_site_that_is_not_there_or_not_named_is_told(site):
    site("/local")
    with pytest.raises(
        UserError, match=r"no site is named. Give site=NAME \(cori-knl, generic-cpu, here, laptop, perl"
    ):
        folders(Experiment.from_mapping({"name": "x", "data": {"stage": "site"}}))
    with pytest.raises(UserError, match=r"unknown site 'her'. did you mean 'here'"):
        folders(Experiment.from_mapping({"name": "x", "site": "her"}))


@pytest.mark.mpi
def test_a_run_says_where_its_shards_are_and_how_far_the_copy_is(place, world, toy_run, site, monkeypatch):
    (place / "node").mkdir(exist_ok=True)
    if world.rank == 0:  # alone reads the file
        site(place / "node")
    run = toy_run("x", "data.stage=site", "site=here")
    run.path = Path(world.gather(str(run.path))[0])
    world.barrier()
    shown = []
    with run.tracker("train", active=world.rank == 0) as tracker:
        monkeypatch.setattr(tracker, "progress", lambda *values: shown.append(values))
        copy = staged(run, "train", world, tracker)
    assert copy.parent == place / "node"
    assert world.gather(bool(shown)) == [True] + [False] * (world.size - 1), "one rank of the node copies"
    if world.rank == 0:
        (line,) = read_metrics(run.metrics_path)
        assert (line["event"], line["split"], line["directory"]) == ("staged", "train", str(copy))
        size = sum(shard.bytes for shard in ShardDataset.open(run.data / "train").info.shards)
        assert shown[-1] == (round(size / 1e6, 1), round(size / 1e6, 1), "MB of train staged")


def test_a_site_without_folders_reads_where_they_are_and_says_so(toy_run):
    run = toy_run("x", "data.stage=site", "site=perlmutter-cpu")
    with run.tracker("train") as tracker:
        assert staged(run, "train", ALONE, tracker) == run.data / "train"
    (line,) = read_metrics(run.metrics_path)
    assert line["event"] == "warning"
    assert "perlmutter-cpu has no node-local folder" in line["text"]


def test_another_site_is_no_other_training(toy_run):
    """Where it runs, and where its bytes are copied to, is nothing that results follow from."""
    run = toy_run("x", "site=laptop")
    moved = run.experiment.model_copy(
        update={"site": "cori-knl", "data": run.experiment.data.model_copy(update={"stage": ("site",)})}
    )
    assert fingerprint("train", moved, run) == fingerprint("train", run.experiment, run)


KILLED = """
import os, signal, sys
from pathlib import Path
from hpctrain.data.curation import shard_copy, staging
from hpctrain.parallel.communicator import SingleCommunicator

shard_copy.COPY_BYTES = 4096

def die(done, total):
    if done > total / 2:
        os.kill(os.getpid(), signal.SIGKILL)

staging.stage(Path(sys.argv[1]), [sys.argv[2]], SingleCommunicator(), die)
"""


def test_killed_while_copying_and_gone_on_with(source, place):
    result = subprocess.run([sys.executable, "-c", KILLED, source, place / "near"], check=False, timeout=60)
    assert result.returncode == -signal.SIGKILL
    (copy,) = (place / "near").iterdir()
    info = ShardDataset.open(source).info
    assert not (copy / "dataset.json").exists()
    assert list(copy.glob(".*.part")), "it was killed between two shards"
    before = files(copy)
    assert 2 < len(before) < len(info.shards)
    assert all(same_file(copy / s.file, s) for s in info.shards if s.file in before), (
        "half a shard under its name"
    )
    assert stage(source, [str(place / "near")], ALONE) == copy
    assert whole(copy, source)
    assert {name: files(copy)[name] for name in before} == before, "what was whole was copied again"


TWICE = """
import sys
from pathlib import Path
from hpctrain.data.curation import staging
from hpctrain.parallel.communicator import SingleCommunicator

seen = []
print(staging.stage(Path(sys.argv[1]), [sys.argv[2]], SingleCommunicator(), lambda *_: seen.append(1)))
"""


def test_two_jobs_at_once(source, place, monkeypatch):
    """The second comes while the first is in the middle of copying; it waits, then copies nothing."""
    second = []

    def meet(done: int, total: int) -> None:
        if done > total / 3 and not second:
            command = [sys.executable, "-c", TWICE, source, place / "near"]
            second.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            deadline = time.monotonic() + 60
            while not _waits(second[0].pid):
                assert time.monotonic() < deadline
                time.sleep(0.02)

    copy = stage(source, [str(place / "near")], ALONE, meet)
    before = files(copy)
    assert whole(copy, source)
    output, _ = second[0].communicate(timeout=60)
    assert second[0].returncode == 0
    assert output.strip() == str(copy)
    assert whole(copy, source)
    assert files(copy) == before


def _waits(process: int) -> bool:
    """Whether a process has the lock file open."""
    try:
        return any(str(file.readlink()).endswith("/.lock") for file in Path(f"/proc/{process}/fd").iterdir())
    except OSError:
        return False


def test_without_locks_two_jobs_copy_the_same_twice(source, place, monkeypatch):
    monkeypatch.setattr(shard_copy.fcntl, "flock", _no_locks)
    copies = []
    threads = [
        threading.Thread(target=lambda: copies.append(stage(source, [str(place / "near")], ALONE)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(copies) == 2
    assert whole(copies[0], source)


def _no_locks(*_: object) -> None:
    raise OSError(38, "Function not implemented")


def test_giving_up_stops_the_copy(source, place, monkeypatch):
    """Ctrl-C, or another rank that died: the thread does not go on behind the error."""
    monkeypatch.setattr(shard_copy, "COPY_BYTES", 4096)
    with monkeypatch.context() as patch:
        patch.setattr("hpctrain.data.curation.staging.time.sleep", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            stage(source, [str(place / "near")], ALONE, lambda *_: _pause(0.01))
    assert not [t for t in threading.enumerate() if t.name.startswith("staging")]
    (copy,) = (place / "near").iterdir()
    assert not (copy / "dataset.json").exists()
    assert whole(stage(source, [str(place / "near")], ALONE), source)


_pause = time.sleep


def _interrupt(_: float) -> None:
    raise KeyboardInterrupt
