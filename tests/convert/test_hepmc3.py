import numpy as np
import pyhepmc
import pytest
import zstandard

from hpctrain.convert.hepmc_files import HepMcInput
from hpctrain.convert.hepmc_particles import final_state
from hpctrain.errors import UserError
from hpctrain.physics.detector import simulate
from hpctrain.physics.images import detector_images
from hpctrain.physics.jets import cluster_fat_jets
from hpctrain.physics.selection import jet_variables

REAL = "hard-scatter-3.hepmc3.zst"


@pytest.fixture
def text(real):
    return zstandard.ZstdDecompressor().decompressobj().decompress(real(REAL).read_bytes())


@pytest.fixture
def generated(text, tmp_path):
    """The real events as pyhepmc gives them, particle by particle."""
    path = tmp_path / "plain.hepmc3"
    path.write_bytes(text)
    with pyhepmc.open(path) as file:
        return list(file)


def test_real_particles_are_those_that_pyhepmc_gives(converted, real, generated):
    dataset = converted(
        "hepmc3", real(REAL), settings=("simulate=false", "eta_max=100", "batch=2", "label=1")
    )
    rows = dataset.read_range(0, 3)
    features = dataset.fields["particles"].features
    assert features == ("pt", "eta", "phi", "e", "charge", "x", "y", "z")
    column = {name: place for place, name in enumerate(features)}
    for number, event in enumerate(generated):
        final = sorted((p for p in event.particles if p.status == 1), key=lambda p: -p.momentum.pt())
        a, b = rows["particles"].offsets[number : number + 2]
        found, pdg = rows["particles"].values[a:b], rows["particles_pdg"].values[a:b]
        assert len(found) == len(final)
        np.testing.assert_allclose(found[:, column["pt"]], [p.momentum.pt() for p in final], rtol=1e-6)
        np.testing.assert_allclose(found[:, column["e"]], [p.momentum.e for p in final], rtol=1e-6)
        np.testing.assert_allclose(
            found[:, column["eta"]], [p.momentum.eta() for p in final], rtol=1e-5, atol=1e-5
        )
        points = np.array([[getattr(p.production_vertex.position, c) for c in "xyz"] for p in final])
        np.testing.assert_allclose(found[:, column["x"] :], points, rtol=1e-6, atol=1e-30)
        assert pdg.tolist() == [p.pid for p in final]
        charges = {211: 1, -211: -1, 22: 0, 2212: 1, 11: -1, 130: 0, 321: 1, -2112: 0}
        for code, charge in charges.items():
            assert (found[pdg == code, column["charge"]] == charge).all()
    assert (np.abs(points) > 1).any()  # decays in flight are among them
    assert "image" not in dataset.fields
    assert dataset.provenance["label"] == f"HepMC3 file {REAL}"
    assert dataset.provenance["sources"][0]["about"]["units"] == "GEV MM"


def test_simulated_events_are_what_the_detector_makes_of_them(converted, real):
    settings = ("seed=7", "batch=2", "image_bins=32")
    dataset = converted("hepmc3", real(REAL), settings=settings)
    rows = dataset.read_range(0, 3)
    with HepMcInput(real(REAL)) as file:
        events = list(file)
    start = 0
    for batch, some in enumerate((events[:2], events[2:])):
        seen = simulate(final_state(some, (), ""), np.random.default_rng([7, 0, batch]))
        images = detector_images(seen.towers, seen.tracks, bins=32).dense()
        own = slice(start, start + len(some))
        np.testing.assert_array_equal(rows["image"].dense((3, 32, 32))[own], images)
        variables = jet_variables(cluster_fat_jets(seen.towers, trimmed=True))
        np.testing.assert_allclose(rows["jets"][own], variables.jets, rtol=1e-6)
        assert (
            rows["towers"].counts[own].tolist()
            == np.bincount(seen.towers.event, minlength=len(some)).tolist()
        )
        assert (
            rows["tracks"].counts[own].tolist()
            == np.bincount(seen.tracks.event, minlength=len(some)).tolist()
        )
        start += len(some)
    towers, image = rows["towers"], rows["image"].dense((3, 32, 32))
    inside = np.abs(towers.values[:, 1]) < 2.5
    for channel, place in ((0, 3), (1, 4)):
        energy = np.bincount(towers.row_of_value()[inside], towers.values[inside, place], minlength=3)
        np.testing.assert_allclose(image[:, channel].sum(axis=(1, 2)), energy, rtol=1e-5)
    assert dataset.provenance["label"] == f"HepMC3 file {REAL}, Delphes-ATLAS-like parametrised simulation"
    assert dataset.provenance["detector"]["pileup"] == 0
    assert dataset.provenance["seed"] == 7


def test_the_description_does_not_hide_the_simulation(converted, real):
    dataset = converted("hepmc3", real(REAL), settings=("description=Z to mu mu", "fat_jets=false"))
    assert dataset.provenance["label"] == "Z to mu mu, Delphes-ATLAS-like parametrised simulation"
    assert "jets" not in dataset.fields


@pytest.mark.parametrize(("momentum", "length"), [("MEV", "MM"), ("GEV", "CM"), ("MEV", "CM")])
def test_the_units_of_the_file_are_respected(converted, real, generated, tmp_path, momentum, length):
    path = tmp_path / "units.hepmc3"
    with pyhepmc.open(path, "w") as file:
        for event in generated:
            units = pyhepmc.Units
            event.set_units(getattr(units.MomentumUnit, momentum), getattr(units.LengthUnit, length))
            file.write(event)
    assert f"U {momentum} {length}".encode() in path.read_bytes()
    settings = ("simulate=false",)
    expected = converted("hepmc3", real(REAL), settings=settings).column("particles")
    dataset = converted("hepmc3", path, settings=settings)
    np.testing.assert_allclose(dataset.column("particles").values, expected.values, rtol=1e-5, atol=1e-9)
    assert dataset.provenance["sources"][0]["about"]["units"] == f"{momentum} {length}"


def reweighted(text, path, weights):
    """The events with other weights."""
    head, *events = text.split(b"\nE ")
    lines = [event.split(b"\nW 1.0", 1) for event in events]
    changed = [b"\nW ".join([a, w + b[b.index(b"\n") :]]) for (a, b), w in zip(lines, weights, strict=True)]
    path.write_bytes(b"\nE ".join([head, *changed]))
    return path


def test_event_weights_and_attributes(converted, text, tmp_path):
    path = reweighted(text, tmp_path / "a.hepmc3", (b"0.5", b"2.0", b"1.5"))
    settings = ("simulate=false",)
    assert converted("hepmc3", path, settings=settings).column("weight").tolist() == [0.5, 2.0, 1.5]
    assert converted("hepmc3", path, settings=(*settings, "weight=Weight")).column("weight").tolist() == [
        0.5,
        2,
        1.5,
    ]
    scaled = converted("hepmc3", path, settings=(*settings, "weight={cross_section_pb: 2, luminosity_fb: 1}"))
    assert scaled.column("weight").tolist() == pytest.approx([250.0, 1000.0, 750.0])
    scale = converted("hepmc3", path, settings=(*settings, "weight=event_scale")).column("weight")
    assert (scale > 1).all()
    with pytest.raises(
        UserError, match=r"event \d+ has no weight or attribute 'event_scal'\. did you mean 'event_scale'"
    ):
        converted("hepmc3", path, settings=(*settings, "weight=event_scal"))


def test_the_preselection_and_its_needs(converted, real):
    with pytest.raises(UserError, match=r"no event is left of 3"):
        converted("hepmc3", real(REAL), settings=("preselect=true",))  # these are soft
    with pytest.raises(UserError, match=r"preselect needs simulate and fat_jets"):
        converted("hepmc3", real(REAL), settings=("preselect=true", "simulate=false"))
    with pytest.raises(UserError, match=r"nothing is left"):
        converted("hepmc3", real(REAL), settings=("particles=false", "simulate=false"))


def test_unknown_codes_are_named(converted, text, tmp_path):
    path = tmp_path / "a.hepmc3"
    lines = text.split(b"\n")
    last = max(i for i, line in enumerate(lines) if line.startswith(b"P ") and line.endswith(b" 1"))
    words = lines[last].split(b" ")
    words[3] = b"12345678"
    lines[last] = b" ".join(words)
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(
        UserError, match=r"PDG code 12345678, whose charge is not known\. neutral=\[12345678\]"
    ):
        converted("hepmc3", path)
    assert converted("hepmc3", path, settings=("neutral=[12345678]",)).events == 3


def test_an_event_with_nan_is_dropped_before_it_is_simulated(converted, text, tmp_path):
    path = tmp_path / "a.hepmc3"
    starts = [i for i in range(len(text)) if text.startswith(b"\nE ", i)]
    head, middle, tail = text[: starts[1]], text[starts[1] : starts[2]], text[starts[2] :]
    lines = middle.split(b"\n")
    last = max(i for i, line in enumerate(lines) if line.startswith(b"P ") and line.endswith(b" 1"))
    words = lines[last].split(b" ")
    words[4] = b"nan"
    lines[last] = b" ".join(words)
    path.write_bytes(head + b"\n".join(lines) + tail)
    with pytest.raises(UserError, match=r"a\.hepmc3: quantity px has NaN or infinity in event 1\."):
        converted("hepmc3", path)
    for batch in (1, 100):
        dataset = converted("hepmc3", path, settings=("non_finite=drop", f"batch={batch}"))
        assert dataset.column("event_id").tolist() == [0, 2]
    assert dataset.provenance["events_not_finite"] == 1
