import hashlib
import json
import os
import signal

import h5py
import numpy as np
import pytest

from hpctrain import registry
from hpctrain.convert import one_file
from hpctrain.convert.driver import convert, read_config
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError


def write(path, events, *, start=0, **more):
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(start, start + events, dtype=np.float32)
        file["w"] = np.full(events, 0.5) + np.arange(events) % 2
        for name, values in more.items():
            file[name] = values
    return path


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_every_row_says_where_it_comes_from(converted, tmp_path):
    inputs = [write(tmp_path / f"{name}.h5", n) for name, n in (("b", 70), ("a", 30))]
    dataset = converted("hdf5", *inputs, settings=("fields.x=x",), events_per_shard=40)
    assert dataset.column("source").tolist() == [0] * 70 + [1] * 30
    assert dataset.column("event_id").tolist() == [*range(70), *((1 << 32) + np.arange(30))]
    assert dataset.column("x").tolist() == [*range(70), *range(30)]
    assert dataset.column("weight").tolist() == [1.0] * 100
    assert "label" not in dataset.fields
    sources = dataset.provenance["sources"]
    assert [(s["name"], s["events_read"], s["rows_kept"]) for s in sources] == [
        ("b.h5", 70, 70),
        ("a.h5", 30, 30),
    ]
    assert sources[1]["sha256"] == hashlib.sha256(inputs[1].read_bytes()).hexdigest()
    assert sources[1]["bytes"] == inputs[1].stat().st_size
    versions = dataset.provenance["converter"]["versions"]
    assert versions["h5py"] == h5py.__version__
    assert dataset.provenance["converter"]["settings"]["fields"]["x"]["dataset"] == "x"


def test_label_weight_and_process_follow_the_file_names(converted, tmp_path):
    inputs = [write(tmp_path / f"{name}.h5", 4) for name in ("ttbar_1", "qcd", "ttbar_2")]
    with h5py.File(inputs[1], "a") as file:
        file["x"][0] = 17  # other bytes than its neighbours
    with h5py.File(inputs[2], "a") as file:
        file["x"][0] = 18
    settings = (
        "fields.x=x",
        "label={'*ttbar*': 1, '*qcd*': 0}",
        "weight={'*ttbar*': {cross_section_pb: 2, luminosity_fb: 3, branch: w}, '*qcd*': 7}",
    )
    dataset = converted("hdf5", *inputs, settings=settings)
    rows = dataset.read_range(0, 12)
    assert rows["label"].tolist() == [1] * 4 + [0] * 4 + [1] * 4
    assert rows["process"].tolist() == [0] * 4 + [1] * 4 + [0] * 4
    # 2 pb x 3/fb is 6000 events, shared out by w = 0.5, 1.5, 0.5, 1.5 of both files together: sum 8.
    assert rows["weight"].tolist() == [375.0, 1125.0, 375.0, 1125.0, 7, 7, 7, 7, 375.0, 1125.0, 375.0, 1125.0]
    assert rows["weight"][rows["label"] == 1].sum() == pytest.approx(6000)
    ttbar, qcd = dataset.provenance["processes"]
    assert (ttbar["name"], ttbar["signal"], ttbar["generated"], ttbar["sum_of_weights"]) == (
        "ttbar",
        True,
        8,
        8.0,
    )
    assert ttbar["cross_section_mb"] == pytest.approx(2e-9)
    assert (qcd["name"], qcd["signal"], qcd["files"], qcd["split_fraction"]) == (
        "qcd",
        False,
        ["qcd.h5"],
        1.0,
    )
    assert dataset.provenance["luminosity_fb"] == 3


def test_a_given_sum_of_weights_is_not_read(converted, tmp_path, monkeypatch):
    path = write(tmp_path / "a.h5", 4)
    owner = registry.find("converters", "hdf5")
    monkeypatch.setattr(owner, "scalar", lambda *_: pytest.fail("the files are read once more"))
    weight = "weight={cross_section_pb: 1, luminosity_fb: 1, sum_of_weights: 50}"
    assert converted("hdf5", path, settings=("fields.x=x", weight)).column("weight").tolist() == [20.0] * 4


def test_the_dataset_is_the_same_for_any_number_of_workers(tmp_path):
    inputs = [write(tmp_path / f"{i}.h5", 50 + i, start=i) for i in range(3)]
    for number, path in enumerate(inputs):
        with h5py.File(path, "a") as file:
            file["image"] = np.random.default_rng(number).random((50 + number, 4, 4))
    config = read_config(
        "hdf5", ["fields.x=x", "fields.image={dataset: image, form: sparse}", "label=1", "batch=7"]
    )
    for workers in (1, 2):
        convert(config, inputs, tmp_path / f"out-{workers}", events_per_shard=64, workers=workers)
    assert digests(tmp_path / "out-1") == digests(tmp_path / "out-2")
    assert sorted(p.name for p in (tmp_path / "out-2").iterdir()) == [
        "dataset.json", "shard-00000.h5", "shard-00001.h5", "shard-00002.h5",
    ]  # fmt: skip


def test_an_error_in_a_worker_reaches_the_user(tmp_path):
    inputs = [write(tmp_path / "a.h5", 5), write(tmp_path / "b.h5", 5, start=1)]
    with h5py.File(inputs[1], "a") as file:
        file["x"][3] = np.nan
    with pytest.raises(UserError, match=r"b\.h5: dataset 'x' has NaN or infinity in event 3"):
        convert(read_config("hdf5", ["fields.x=x"]), inputs, tmp_path / "out", workers=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "b.h5"]


def test_progress_is_heard_to_the_end(tmp_path):
    inputs = [write(tmp_path / f"{i}.h5", 10, start=i) for i in range(2)]
    heard = []
    settings = ["fields.x=x", "batch=5"]
    convert(
        read_config("hdf5", settings), inputs, tmp_path / "out", progress=lambda *seen: heard.append(seen)
    )
    total = sum(path.stat().st_size for path in inputs)
    assert [events for _, _, events in heard] == [5, 10, 15, 20]
    assert [done for done, _, _ in heard] == sorted(done for done, _, _ in heard)
    assert heard[-1][:2] == (total, total)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: [d / "none.h5"], r"cannot read .*none\.h5: No such file"),
        (lambda d: [d / "*.root"], r"cannot read .*\*\.root: No such file.*No file fits this pattern"),
        (lambda d: [d], r"is a folder\. Name the files in it"),
        (lambda d: [], r"no input files"),
        (lambda d: [(d / "empty.h5").touch() or d / "empty.h5"], r"empty\.h5 is empty \(0 bytes\)"),
        (lambda d: [write(d / "a.h5", 3)] * 2, r"a\.h5 is given 2 times"),
        (lambda d: [write(d / "a.h5", 0)], r"a\.h5 holds no events\. Leave it out"),
        (
            lambda d: [write(d / "a.h5", 3), write(d / "b.h5", 3)],
            r"b\.h5 has the same bytes as .*a\.h5\. Its events would count twice",
        ),
    ],
)
def test_inputs_that_cannot_be_taken(converted, tmp_path, make, message):
    with pytest.raises(UserError, match=message):
        converted("hdf5", *make(tmp_path), settings=("fields.x=x",))
    assert not [p for p in tmp_path.iterdir() if not p.name.endswith(".h5")]


def test_files_of_other_content_are_told_apart(converted, tmp_path):
    first = write(tmp_path / "a.h5", 3, y=np.ones((3, 4)))
    second = write(tmp_path / "b.h5", 3, y=np.ones((3, 5)))
    with pytest.raises(
        UserError, match=r"b\.h5: field 'y' is dense float64\[5\], in .*a\.h5 it is dense float64\[4\]"
    ):
        converted("hdf5", first, second, settings=("fields={x: x, y: y}",))
    with pytest.raises(UserError, match=r"no dataset 'y'"):
        converted("hdf5", first, write(tmp_path / "c.h5", 3), settings=("fields={x: x, y: y}",))


def test_a_dataset_that_is_there_is_not_overwritten(tmp_path):
    path, output = write(tmp_path / "a.h5", 3), tmp_path / "out"
    config = read_config("hdf5", ["fields.x=x"])
    convert(config, [path], output)
    before = digests(output)
    with pytest.raises(UserError, match=r"out already holds a dataset\. Delete it or write elsewhere"):
        convert(config, [path], output)
    assert digests(output) == before


def test_a_full_disk_leaves_nothing_behind(small_disk, tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.random.default_rng(0).random((400, 1000))
    with pytest.raises(UserError, match="disk full while writing"):
        convert(read_config("hdf5"), [path], small_disk / "out", shard_bytes=2**18)
    assert list(small_disk.iterdir()) == []


def test_a_file_that_changes_meanwhile_is_noticed(converted, tmp_path, monkeypatch):
    path = write(tmp_path / "a.h5", 3)
    digest = one_file.sha256_of

    def touched(file):
        found = digest(file)
        os.utime(file, ns=(1, 1))
        return found

    monkeypatch.setattr(one_file, "sha256_of", touched)
    with pytest.raises(UserError, match=r"a\.h5 changed while it was read"):
        converted("hdf5", path, settings=("fields.x=x",))


def test_a_worker_that_is_killed_is_reported(tmp_path, monkeypatch):
    inputs = [write(tmp_path / f"{i}.h5", 5, start=i) for i in range(2)]
    plugin = tmp_path / "killed_worker.py"
    plugin.write_text(
        "import os, signal\n"
        "from hpctrain.convert.hdf5 import Hdf5\n"
        "class Killed(Hdf5):\n"
        "    class Config(Hdf5.Config):\n"
        "        def build(self, *args, **kw):\n"
        "            return Killed(self)\n"
        "    def pieces(self, *args):\n"
        f"        if os.getpid() != {os.getpid()}:\n"
        f"            os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
        "        return super().pieces(*args)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    import killed_worker

    with pytest.raises(UserError, match=r"a process that converted it or a neighbour died.*dmesg"):
        convert(killed_worker.Killed.Config(fields={"x": "x"}), inputs, tmp_path / "out", workers=2)
    assert not (tmp_path / "out").exists()


def test_nan_in_a_weight_is_refused_or_dropped(converted, tmp_path):
    path = write(tmp_path / "a.h5", 4)
    with h5py.File(path, "a") as file:
        file["w"][2] = np.inf
    settings = ("fields.x=x", "weight=w")
    with pytest.raises(UserError, match=r"dataset w has NaN or infinity in event 2"):
        converted("hdf5", path, settings=settings)
    dataset = converted("hdf5", path, settings=(*settings, "non_finite=drop"))
    assert dataset.column("x").tolist() == [0, 1, 3]
    assert dataset.provenance["events_not_finite"] == 1


def test_weights_that_add_up_to_nothing_cannot_be_scaled(converted, tmp_path):
    path = write(tmp_path / "a.h5", 4, zero=np.array([1.0, -1.0, 1.0, -1.0]))
    weight = "weight={cross_section_pb: 1, luminosity_fb: 1, branch: zero}"
    with pytest.raises(UserError, match=r"weight of all: the generator weights add up to 0"):
        converted("hdf5", path, settings=("fields.x=x", weight))


def test_one_luminosity_a_dataset(converted, tmp_path):
    inputs = [write(tmp_path / f"{name}.h5", 4, start=i) for i, name in enumerate("ab")]
    weights = ", ".join(
        f"'{n}.h5': {{cross_section_pb: 1, luminosity_fb: {i + 1}}}" for i, n in enumerate("ab")
    )
    with pytest.raises(UserError, match=r"different luminosities: 1, 2 1/fb"):
        converted("hdf5", *inputs, settings=("fields.x=x", f"weight={{{weights}}}"))


def test_a_wrong_kind_or_key_names_the_right_one():
    with pytest.raises(UserError, match=r"unknown converters kind 'delfes'\. did you mean 'delphes'\?"):
        read_config("delfes")
    with pytest.raises(UserError, match=r"hdf5: unknown key 'batsh'; did you mean 'batch'\?"):
        read_config("hdf5", ["batsh=3"])


def test_the_provenance_is_plain_json(converted, tmp_path):
    dataset = converted("hdf5", write(tmp_path / "a.h5", 3), settings=("fields.x=x",))
    assert json.loads(json.dumps(dataset.provenance)) == dataset.provenance
    assert ShardDataset.open(dataset.directory).events == 3
