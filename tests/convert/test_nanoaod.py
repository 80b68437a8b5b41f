"""Against real CMS open data; particle-flow candidates in trees written here."""

import awkward as ak
import numpy as np
import pytest
import uproot

from hpctrain.errors import UserError

REAL = "cms-open-data-2015-ttbar-nanoaod.root"


@pytest.fixture
def tree(real):
    with uproot.open(real(REAL)) as file:
        yield file["Events"]


def test_real_events_give_the_numbers_that_uproot_reads(converted, real, tree):
    dataset = converted("nanoaod", real(REAL), settings=("batch=64", "label=1"))
    rows = dataset.read_range(0, 200)
    for field, collection in (
        ("jets", "Jet"),
        ("fat_jets", "FatJet"),
        ("muons", "Muon"),
        ("electrons", "Electron"),
    ):
        features = dataset.fields[field].features
        assert features[:4] == ("pt", "eta", "phi", "mass")
        for place, feature in enumerate(features):
            array = tree[f"{collection}_{feature}"].array()
            np.testing.assert_array_equal(rows[field].counts, ak.num(array))
            np.testing.assert_array_equal(
                rows[field].values[:, place], ak.flatten(array).to_numpy().astype("f4")
            )
    assert rows["jets"].counts.sum() == 537
    np.testing.assert_array_equal(rows["met"][:, 0], tree["MET_pt"].array())
    np.testing.assert_array_equal(rows["weight"], tree["genWeight"].array())
    np.testing.assert_array_equal(rows["event"], tree["event"].array())
    assert dataset.fields["event"].dtype == "uint64"
    np.testing.assert_array_equal(rows["luminosity_block"], tree["luminosityBlock"].array())
    assert "particles" not in dataset.fields
    assert dataset.provenance["label"] == f"CMS NanoAOD file {REAL}"


def test_real_jets_one_a_row(converted, real, tree):
    label = "label={branch: Jet_hadronFlavour, values: {0: 0, 4: 1, 5: 2}}"
    settings = ("per=jet", label, "jet_pt_min=30", "jet_eta_max=2.4", "jets=[mass, qgl]", "batch=33")
    dataset = converted("nanoaod", real(REAL), settings=settings)
    arrays = tree.arrays(
        ["Jet_pt", "Jet_eta", "Jet_phi", "Jet_mass", "Jet_qgl", "Jet_hadronFlavour", "genWeight", "event"]
    )
    kept = (arrays.Jet_pt >= 30) & (abs(arrays.Jet_eta) <= 2.4)
    rows = dataset.read_range(0, dataset.events)
    assert dataset.fields["jet"].features == ("pt", "eta", "phi", "mass", "qgl")
    for place, name in enumerate(dataset.fields["jet"].features):
        np.testing.assert_array_equal(rows["jet"][:, place], ak.flatten(arrays[f"Jet_{name}"][kept]))
    np.testing.assert_array_equal(rows["jet_index"], ak.flatten(ak.local_index(arrays.Jet_pt)[kept]))
    flavour = ak.flatten(arrays.Jet_hadronFlavour[kept])
    np.testing.assert_array_equal(rows["label"], [{0: 0, 4: 1, 5: 2}[f] for f in flavour.tolist()])
    np.testing.assert_array_equal(rows["event"], np.repeat(arrays.event, ak.sum(kept, axis=1)))
    np.testing.assert_array_equal(rows["event_id"], np.repeat(np.arange(200), ak.sum(kept, axis=1)))
    assert len(rows["weight"]) == ak.sum(kept)


@pytest.mark.parametrize(
    ("link", "index", "settings"),
    [
        ("JetPFCands", "pFCandsIdx", ()),
        ("JetToPFCands", "candIdx", ()),
        ("MyLinks", "pfCandIdx", ("links=MyLinks",)),
    ],
)
def test_constituents_of_each_jet(converted, tmp_path, link, index, settings, nanoaod_events, write_nanoaod):
    found = nanoaod_events(60)
    path = write_nanoaod(tmp_path / "a.root", found, link, index)
    dataset = converted("nanoaod", path, settings=("per=jet", "batch=17", *settings))
    rows = dataset.read_range(0, dataset.events)
    assert dataset.fields["particles"].features == ("pt", "eta", "phi", "mass", "charge")
    row = 0
    for jets, candidates, links in zip(found["Jet"], found["PFCands"], found["link"], strict=True):
        for jet in range(len(jets)):
            own = sorted((candidates.pt[p.candIdx] for p in links if p.jetIdx == jet), reverse=True)
            a, b = rows["particles"].offsets[row : row + 2]
            assert rows["particles"].values[a:b, 0].tolist() == own
            assert rows["jet"][row, 0] == jets.pt[jet]
            row += 1
    assert row == dataset.events
    assert (rows["event"] >= 2**60).all()


def test_particles_of_each_event(converted, tmp_path, nanoaod_events, write_nanoaod):
    found = nanoaod_events(30)
    rows = (dataset := converted("nanoaod", write_nanoaod(tmp_path / "a.root", found))).read_range(0, 30)
    pt = ak.sort(found["PFCands"].pt, ascending=False)
    np.testing.assert_array_equal(rows["particles"].counts, ak.num(pt))
    np.testing.assert_array_equal(rows["particles"].values[:, 0], ak.flatten(pt))
    np.testing.assert_array_equal(rows["met"][:, 0], np.arange(30))
    assert rows["weight"].tolist() == [1.0] * 30  # no generator's weight: data, as far as the file says
    assert dataset.provenance["sources"][0]["about"] == {
        "generator_weights": False, "particles": "PFCands", "met": "PuppiMET",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("jets=[btagDeepFlav]",), r"has no branch Jet_btagDeepFlav\. did you mean 'Jet_btagDeepFlavB'\?"),
        (("particles=[pt]",), r"has no branch PFCands_pt.*Standard NanoAOD has no particle-flow candidates"),
        (("tree=Event",), r"has no tree 'Event'\. did you mean 'Events'\?"),
        (("label=Jet_pt",), r"branch Jet_pt is a list in each event.*goes with per=jet"),
        (("per=jet", "label=Muon_charge"), r"branch Muon_charge is a list in each event"),
        (("met=CorrMET",), r"has no branch CorrMET_pt, CorrMET_phi"),
        (("per=jet", "jet_pt_min=1e6"), r"no event is left of 200"),
        (("particle_table=PFCnds",), r"has no branch PFCnds_pt, PFCnds_eta, PFCnds_phi"),
        (("per=jet", "jets=[]"), r"per=jet needs jets, and there are none\. It takes the branches Jet_pt"),
        (("label=genTtbarIds",), r"has no branch genTtbarIds\. did you mean 'genTtbarId'\?"),
    ],
)
def test_what_the_real_file_does_not_have_is_named(converted, real, settings, message):
    with pytest.raises(UserError, match=message):
        converted("nanoaod", real(REAL), settings=settings)


def test_numbers_of_events_are_whole(converted, tmp_path):
    path = tmp_path / "a.root"
    jets = ak.zip({name: ak.Array([[1.0], []]) for name in ("pt", "eta", "phi")})
    with uproot.recreate(path) as file:
        file.mktree("Events", {"Jet": jets.type, "run": "f8"})
        file["Events"].extend({"Jet": jets, "run": np.array([1, 1.5])})
    with pytest.raises(UserError, match=r"a\.root: branch run: 1\.5 is no int64"):
        converted("nanoaod", path)


def test_missing_links_are_named(converted, tmp_path, nanoaod_events, write_nanoaod):
    path = write_nanoaod(tmp_path / "a.root", nanoaod_events(5), "Other", "candIdx")
    with pytest.raises(
        UserError, match=r"no table links Jet to PFCands: none of JetPFCands, .* has jetIdx and one of"
    ):
        converted("nanoaod", path, settings=("per=jet",))
    dataset = converted("nanoaod", path, settings=("per=jet", "particles=[]"))
    assert "particles" not in dataset.fields


def test_delphes_is_not_nanoaod(converted, real):
    with pytest.raises(
        UserError, match=r"none of the collections Jet, FatJet, Muon, Electron is in the tree"
    ):
        converted("nanoaod", real("delphes-10-events.root"), settings=("tree=Delphes",))
