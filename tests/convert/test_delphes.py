"""Against a real Delphes file, and against trees written here where it has no such branches (see conftest.py)."""

import awkward as ak
import numpy as np
import pytest
import uproot

from hpctrain.convert.delphes import _trimmed
from hpctrain.convert.root_files import RootTree
from hpctrain.data.columns import RaggedRows
from hpctrain.errors import UserError
from hpctrain.physics.calorimeter import Towers
from hpctrain.physics.jets import cluster_fat_jets
from hpctrain.physics.selection import jet_variables

WHOLE = ("trimmed=false",)
NEUTRAL = "towers=[EFlowPhoton, EFlowNeutralHadron]"


def flat(array):
    return np.asarray(ak.to_numpy(ak.flatten(array)), dtype=np.float64)


def event_of(array):
    return np.repeat(np.arange(len(array)), ak.to_numpy(ak.num(array)))


def test_a_real_file_gives_the_numbers_that_uproot_reads(converted, real):
    path = real("delphes-10-events.root")
    dataset = converted("delphes", path, settings=(NEUTRAL, "gen_jets=true", "label=0", "batch=3"))
    rows = dataset.read_range(0, 10)
    with uproot.open(path) as file:
        tree = file["Delphes"]
        photons = tree.arrays(["EFlowPhoton.Eta", "EFlowPhoton.Eem"])
        hadrons = tree.arrays(["EFlowNeutralHadron.Eta", "EFlowNeutralHadron.Ehad"])
        jets, tracks, gen = (
            tree["Jet.PT"].array(),
            tree.arrays(["Track.PT", "Track.Eta"]),
            tree["GenJet.Mass"].array(),
        )
    image = rows["image"].dense((3, 64, 64)).sum(axis=(2, 3))
    inside = abs(photons["EFlowPhoton.Eta"]) < 2.5
    np.testing.assert_allclose(image[:, 0], ak.sum(photons["EFlowPhoton.Eem"][inside], axis=1), rtol=1e-5)
    inside = abs(hadrons["EFlowNeutralHadron.Eta"]) < 2.5
    np.testing.assert_allclose(
        image[:, 1], ak.sum(hadrons["EFlowNeutralHadron.Ehad"][inside], axis=1), rtol=1e-5
    )
    np.testing.assert_array_equal(image[:, 2], ak.sum(abs(tracks["Track.Eta"]) < 2.5, axis=1))
    np.testing.assert_array_equal(rows["n_jets"], ak.num(jets))
    leading = ak.fill_none(ak.pad_none(ak.sort(jets, ascending=False), 5, clip=True), 0)
    np.testing.assert_allclose(rows["jets"][:, :, 0], leading)
    np.testing.assert_array_equal(rows["tracks"].counts, ak.num(tracks["Track.PT"]))
    assert rows["tracks"].values[:, 0].sum() == pytest.approx(ak.sum(tracks["Track.PT"]), rel=1e-5)
    assert dataset.fields["tracks"].features == ("pt", "eta", "phi", "charge", "d0", "dz")
    np.testing.assert_array_equal(rows["gen_jets"].counts, ak.num(gen))
    assert rows["gen_jets"].values[:, 3].sum() == pytest.approx(ak.sum(gen), rel=1e-5)
    assert "met" not in dataset.fields
    assert "selected" not in dataset.fields  # these are not fat jets
    assert dataset.provenance["label"] == "Delphes file delphes-10-events.root"
    assert dataset.provenance["sources"][0]["about"] == {"jets": "Jet"}


def test_towers_tracks_and_fat_jets(converted, tmp_path, delphes_objects, write_delphes):
    found = delphes_objects(40)
    path = write_delphes(tmp_path / "a.root", found)
    rows = (dataset := converted("delphes", path, settings=(*WHOLE, "batch=7"))).read_range(0, 40)
    tower, track = found["Tower"], found["Track"]
    image = rows["image"].dense((3, 64, 64)).sum(axis=(2, 3))
    for channel, energy in ((0, tower.Eem), (1, tower.Ehad)):
        np.testing.assert_allclose(image[:, channel], ak.sum(energy[abs(tower.Eta) < 2.5], axis=1), rtol=1e-5)
    np.testing.assert_array_equal(image[:, 2], ak.sum(abs(track.Eta) < 2.5, axis=1))
    np.testing.assert_array_equal(rows["towers"].counts, ak.num(tower.ET))
    np.testing.assert_allclose(
        rows["towers"].values[:, 0], flat(ak.sort(tower.ET, ascending=False)), rtol=1e-5, atol=1e-6
    )
    assert rows["towers"].values[:, 3:].sum() == pytest.approx(ak.sum(tower.E), rel=1e-5)
    assert dataset.fields["towers"].features == ("et", "eta", "phi", "ecal", "hcal")
    np.testing.assert_allclose(rows["jets"][0, :4, 0], [900, 700, 500, 300], rtol=1e-5)
    np.testing.assert_allclose(rows["jets"][:, 0, 3], found["FatJet"].Mass[:, 0], rtol=1e-3)
    np.testing.assert_allclose(rows["sum_mass"], ak.sum(found["FatJet"].Mass, axis=1), rtol=1e-3)
    np.testing.assert_allclose(rows["met"][:, 0], flat(found["MissingET"].MET))
    np.testing.assert_allclose(rows["weight"], flat(found["Event"].Weight))


def test_a_cell_lies_where_its_tower_does(converted, tmp_path, delphes_objects, write_delphes):
    found = delphes_objects(3)
    found["Tower"] = ak.Array(
        [[{"ET": 1.0, "Eta": 1.23, "Phi": -2.0, "E": 5.0, "Eem": 2.0, "Ehad": 3.0}], [], []]
    )
    found["Tower"] = ak.values_astype(found["Tower"], np.float32)
    image = (
        converted("delphes", write_delphes(tmp_path / "a.root", found), settings=WHOLE)
        .column("image")
        .dense((3, 64, 64))
    )
    assert np.argwhere(image[0, :2]).tolist() == [[0, 47, 11], [1, 47, 11]]
    assert image[0, :2, 47, 11].tolist() == [2.0, 3.0]


def test_the_preselection_is_that_of_generated_samples(converted, tmp_path, delphes_objects, write_delphes):
    path = write_delphes(tmp_path / "a.root", delphes_objects(10))
    dataset = converted("delphes", path, settings=(*WHOLE, "preselect=true", "batch=4"))
    assert dataset.column("event_id").tolist() == [0, 2, 4, 6, 8]
    assert (dataset.provenance["events_read"], dataset.provenance["rows_kept"]) == (10, 5)
    assert dataset.provenance["processes"][0]["generated"] == 10
    assert dataset.provenance["processes"][0]["preselected"] == 5
    assert "440 GeV" in dataset.provenance["preselection"]


def test_the_weight_counts_the_events_that_the_preselection_drops(
    converted, tmp_path, delphes_objects, write_delphes
):
    found = delphes_objects(10)
    path = write_delphes(tmp_path / "a.root", found)
    weight = "weight={cross_section_pb: 2, luminosity_fb: 1}"
    dataset = converted("delphes", path, settings=(*WHOLE, "preselect=true", weight))
    share = flat(found["Event"].Weight)[::2].sum() / flat(found["Event"].Weight).sum()
    assert dataset.column("weight").sum() == pytest.approx(2000 * share)


@pytest.mark.parametrize("trimmed", ["true", "false"])
def test_fat_jets_can_be_clustered_of_the_towers(
    converted, tmp_path, trimmed, delphes_objects, write_delphes
):
    found = delphes_objects(12)
    found["Tower"]["Eem"] = found["Tower"]["Eem"] * np.float32(20)
    path = write_delphes(tmp_path / "a.root", found)
    rows = converted("delphes", path, settings=("cluster=true", f"trimmed={trimmed}", "batch=5")).read_range(
        0, 12
    )
    tower = found["Tower"]
    towers = Towers(12, event_of(tower), *(flat(tower[n]) for n in ("Eta", "Phi", "Eem", "Ehad")))
    variables = jet_variables(cluster_fat_jets(towers, trimmed=trimmed == "true"))
    assert variables.n_jets.sum() > 5
    np.testing.assert_array_equal(rows["n_jets"], variables.n_jets)
    np.testing.assert_allclose(rows["jets"], variables.jets, rtol=1e-5)


def test_trimmed_momenta_are_the_first_of_five(real, monkeypatch):
    """uproot writes no TLorentzVector: the array is built here, of the type that the real file has."""
    with RootTree(real("delphes-10-events.root"), "Delphes") as tree:
        kind = tree.awkward("Jet.TrimmedP4", 0, 2).type.content
        vector = {"fP": {"fX": 3.0, "fY": 4.0, "fZ": 12.0}, "fE": 20.0}
        other = {"fP": {"fX": 9.0, "fY": 9.0, "fZ": 9.0}, "fE": 99.0}
        momenta = ak.Array([[[vector, *[other] * 4], [vector, *[other] * 4]], []])
        assert set(kind.content.content.fields) == set(momenta.fields) == {"fP", "fE"}
        monkeypatch.setattr(tree, "awkward", lambda *_: momenta)
        rows = _trimmed(tree, "Jet.TrimmedP4", RaggedRows.from_lists([[7, 6], []]), 0, 2)
    assert rows.values.tolist() == [[3, 4, 12, 20]] * 2
    assert rows.counts.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            (),
            r"has no branch Tower\.Eta, Tower\.Phi, Tower\.Eem, Tower\.Ehad\. .*EFlowPhoton.*takes these instead",
        ),
        (
            (NEUTRAL, "jets=Jet", "fat=true"),
            r"Jet\.TrimmedP4 is zero .*: the card did not trim its jets.*trimmed=false",
        ),
        ((NEUTRAL, "preselect=true"), r"preselect needs fat jets, the jets are Jet\. cluster=true"),
        ((NEUTRAL, "jets=FatJet", "trimmed=false"), r"has no branch FatJet\.PT.*GenJet"),
        ((NEUTRAL, "weight=Event.Weights"), r"has no branch Event\.Weights\. did you mean 'Event\.Weight'"),
        ((NEUTRAL, "tracks=Tracks"), r"has no branch Tracks\.PT.*did you mean 'Track\.PT'"),
        (
            (NEUTRAL, "jets=Jet", "fat=true", "trimmed=false", "preselect=true"),
            r"no event is left of 10 in .*\. Loosen the selection of delphes",
        ),
    ],
)
def test_what_a_real_file_does_not_have_is_named(converted, real, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        converted("delphes", real("delphes-10-events.root"), settings=settings)
    assert list(tmp_path.iterdir()) == []


def test_nan_in_a_tower_never_reaches_an_image(converted, tmp_path, delphes_objects, write_delphes):
    found = delphes_objects(9)
    energy = ak.to_list(found["Tower"].Ehad)
    event = next(i for i in range(4, 9) if energy[i])
    energy[event][0] = float("nan")
    found["Tower"] = ak.with_field(found["Tower"], ak.values_astype(ak.Array(energy), np.float32), "Ehad")
    path = write_delphes(tmp_path / "a.root", found)
    with pytest.raises(UserError, match=rf"branch Tower\.Ehad has NaN or infinity in event {event}"):
        converted("delphes", path, settings=(*WHOLE, "batch=2"))
    for batch in (1, 2):
        dataset = converted("delphes", path, settings=(*WHOLE, f"batch={batch}", "non_finite=drop"))
        assert dataset.column("event_id").tolist() == [i for i in range(9) if i != event]


def test_old_files_call_the_impact_parameter_dxy(converted, tmp_path, delphes_objects, write_delphes):
    found = delphes_objects(5)
    track = found["Track"]
    found["Track"] = ak.zip({**{n: track[n] for n in ("PT", "Eta", "Phi", "Charge")}, "Dxy": track.D0})
    dataset = converted("delphes", write_delphes(tmp_path / "a.root", found), settings=WHOLE)
    assert dataset.fields["tracks"].features == ("pt", "eta", "phi", "charge", "d0")
