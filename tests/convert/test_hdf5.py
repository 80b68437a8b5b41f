import h5py
import numpy as np
import pytest

from hpctrain.errors import UserError

CELLS = (
    "fields.cells={dataset: value, form: sparse, offsets: offsets, indices: index, shape: [25, 25, 25]}",
    "fields.energy=energy",
    "fields.particle={dataset: particle, dtype: int64}",
)


def write(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name.replace("__", "/")] = values
    return path


def test_real_calorimeter_showers(converted, real):
    path = real("geant4-em-showers-20.h5")
    dataset = converted("hdf5", path, settings=(*CELLS, "label={branch: particle, values: {11: 0, 22: 1}}"))
    rows = dataset.read_range(0, 20)
    with h5py.File(path) as file:
        dense = np.zeros((20, 25**3), dtype=np.float32)
        for event, (a, b) in enumerate(zip(file["offsets"][:-1], file["offsets"][1:], strict=True)):
            dense[event, file["index"][a:b]] = file["value"][a:b]
        energy, particle = file["energy"][:], file["particle"][:]
    np.testing.assert_array_equal(rows["cells"].dense((25**3,)), dense)
    np.testing.assert_array_equal(rows["energy"], energy)
    np.testing.assert_array_equal(rows["label"], (particle == 22).astype(int))
    assert dataset.fields["particle"].dtype == "int64"
    assert "Geant4 11.4.0" in dataset.provenance["sources"][0]["about"]["simulation"]
    assert dataset.provenance["label"] == (
        "HDF5 file geant4-em-showers-20.h5: Single electrons (11) and photons (22), 10-100 GeV uniform, on a "
        "25x25x25-cell W/Si sampling calorimeter"
    )


def test_dense_sparse_and_ragged_of_every_form(converted, tmp_path):
    rng = np.random.default_rng(0)
    image = rng.exponential(size=(7, 2, 4, 4)) * (rng.random((7, 2, 4, 4)) < 0.2)
    counts = np.array([2, 0, 1, 3, 0, 1, 1])
    pt, eta = rng.random((2, 8)).astype(np.float32)
    path = write(
        tmp_path / "a.h5",
        image=image,
        group__x=np.arange(7, dtype=">f8"),
        good=rng.random(7) < 0.5,
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        pt=pt,
        eta=eta,
    )
    with h5py.File(path, "a") as file:
        hits = file.create_dataset("hits", (7,), dtype=h5py.vlen_dtype(np.float32))
        for event, count in enumerate(counts):
            hits[event] = np.full(count, event)
    settings = (
        "fields.image={dataset: image, form: sparse, dtype: float32}",
        "fields.x=group/x",
        "fields.good=good",
        "fields.pair=[group/x, good]",
        "fields.particles={dataset: [pt, eta], form: ragged, offsets: offsets}",
        "fields.hits={dataset: hits, form: ragged}",
        "batch=3",
    )
    dataset = converted("hdf5", path, settings=settings)
    rows = dataset.read_range(0, 7)
    np.testing.assert_array_equal(rows["image"].dense((2, 4, 4)), image.astype(np.float32))
    np.testing.assert_array_equal(rows["x"], np.arange(7))
    assert dataset.fields["good"].dtype == "uint8"
    assert dataset.fields["pair"].features == ("x", "good")
    assert dataset.fields["particles"].features == ("pt", "eta")
    np.testing.assert_array_equal(rows["particles"].counts, counts)
    np.testing.assert_array_equal(rows["particles"].values, np.stack([pt, eta], axis=-1))
    np.testing.assert_array_equal(rows["hits"].values, np.repeat(np.arange(7), counts))
    assert dataset.scale["image_max"] == pytest.approx(image.max(axis=(0, 2, 3)), rel=1e-6)


def test_without_fields_every_dataset_is_one(converted, tmp_path):
    path = write(
        tmp_path / "a.h5", a=np.arange(4), b__c=np.ones((4, 2)), other=np.arange(9), y=np.array([0, 1, 1, 0]),
        words=np.array([b"a", b"b", b"c", b"d"]), number=3.0,
    )  # fmt: skip
    dataset = converted("hdf5", path, settings=("label=y",))
    assert set(dataset.fields) == {"a", "b_c", "label", "weight", "process", "source", "event_id"}
    assert dataset.column("label").tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("fields.e=enrgy", r"a\.h5 has no dataset 'enrgy'\. did you mean 'energy'\?"),
        ("fields.e=words", r"field 'e': dataset 'words' holds .* not numbers"),
        ("fields.e={dataset: energy, form: ragged}", r"'energy' has the same length in every event"),
        (
            "fields.e={dataset: energy, form: ragged, offsets: offsets}",
            r"offsets in 'offsets' fall or lead outside 'energy' \(3 values\)",
        ),
        ("fields.e={dataset: energy, features: [a, b]}", r"2 features are named for the shape \[\]"),
        ("fields.e={dataset: energy, dtype: float33}", r"dtype 'float33' is not a number's"),
        ("fields={e: energy, f: other}", r"'energy' has 3 events and 'other' has 2"),
        ("fields.weight=energy", r"the field name 'weight' is taken"),
        ("fields.e={dataset: energy, form: thin}", r"form"),
        ("fields.2e=energy", r"fields"),
        ("fields.row=energy", r"a\.h5: the field name 'row' is taken"),
        ("fields.m=[energy, other]", r"'energy' has 3 events and 'other' has 2"),
        ("fields.e={dataset: energy, dtype: uint8}", r"field 'e': 300 is no uint8"),
        (
            "fields.e={dataset: energy, form: ragged, offsets: off}",
            r"YAML takes on, off, yes and no for truth",
        ),
        (
            "fields.e={dataset: energy, form: ragged, offsets: table}",
            r"'table' is int64\[2\], no list of offsets",
        ),
        (
            "fields.e={dataset: energy, form: ragged, offsets: energy}",
            r"'energy' is float64\[\], no list of off",
        ),
        (
            "fields.e={dataset: energy, form: sparse, offsets: three, indices: other, shape: [4]}",
            r"field 'e': 2 indices of type float64 for 3 values",
        ),
        (
            "fields.e={dataset: energy, form: sparse, offsets: three, indices: energy, shape: [4]}",
            r"field 'e': 3 indices of type float64 for 3 values",
        ),
        ("fields.e=huge", r"field 'e': an event of shape \[2147483655\] takes 2\.0 GiB"),
        (
            "fields.e={dataset: energy, shape: [100000, 100000], form: sparse, offsets: three, indices: table}",
            r"more cells than a uint32",
        ),
    ],
)
def test_what_does_not_fit_is_named(converted, tmp_path, setting, message):
    path = write(
        tmp_path / "a.h5", energy=np.array([1.0, 300, 1]), other=np.ones(2), words=np.array([b"a", b"b", b"c"]),
        offsets=np.array([0, 1, 5, 6]), table=np.zeros((3, 2), np.int64), three=np.array([0, 1, 2, 3]),
    )  # fmt: skip
    with h5py.File(path, "a") as file:
        file.create_dataset("huge", (3, 2**31 + 7), "u1", chunks=(1, 2**16))
    with pytest.raises(UserError, match=message):
        converted("hdf5", path, settings=(setting,))
    assert not (tmp_path / "converted-1").exists()


def test_which_axis_is_the_event_is_not_guessed(converted, tmp_path):
    """A real file of sparse showers has as many datasets a cell as datasets a shower."""
    path = write(tmp_path / "a.h5", energy=np.ones(3), pdg=np.ones(3), value=np.ones(9), index=np.ones(9))
    with pytest.raises(
        UserError,
        match=r"which axis is the event\? .*: 3 \(energy, pdg\) and 9 \(index, value\)\. Name the fields",
    ):
        converted("hdf5", path)


def test_what_is_left_out_is_kept_in_mind(converted, tmp_path):
    path = write(tmp_path / "a.h5", x=np.ones(3), y=np.ones(3), label=np.ones(3), words=np.array([b"a"] * 3))
    dataset = converted("hdf5", path, settings=("label=label",))
    assert dataset.provenance["sources"][0]["about"]["left_out"] == ["words"]


def test_names_that_would_make_one_field_are_refused(converted, tmp_path):
    path = write(tmp_path / "a.h5", **{"a-b": np.ones(3), "a_b": np.zeros(3)})
    with pytest.raises(UserError, match=r"datasets 'a-b' and 'a_b' would both be the field 'a_b'"):
        converted("hdf5", path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("label=words",), r"dataset 'words' holds \|S1, one number an event is wanted"),
        (("weight=words",), r"dataset 'words' holds \|S1, one number an event is wanted"),
        (("label=large",), r"label: large has 1\.84467e\+19, which is not a whole number of 64 bits"),
    ],
)
def test_labels_and_weights_are_numbers(converted, tmp_path, settings, message):
    path = write(
        tmp_path / "a.h5", x=np.ones(3), y=np.ones(3), words=np.array([b"a", b"b", b"c"]),
        large=np.full(3, 2**64 - 1, np.uint64),
    )  # fmt: skip
    with pytest.raises(UserError, match=message):
        converted("hdf5", path, settings=settings)


def test_a_filter_that_is_missing_is_not_damage(converted, tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(1000.0), chunks=(100,), compression="gzip")
    data = path.read_bytes()
    place = data.index(b"deflate") - 8  # the filter's number, before its name
    path.write_bytes(data[:place] + (399).to_bytes(2, "little") + data[place + 2 :])
    with pytest.raises(UserError, match=r"dataset 'x': compressed with a filter that is missing here"):
        converted("hdf5", path)


def test_damage_is_told_from_another_format(converted, real, tmp_path):
    whole = real("geant4-em-showers-20.h5").read_bytes()
    cut = tmp_path / "cut.h5"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.h5 cannot be read: .*truncated.*copy it again"):
        converted("hdf5", cut, settings=CELLS)
    other = tmp_path / "other.h5"
    other.write_text("event,energy\n")
    with pytest.raises(UserError, match=r"other\.h5 is not an HDF5 file"):
        converted("hdf5", other)


def test_a_damaged_chunk_is_named_with_its_dataset(converted, real, tmp_path):
    path = tmp_path / "damaged.h5"
    path.write_bytes(real("geant4-em-showers-20.h5").read_bytes())
    with h5py.File(path) as file:
        chunk = file["value"].id.get_chunk_info(0)
    with path.open("r+b") as stream:
        stream.seek(chunk.byte_offset + 100)
        stream.write(b"\xff" * 400)
    with pytest.raises(UserError, match=r"damaged\.h5: dataset 'value' cannot be read: .*copy it again"):
        converted("hdf5", path, settings=CELLS)


def test_nan_stops_the_conversion_or_costs_the_event(converted, tmp_path):
    energy = np.arange(6.0)
    energy[4] = np.nan
    path = write(tmp_path / "a.h5", energy=energy, image=np.eye(6)[:, None, :])
    settings = ("fields.energy=energy", "fields.image={dataset: image, form: sparse}", "batch=3")
    with pytest.raises(
        UserError, match=r"a\.h5: dataset 'energy' has NaN or infinity in event 4\..*non_finite=drop"
    ):
        converted("hdf5", path, settings=settings)
    dataset = converted("hdf5", path, settings=(*settings, "non_finite=drop"))
    assert dataset.column("energy").tolist() == [0, 1, 2, 3, 5]
    assert dataset.column("event_id").tolist() == [0, 1, 2, 3, 5]
    assert dataset.provenance["events_read"] == 6
    assert dataset.provenance["events_not_finite"] == 1
    assert dataset.provenance["sources"][0]["rows_kept"] == 5


def test_a_value_too_large_for_its_type_is_not_made_infinite(converted, tmp_path):
    path = write(tmp_path / "a.h5", energy=np.array([1.0, 1e300]))
    with pytest.raises(UserError, match=r"a\.h5: field 'e': a value is too large for float32"):
        converted("hdf5", path, settings=("fields.e={dataset: energy, dtype: float32}",))
