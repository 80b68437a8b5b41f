import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hpctrain.errors import UserError


@pytest.fixture
def columns():
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 4, 50)
    return {
        "mass": rng.random(50),
        "n": counts,
        "pt": [rng.random(c).astype(np.float32) for c in counts],
        "eta": [rng.random(c).astype(np.float32) for c in counts],
        "y": np.arange(50) % 2,
        "image": (rng.random((50, 2, 3)) * (rng.random((50, 2, 3)) < 0.3)).astype(np.float32),
    }


def parquet(path, columns, **options):
    table = {name: v.tolist() if name == "image" else v for name, v in columns.items()}
    if "image" in table:
        flat = pa.array(columns["image"].reshape(50, 6).tolist(), type=pa.list_(pa.float32(), 6))
        table["image"] = flat
    pq.write_table(pa.table(table), path, **options)
    return path


def test_parquet_lists_become_ragged(converted, columns, tmp_path):
    path = parquet(tmp_path / "a.parquet", columns, row_group_size=7)
    settings = (
        "fields={mass: mass, particles: [pt, eta], hits: {columns: pt, dtype: float64}}",
        "fields.image={columns: image, sparse: true}",
        "label=y",
        "batch=8",
    )
    dataset = converted("table", path, settings=settings)
    rows = dataset.read_range(0, 50)
    np.testing.assert_array_equal(rows["mass"], columns["mass"])
    np.testing.assert_array_equal(rows["label"], columns["y"])
    np.testing.assert_array_equal(rows["particles"].counts, columns["n"])
    both = np.stack([np.concatenate(columns["pt"]), np.concatenate(columns["eta"])], axis=-1)
    np.testing.assert_array_equal(rows["particles"].values, both)
    assert dataset.fields["particles"].features == ("pt", "eta")
    assert dataset.fields["hits"].dtype == "float64"
    np.testing.assert_array_equal(rows["image"].dense((6,)), columns["image"].reshape(50, 6))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_is_read_piece_by_piece(converted, columns, tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, mass=columns["mass"], y=columns["y"], image=columns["image"], big=columns["n"].astype(">i4"))
    dataset = converted("table", path, settings=("label=y", "batch=9"))
    rows = dataset.read_range(0, 50)
    assert {n for n in dataset.fields if n not in {"weight", "process", "source", "event_id"}} == {
        "mass", "image", "big", "label",
    }  # fmt: skip
    for name, expected in (("mass", "mass"), ("label", "y"), ("image", "image"), ("big", "n")):
        np.testing.assert_array_equal(rows[name], columns[expected])


def test_npy_plain_and_structured(converted, columns, tmp_path):
    plain, structured = tmp_path / "plain.npy", tmp_path / "structured.npy"
    np.save(plain, columns["image"])
    np.testing.assert_array_equal(converted("table", plain).column("x"), columns["image"])
    table = np.zeros(50, dtype=[("mass", "f8"), ("p", "f4", (3,)), ("y", "?")])
    table["mass"], table["p"], table["y"] = columns["mass"], np.arange(150).reshape(50, 3), columns["y"]
    np.save(structured, table)
    dataset = converted("table", structured, settings=("label=y", "batch=7"))
    np.testing.assert_array_equal(dataset.column("p"), np.arange(150).reshape(50, 3))
    np.testing.assert_array_equal(dataset.column("label"), columns["y"])


def test_missing_and_infinite_values(converted, tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": [1.0, None, 3.0, float("inf")], "n": [1, 2, 3, 4]}), path)
    with pytest.raises(UserError, match=r"a\.parquet: column 'x' has NaN or infinity in event 1"):
        converted("table", path)
    dataset = converted("table", path, settings=("non_finite=drop",))
    assert dataset.column("n").tolist() == [1, 3]
    assert dataset.provenance["events_not_finite"] == 2
    pq.write_table(pa.table({"n": [1, None]}), path)
    with pytest.raises(UserError, match=r"column 'n' has 1 missing values among the rows from 0 on"):
        converted("table", path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("fields.m=mas",), r"has no column 'mas'\. did you mean 'mass'\?"),
        (("fields.m=name",), r"column 'name' holds .*string.*, not numbers"),
        (("fields.m=[mass, pt]",), r"its columns have different shapes"),
        (("fields.m=[pt, other]",), r"different numbers of items in an event"),
        (("fields.m=mass", "label=pt"), r"column 'pt' has a list in each row, one number is wanted"),
        (("fields.m={columns: pt, sparse: true}",), r"lists cannot be sparse"),
    ],
)
def test_columns_that_do_not_fit(converted, tmp_path, settings, message):
    path = tmp_path / "a.parquet"
    table = {"mass": [1.0, 2.0], "name": ["a", "b"], "pt": [[1.0], []], "other": [[1.0], [2.0]]}
    pq.write_table(pa.table(table), path)
    with pytest.raises(UserError, match=message):
        converted("table", path, settings=settings)


def test_damaged_and_foreign_files(converted, columns, tmp_path):
    whole = parquet(tmp_path / "a.parquet", columns).read_bytes()
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.parquet cannot be read: .*copy it again"):
        converted("table", cut)
    archive = tmp_path / "a.npz"
    np.savez(archive, x=np.random.default_rng(0).random(20000))
    data = bytearray(archive.read_bytes())
    short = tmp_path / "short.npz"
    short.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"short\.npz cannot be read: .*copy it again"):
        converted("table", short)
    data[5000] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.npz: array 'x' cannot be read: Bad CRC-32.*copy it again"):
        converted("table", archive)
    text = tmp_path / "a.csv"
    text.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"a\.csv is neither \.npy, \.npz nor Parquet"):
        converted("table", text)
    pickled = tmp_path / "objects.npy"
    np.save(pickled, np.array([{}, []], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"objects\.npy"):
        converted("table", pickled)
