import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpctrain.data.columns import Columns, SparseRows
from hpctrain.data.curation.image_scale import ImageScale
from hpctrain.data.schema import DenseField
from hpctrain.data.shard_file import read_shard, write_shard
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError
from hpctrain.ingest.assemble import Sample, divide, write_splits
from hpctrain.ingest.division import SPLITS
from hpctrain.ingest.parts import Part
from hpctrain.ingest.simulate import part_fields
from hpctrain.physics.generator import CrossSection
from hpctrain.physics.processes import find_process

FRACTIONS = {"train": 0.6, "validation": 0.15, "test": 0.25}
BINS = 8


def _part(folder: Path, name: str, index: int, preselected: int, generated: int, mb: float = 1e-9) -> Part:
    """A part of made-up events, told apart by event_id, jets and image."""
    rng = np.random.default_rng(index)
    shape = (max(preselected, 1), 3, BINS, BINS)
    images = rng.exponential(1.0, shape) * (rng.random(shape) < 0.1)
    cells = SparseRows.from_dense(images.astype(np.float32))
    columns: dict[str, Any] = {
        "image": cells.take(np.arange(preselected)),
        "jets": rng.random((preselected, 5, 4)).astype(np.float32),
        "n_jets": rng.integers(3, 9, preselected),
        "sum_mass": rng.random(preselected).astype(np.float32),
        "delta_eta": rng.random(preselected).astype(np.float32),
        "selected": (rng.random(preselected) < 0.3).astype(np.uint8),
        "event_id": (index << 32) + np.arange(preselected),
    }
    shard = write_shard(folder / f"{name}-{index}.h5", part_fields(BINS), columns)
    return Part(
        file=shard.file, fingerprint="", generated=generated, preselected=preselected,
        selected=int(columns["selected"].sum()), cross_section=CrossSection(mb, 0.1 * mb, 100 * generated),
        wall_s=1.0, peak_memory_bytes=1, shard=shard,
    )  # fmt: skip


def _samples(folder: Path, **counts: list[int]) -> list[Sample]:
    """Samples with parts of the given preselected counts; ten times as many were generated."""
    samples, index = [], 0
    for name, sizes in counts.items():
        parts = []
        for size in sizes:
            parts.append(_part(folder, name, index, size, 10 * size + 1))
            index += 1
        samples.append(Sample(find_process(name), tuple(parts)))
    return samples


def _write(folder: Path, samples: list[Sample], **changed: Any) -> dict[str, ShardDataset]:
    parts = folder / "parts"
    settings: dict[str, Any] = {
        "data": folder / "data", "parts": parts, "fractions": FRACTIONS, "luminosity_fb": 36.0, "seed": 4,
        "fields": part_fields(BINS), "scale": ImageScale(part_fields(BINS)), "provenance": {"label": "made up"}, "events_per_shard": 64,
    }  # fmt: skip
    settings.update(changed)
    write_splits(samples, **settings)
    return {split: ShardDataset.open(settings["data"] / split) for split in SPLITS}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    return tmp_path


def test_every_event_goes_to_one_split_whole(folder: Path) -> None:
    samples = _samples(folder / "parts", rpv_gluino=[50, 30], jz4=[40], jz5=[70, 0, 33])
    splits = _write(folder, samples)
    ids = np.concatenate([d.column("event_id") for d in splits.values()])
    expected = np.concatenate([(i << 32) + np.arange(n) for i, n in enumerate([50, 30, 40, 70, 0, 33])])
    assert np.array_equal(np.sort(ids), expected)
    # A row is still the event it was: compare image and jets with the part.
    (only,) = samples[1].parts
    part = read_shard(folder / "parts" / only.file, part_fields(BINS), only.shard)
    for dataset in splits.values():
        ids = dataset.column("event_id")
        mine = np.flatnonzero(ids >> 32 == 2)
        source = ids[mine] & 0xFFFFFFFF
        rows = dataset.read(mine)
        shape = (3, BINS, BINS)
        assert np.array_equal(rows["image"].dense(shape), part["image"].take(source).dense(shape))
        assert np.array_equal(rows["jets"], part["jets"][source])
        assert np.array_equal(rows["selected"], part["selected"][source])
        assert set(rows["label"]) == {0}
        assert set(rows["process"]) == {1}


def test_each_process_is_divided_by_the_fractions(folder: Path) -> None:
    splits = _write(folder, _samples(folder / "parts", rpv_gluino=[100], jz4=[20], jz5=[200]))
    for split, dataset in splits.items():
        counts = np.bincount(dataset.column("process"), minlength=3)
        assert counts == pytest.approx(np.array([100, 20, 200]) * FRACTIONS[split])
        for entry, n in zip(dataset.provenance["processes"], counts, strict=True):
            assert entry["in_split"] == n
            assert entry["split_fraction"] == pytest.approx(FRACTIONS[split])


def test_weights_divided_by_the_split_fraction_are_expected_events_in_every_split(folder: Path) -> None:
    """σ·L·ε: cross section 1e-9 mb, 36/fb, 37 of 371 events preselected; however the 37 are divided."""
    splits = _write(folder, _samples(folder / "parts", rpv_gluino=[37], jz5=[23]))
    for dataset in splits.values():
        fractions = np.array([p["split_fraction"] for p in dataset.provenance["processes"]])
        process, weight = dataset.column("process"), dataset.column("weight")
        total = np.bincount(process, weights=weight / fractions[process])
        assert total == pytest.approx([1e3 * 36 * 37 / 371, 1e3 * 36 * 23 / 231])


def test_processes_are_mixed_in_every_shard(folder: Path) -> None:
    train = _write(folder, _samples(folder / "parts", rpv_gluino=[200], jz5=[200]))["train"]
    label = train.column("label")
    assert len(train.info.shards) == 4  # 240 events, 64 each
    for start in range(0, 192, 64):
        assert 0.3 < label[start : start + 64].mean() < 0.7
    ids = train.column("event_id")
    assert not np.array_equal(ids, np.sort(ids))


def test_more_events_of_one_process_leave_the_others_where_they_were(folder: Path) -> None:
    one = _samples(folder / "parts", rpv_gluino=[80], jz5=[60])
    more = [one[0], Sample(one[1].process, (one[1].parts[0], one[1].parts[0]))]
    rows = np.arange(80)
    first, with_more, other = (
        divide(samples, FRACTIONS, seed)[0].of(rows)[0] for samples, seed in ((one, 4), (more, 4), (one, 5))
    )
    assert np.array_equal(first, with_more)
    assert not np.array_equal(first, other)


def test_scale_comes_from_the_train_split_and_is_the_same_in_all(folder: Path) -> None:
    splits = _write(folder, _samples(folder / "parts", rpv_gluino=[60], jz5=[60]))
    train = splits["train"]
    images = train.column("image").dense((3, BINS, BINS))
    for dataset in splits.values():
        assert dataset.scale["image_max"] == pytest.approx(images.max(axis=(0, 2, 3)))
        means = [images[:, c][images[:, c] > 0].mean() for c in range(3)]
        assert dataset.scale["image_mean_nonzero"] == pytest.approx(means, rel=1e-5)


def test_a_slice_without_events_is_kept_in_the_record(folder: Path) -> None:
    splits = _write(folder, _samples(folder / "parts", rpv_gluino=[40], jz4=[0], jz5=[40]))
    entry = splits["test"].provenance["processes"][1]
    assert (entry["name"], entry["preselected"], entry["in_split"], entry["split_fraction"]) == (
        "jz4",
        0,
        0,
        0.0,
    )
    assert set(splits["test"].column("process")) == {0, 2}


@pytest.mark.parametrize(("signal", "background", "missing"), [(2, 40, "signal"), (40, 0, "background")])
def test_a_class_missing_in_a_split_is_a_user_error(
    folder: Path, signal: int, background: int, missing: str
) -> None:
    samples = _samples(folder / "parts", rpv_gluino=[signal], jz5=[background])
    with pytest.raises(UserError, match=f"no {missing} event for the"):
        _write(folder, samples)
    assert not list((folder / "data").glob("*/dataset.json"))


def test_old_splits_are_replaced_whole(folder: Path) -> None:
    _write(folder, _samples(folder / "parts", rpv_gluino=[400], jz5=[400]))
    shards = sorted(p.name for p in (folder / "data" / "train").iterdir())
    splits = _write(folder, _samples(folder / "parts", rpv_gluino=[40], jz5=[40]))
    assert splits["train"].events == 48
    assert sorted(p.name for p in (folder / "data" / "train").iterdir()) < shards
    assert sorted(p.name for p in (folder / "data").iterdir()) == sorted(SPLITS)


class _NoScale:
    def add(self, columns: Columns) -> None: ...

    def constants(self) -> dict[str, Any]:
        return {}


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_bytes_whatever_the_memory(folder: Path) -> None:
    """All in memory; through one level of files; through several, with pieces smaller than a part."""
    samples = _samples(folder / "parts", rpv_gluino=[300, 10], jz5=[200])
    reached: list[tuple[int, int]] = []
    for target, memory in (("a", 2**25), ("b", 2**16), ("c", 300)):
        _write(
            folder, samples, data=folder / target, memory=memory, events_per_shard=50,
            progress=lambda done, total: reached.append((done, total)),
        )  # fmt: skip
    whole = _bytes(folder / "a")
    assert len(whole) > 10
    assert _bytes(folder / "b") == whole
    assert _bytes(folder / "c") == whole
    assert reached[-1] == (510, 510)
    assert len(reached) > 100
    assert json.loads(whole["train/dataset.json"])["provenance"]["split"] == "train"


def test_memory_does_not_grow_with_the_events(folder: Path) -> None:
    fields = {"x": DenseField(shape=(500,)), "event_id": DenseField(dtype="int64")}
    parts = []
    for number in range(20):
        columns = {
            "x": np.full((1000, 500), number, np.float32),
            "event_id": (number << 32) + np.arange(1000),
        }
        shard = write_shard(folder / "parts" / f"{number}.h5", fields, columns)
        parts.append(Part(shard.file, "", 1000, 1000, 1000, CrossSection(1e-9, 1e-10, 1000), 1.0, 1, shard))
    samples = [
        Sample(find_process("rpv_gluino"), tuple(parts[:10])),
        Sample(find_process("jz5"), tuple(parts[10:])),
    ]

    tracemalloc.start()
    try:
        splits = _write(folder, samples, fields=fields, scale=_NoScale(), events_per_shard=500, memory=2**20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(p.shard.bytes for p in parts) > 40e6
    assert peak < 12e6
    ids = np.concatenate([d.column("event_id") for d in splits.values()])
    assert np.array_equal(np.sort(ids), np.sort([(p << 32) + i for p in range(20) for i in range(1000)]))
    for dataset in splits.values():
        x, mine = dataset.column("x"), dataset.column("event_id")
        assert np.array_equal(x[:, 0], mine >> 32)
        assert np.array_equal(x[:, -1], mine >> 32)


def test_labels_and_weights_that_the_parts_have_stay(folder: Path) -> None:
    fields = {"label": DenseField(dtype="int64"), "weight": DenseField(dtype="float64")}
    parts = []
    for number in range(2):
        columns = {"label": np.arange(40) % 5, "weight": np.arange(40) + 0.5}
        shard = write_shard(folder / "parts" / f"{number}.h5", fields, columns)
        parts.append(Part(shard.file, "", 40, 40, 40, CrossSection(1e-9, 1e-10, 40), 1.0, 1, shard))
    samples = [Sample(find_process(n), (p,)) for n, p in zip(("rpv_gluino", "jz5"), parts, strict=True)]
    splits = _write(folder, samples, fields=fields, scale=_NoScale(), classes=())
    label, weight = (np.concatenate([d.column(n) for d in splits.values()]) for n in ("label", "weight"))
    assert np.array_equal(np.sort(weight), np.repeat(np.arange(40) + 0.5, 2))
    assert np.array_equal(label, weight.astype(int) % 5)


@pytest.mark.parametrize("memory", [2**25, 2**16])
def test_a_full_disk_leaves_the_old_splits_as_they_were(folder: Path, small_disk: Path, memory: int) -> None:
    old = _samples(folder / "parts", rpv_gluino=[40], jz5=[40])
    _write(folder, old, data=small_disk)
    before = {p.name: p.read_bytes() for p in (small_disk / "train").iterdir()}
    large = _samples(folder / "parts", rpv_gluino=[4000], jz5=[4000])
    with pytest.raises(UserError, match="disk full while writing"):
        _write(folder, large, data=small_disk, events_per_shard=1000, memory=memory)
    assert {p.name: p.read_bytes() for p in (small_disk / "train").iterdir()} == before
    assert sorted(p.name for p in small_disk.iterdir()) == sorted(SPLITS)  # and its space is free again
