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
    with pytest.raises(UserError, match=r"objects\.npy holds Python objects, .* never unpickled here"):
        converted("table", pickled)


class Trap:
    """Its pickle, when it is read, writes the file that it was given."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickles_are_never_unpickled(converted, tmp_path):
    trap, sprung = np.array([Trap(tmp_path / "sprung")] * 2, dtype=object), tmp_path / "sprung"
    np.savez(tmp_path / "a.npz", bad=trap, x=np.ones(2))
    np.save(tmp_path / "b.npy", trap, allow_pickle=True)
    np.load(tmp_path / "b.npy", allow_pickle=True)
    assert sprung.exists()
    sprung.unlink()
    dataset = converted("table", tmp_path / "a.npz")
    assert dataset.provenance["sources"][0]["about"] == {"left_out": {"bad": "object"}}
    for settings in (("fields.x=bad",), ("label=bad",)):
        with pytest.raises(UserError, match=r"column 'bad' holds object, not numbers"):
            converted("table", tmp_path / "a.npz", settings=settings)
    with pytest.raises(UserError, match=r"never unpickled"):
        converted("table", tmp_path / "b.npy")
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1, None, 3]), r"column 'x' has 1 missing values"),
        (pa.array([[1.0], None]), r"column 'x' has 1 missing values"),
        (pa.array([[1], [None]]), r"column 'x' has 1 missing values"),
        (pa.array([[1.0], [None]]), r"column 'x' has NaN or infinity in event 1"),
        (pa.array([[[1.0]], [[2.0]]]), r"no columns of numbers: 'x' is list<.*list<.*double>>"),
        (pa.array(["a", "b"]), r"no columns of numbers: 'x' is string"),
        (pa.array(["a", "b"]).dictionary_encode(), r"no columns of numbers: 'x' is dictionary"),
        (pa.array([{"a": 1}]), r"no columns of numbers: 'x' is struct"),
        (pa.array([], pa.float32()), r"holds no events"),
    ],
)
def test_parquet_columns_that_are_no_numbers(converted, tmp_path, column, message):
    pq.write_table(pa.table({"x": column}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=message):
        converted("table", tmp_path / "a.parquet")


def test_a_column_that_is_there_twice(converted, tmp_path):
    twice = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["x", "x"])
    pq.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"names of columns more than once, 'x' first"):
        converted("table", tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("fields.e={columns: x, dtype: uint8}", r"field 'e': 1\.5 is no uint8"),
        ("fields.e={columns: x, dtype: float9}", r"field 'e': dtype 'float9' is not a number's"),
        ("fields.e={columns: []}", r"fields\.e\.columns: .*at least 1"),
        ("fields.e={columns: x, features: [a, b]}", r"2 features are named for the shape"),
        ("fields.e=long", r"field 'e': dtype 'float128' is not a number's"),
        ("fields.row=x", r"the field name 'row' is taken"),
    ],
)
def test_fields_that_cannot_be(converted, tmp_path, setting, message):
    np.savez(tmp_path / "a.npz", x=np.array([1.5, 300, -2]), long=np.ones(3, np.longdouble))
    with pytest.raises(UserError, match=message):
        converted("table", tmp_path / "a.npz", settings=(setting,))
