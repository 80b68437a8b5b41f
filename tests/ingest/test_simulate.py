from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpctrain.data.shard_file import read_shard
from hpctrain.ingest.chunks import Chunk, plan
from hpctrain.ingest.parts import find_part, make_part
from hpctrain.ingest.simulate import WholeDetectorSettings
from hpctrain.physics.processes import find_process


def _chunk(name: str = "rpv_gluino", events: int = 30, bins: int = 64) -> Chunk:
    return plan(
        [(find_process(name), events)], 1000, WholeDetectorSettings(seed=2, image_bins=bins, trimmed=True)
    )[0]


def _simulate(chunk: Chunk) -> Any:
    return chunk.settings.simulate(chunk)[0]


def _columns(folder: Path) -> Any:
    """What the part of ``_chunk()`` holds."""
    part = find_part(_chunk(), folder)
    assert part is not None
    return read_shard(folder / part.file, _chunk().settings.fields(), part.shard)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the part of ``_chunk()``."""
    path = tmp_path_factory.mktemp("parts")
    make_part(_chunk(), path)
    return path


def _copy(folder: Path, target: Path) -> Path:
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_columns_hold_the_preselected_events(folder: Path) -> None:
    part = find_part(_chunk(), folder)
    assert part is not None
    columns = _columns(folder)
    assert part.generated == 30
    assert 20 < part.preselected <= 30
    assert len(columns["image"]) == part.preselected
    assert np.all(columns["jets"][:, 0, 0] > 440)
    assert np.all(columns["n_jets"] > 2)
    assert columns["sum_mass"] == pytest.approx(columns["jets"][:, :4, 3].sum(axis=1), rel=1e-5)
    assert columns["delta_eta"] == pytest.approx(
        np.abs(columns["jets"][:, 0, 1] - columns["jets"][:, 1, 1]), abs=1e-5
    )
    assert int(columns["selected"].sum()) == part.selected
    assert len(set(columns["event_id"])) == part.preselected
    assert np.all(columns["event_id"] < 30)
    assert part.cross_section.mb == pytest.approx(1.29e-11, rel=0.5)


def test_images_are_those_of_the_same_rows_jets(folder: Path) -> None:
    """Around the leading jets the image holds their momentum; around another event's jets it does not.

    Every event has two or more hard jets in directions of its own, so a shift by one row shows.
    """
    columns = _columns(folder)
    images, jets = columns["image"].dense((3, 64, 64)), columns["jets"]
    centre = (np.arange(64) + 0.5) / 64
    eta, phi = np.meshgrid(-2.5 + 5 * centre, -np.pi + 2 * np.pi * centre, indexing="ij")
    transverse = images[:, :2].sum(axis=1) / np.cosh(eta)

    def around(shift: int) -> np.ndarray:
        """pT of the image within ΔR < 1 of the three leading jets of the row ``shift`` away, over their own."""
        ratios = []
        for image, event in zip(transverse, np.roll(jets, shift, axis=0), strict=True):
            near = np.zeros(eta.shape, dtype=bool)
            for _, jet_eta, jet_phi, _ in event[:3]:
                turn = (phi - jet_phi + np.pi) % (2 * np.pi) - np.pi
                near |= np.hypot(eta - jet_eta, turn) < 1
            ratios.append(image[near].sum() / event[:3, 0].sum())
        return np.array(ratios)

    own = around(0)
    # Trimming takes some of a jet and untrimmed neighbours add some; never half or twice.
    assert np.all((own > 0.8) & (own < 1.6))
    for shift in (1, -1, 2):
        assert np.median(around(shift)) < 0.8 * np.median(own)


def test_selected_follows_from_the_stored_variables(folder: Path) -> None:
    columns = _columns(folder)
    n, mass, delta_eta = (np.asarray(columns[name]) for name in ("n_jets", "sum_mass", "delta_eta"))
    expected = (delta_eta < 1.4) & (((n >= 4) & (mass > 800)) | ((n >= 5) & (mass > 600)))
    assert 0 < expected.sum() < len(expected)
    np.testing.assert_array_equal(np.asarray(columns["selected"]).astype(bool), expected)


def test_the_same_chunk_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    make_part(_chunk(), tmp_path)
    name = f"{_chunk().name}.h5"
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_event_ids_name_chunk_and_event() -> None:
    columns = _simulate(replace(_chunk(events=12), index=7))
    ids = np.asarray(columns["event_id"])
    assert set(ids >> 32) == {7}
    assert np.all((ids & 0xFFFFFFFF) < 12)


def test_image_cells_are_configurable() -> None:
    columns = _simulate(_chunk(events=4, bins=224))
    assert columns["image"].indices.dtype == np.uint32  # 3·224² cells do not fit 16 bits
    assert columns["image"].indices.max() < 3 * 224**2


def test_a_chunk_in_which_nothing_passes(tmp_path: Path) -> None:
    chunk = _chunk("jz3", events=3)
    part = make_part(chunk, tmp_path)
    assert part.preselected == 0
    assert find_part(chunk, tmp_path) == part


def test_part_is_found_again(folder: Path, tmp_path: Path) -> None:
    assert find_part(_chunk(), folder) is not None
    assert find_part(_chunk(), tmp_path) is None


def test_part_of_other_settings_is_not_taken(folder: Path) -> None:
    assert find_part(replace(_chunk(), settings=WholeDetectorSettings(3, 64, True)), folder) is None
    assert find_part(_chunk(events=31), folder) is None


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "no record", "torn record", "empty record"])
def test_damaged_part_is_not_taken(folder: Path, tmp_path: Path, damage: str) -> None:
    copy = _copy(folder, tmp_path)
    shard, record = copy / f"{_chunk().name}.h5", copy / f"{_chunk().name}.json"
    assert find_part(_chunk(), copy) is not None
    content = bytearray(shard.read_bytes())
    if damage == "truncate":
        shard.write_bytes(content[:-100])
    elif damage == "flip":
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    elif damage == "remove":
        shard.unlink()
    elif damage == "no record":
        record.unlink()
    elif damage == "torn record":
        record.write_text(record.read_text()[:50])
    else:
        record.write_text("{}")
    assert find_part(_chunk(), copy) is None
