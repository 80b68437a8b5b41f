import h5py
import numpy as np
import pytest

from hpctrain.errors import UserError


@pytest.fixture
def images():
    """Three layers (n, η, φ) of 8 × 6 cells, so that swapped axes show."""
    rng = np.random.default_rng(3)
    layers = rng.exponential(size=(10, 3, 8, 6)) * (rng.random((10, 3, 8, 6)) < 0.2)
    return layers.astype(np.float32)


def common(n=10):
    rng = np.random.default_rng(4)
    return {"label": np.arange(n) % 2, "weight": 10 ** rng.uniform(-3, 4, n), "normweight": rng.random(n)}


def write(path, group="", **datasets):
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[f"{group}/{name}"] = values
    return path


def test_the_benchmarks_layout_has_phi_before_eta(converted, images, tmp_path):
    known = common()
    path = write(
        tmp_path / "hep_training_chunk0.hdf5",
        data=np.swapaxes(images, 2, 3), psr=np.arange(10) % 3 == 0, jz=np.arange(10), **known,
    )  # fmt: skip
    dataset = converted("nersc_hdf5", path, settings=("extra=[jz]", "batch=4"))
    rows = dataset.read_range(0, 10)
    np.testing.assert_array_equal(rows["image"].dense((3, 8, 6)), images)
    np.testing.assert_array_equal(rows["label"], known["label"])
    np.testing.assert_array_equal(rows["weight"], known["weight"])
    np.testing.assert_array_equal(rows["normweight"], known["normweight"])
    assert {n: dataset.fields[n].dtype for n in ("weight", "normweight", "selected", "jz")} == {
        "weight": "float64", "normweight": "float64", "selected": "uint8", "jz": "int64",
    }  # fmt: skip
    assert rows["selected"].sum() == 4
    assert rows["jz"].tolist() == list(range(10))
    assert dataset.provenance["sources"][0]["about"]["axes_in_the_file"] == "phi, eta"
    assert dataset.provenance["label"] == "HDF5 file hep_training_chunk0.hdf5 in NERSC's layout"
    np.testing.assert_allclose(dataset.scale["image_max"], images.max(axis=(0, 2, 3)), rtol=1e-6)


def test_the_group_of_all_events_has_a_dataset_a_layer(converted, images, tmp_path):
    known = common()
    path = write(
        tmp_path / "train.h5", "all_events",
        hist=images[:, 0], histEM=images[:, 1], histtrack=images[:, 2],
        y=known["label"].astype(np.float32), weight=known["weight"], normalized_weight=known["normweight"],
        passSR=np.ones(10, dtype=bool),
    )  # fmt: skip
    rows = converted("nersc_hdf5", path).read_range(0, 10)
    np.testing.assert_array_equal(rows["image"].dense((3, 8, 6)), images)
    np.testing.assert_array_equal(rows["label"], known["label"])
    np.testing.assert_array_equal(rows["normweight"], known["normweight"])


def test_one_layer_and_channels_last(converted, images, tmp_path):
    known = common()
    one = write(
        tmp_path / "one.h5", "all_events", hist=images[:, 0], y=known["label"], weight=known["weight"]
    )
    rows = converted("nersc_hdf5", one).read_range(0, 10)
    np.testing.assert_array_equal(rows["image"].dense((1, 8, 6)), images[:, :1])
    last = write(
        tmp_path / "last.h5",
        images=np.moveaxis(images, 1, -1),
        labels=known["label"],
        weights=known["weight"],
    )
    rows = converted("nersc_hdf5", last).read_range(0, 10)
    np.testing.assert_array_equal(rows["image"].dense((3, 8, 6)), images)
    rows = converted("nersc_hdf5", last, settings=("axes=phi_eta",)).read_range(0, 10)
    np.testing.assert_array_equal(rows["image"].dense((3, 6, 8)), np.swapaxes(images, 2, 3))


def test_what_is_missing_is_named(converted, images, tmp_path):
    path = write(tmp_path / "a.h5", data=images, label=np.zeros(10))
    with pytest.raises(
        UserError, match=r"a\.h5 has none of the datasets weight, weights\. Give weight=NUMBER"
    ):
        converted("nersc_hdf5", path)
    assert converted("nersc_hdf5", path, settings=("weight=1",)).column("weight").tolist() == [1.0] * 10
    none = write(tmp_path / "b.h5", calorimeter=images)
    with pytest.raises(
        UserError, match=r"b\.h5 has no images: none of the datasets data, images, hist\. It has calorimeter"
    ):
        converted("nersc_hdf5", none)
    flat = write(tmp_path / "c.h5", data=np.ones((10, 5)))
    with pytest.raises(UserError, match=r"c\.h5: data: shapes \(5,\) after the event are no images"):
        converted("nersc_hdf5", flat)
    short = write(tmp_path / "d.h5", data=images, label=np.zeros(9), weight=np.ones(10))
    with pytest.raises(UserError, match=r"d\.h5: 'data' has 10 events and 'label' has 9"):
        converted("nersc_hdf5", short)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.full((10, 3, 8, 6), b"a"), r"dataset 'data' holds \|S1 of shape \[3, 8, 6\] an event, no image"),
        (np.zeros((10, 3, 8, 6), [("a", "f4")]), r"dataset 'data' holds .*'a'.* an event, no image"),
        (np.zeros((10, 3, 8, 6), "c8"), r"dataset 'data' holds complex64"),
        (np.zeros((10, 3, 8, 0), "f4"), r"dataset 'data' holds float32 of shape \[3, 8, 0\]"),
    ],
)
def test_images_of_no_numbers(converted, tmp_path, data, message):
    path = write(tmp_path / "a.h5", data=data, **common())
    with pytest.raises(UserError, match=message):
        converted("nersc_hdf5", path)


def test_images_of_too_many_cells(converted, tmp_path):
    path = write(tmp_path / "a.h5", **common())
    with h5py.File(path, "a") as file:
        file.create_dataset("data", (10, 3, 2**17, 2**17), "f4", chunks=(1, 1, 64, 64))
    with pytest.raises(UserError, match=r"a\.h5: data: the shape \[3, 131072, 131072\] has more cells"):
        converted("nersc_hdf5", path)


@pytest.mark.parametrize("dtype", ["f2", ">f4", ">f8", "u1"])
def test_images_of_any_number(converted, images, tmp_path, dtype):
    path = write(tmp_path / "a.h5", data=np.round(images).astype(dtype), **common())
    rows = converted("nersc_hdf5", path).read_range(0, 10)
    np.testing.assert_array_equal(rows["image"].dense((3, 6, 8)), np.swapaxes(np.round(images), 2, 3))


def test_nan_is_found_in_images_too(converted, images, tmp_path):
    images[6, 1, 2, 3] = np.nan
    path = write(tmp_path / "a.h5", data=images, **common())
    with pytest.raises(UserError, match=r"a\.h5: dataset data has NaN or infinity in event 6"):
        converted("nersc_hdf5", path, settings=("batch=4",))
    dataset = converted("nersc_hdf5", path, settings=("batch=4", "non_finite=drop"))
    assert dataset.column("event_id").tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9]
