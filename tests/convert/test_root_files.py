import numpy as np
import pytest
import uproot

from hpctrain.convert.root_files import RootTree
from hpctrain.data.columns import RaggedRows
from hpctrain.errors import UserError


@pytest.fixture
def delphes(real):
    with RootTree(real("delphes-10-events.root"), "Delphes") as tree:
        yield tree


def test_branches_of_a_split_clones_array_are_found_by_their_last_name(delphes, real):
    found = delphes.read(["Track.PT", "Jet.Tau", "Track_size"], 2, 9)
    with uproot.open(real("delphes-10-events.root")) as file:
        tree = file["Delphes"]
        pt = tree["Track/Track.PT"].array(entry_start=2, entry_stop=9)
        tau = tree["Jet/Jet.Tau[5]"].array(entry_start=2, entry_stop=9)
    assert found["Track.PT"].counts.tolist() == [len(e) for e in pt] == found["Track_size"].tolist()
    assert found["Track.PT"].values.tolist() == [x for e in pt for x in e]
    assert found["Jet.Tau"].values.shape == (sum(len(e) for e in tau), 5)


def test_a_list_of_one_is_a_number(delphes):
    assert delphes.number("Event.Number", 3, 7).tolist() == [3, 4, 5, 6]
    with pytest.raises(UserError, match=r"branch Track\.PT has 110 numbers in event 0, one is wanted"):
        delphes.number("Track.PT", 0, 3)


def test_missing_branches_are_all_named_with_near_ones(delphes):
    message = (
        r"has no branch Tower\.ET, Trak\.PT\. did you mean 'Track\.PT'\? It has branches of EFlow.*, Track\."
    )
    with pytest.raises(UserError, match=message):
        delphes.read(["Track.Eta", "Tower.ET", "Trak.PT"], 0, 3)


def test_branches_that_are_no_numbers_are_refused(delphes):
    with pytest.raises(UserError, match=r"branch Jet\.Area holds .*TLorentzVector.*, not numbers"):
        delphes.read(["Jet.Area"], 0, 3)
    with pytest.raises(UserError, match=r"branch Track_size is no list in each event"):
        delphes.ragged(["Track_size"], 0, 3)


def test_flat_branches_of_every_kind(tmp_path):
    path = tmp_path / "a.root"
    with uproot.recreate(path) as file:
        file.mktree("t", {"x": "f8", "v": ("f4", (3,)), "flag": "?", "n": "var * int32"})
        file["t"].extend(
            {
                "x": np.arange(4.0),
                "v": np.ones((4, 3)),
                "flag": np.array([1, 0, 1, 0], bool),
                "n": [[], [1], [], []],
            }
        )
    with RootTree(path, "t") as tree:
        found = tree.read(["x", "v", "flag", "n"], 0, 4)
        nothing = tree.read(["n"], 2, 4)["n"]
    assert found["x"].tolist() == [0, 1, 2, 3]
    assert found["v"].shape == (4, 3)
    assert found["flag"].tolist() == [1, 0, 1, 0]
    assert found["flag"].dtype == np.uint8
    assert isinstance(nothing, RaggedRows)
    assert nothing.counts.tolist() == [0, 0]


@pytest.mark.parametrize("keep", [3, 300, 5000, 600_000, -1])
def test_truncated_files(real, tmp_path, keep):
    path = tmp_path / "cut.root"
    path.write_bytes(real("delphes-10-events.root").read_bytes()[:keep])
    with pytest.raises(UserError, match=r"cut\.root") as caught, RootTree(path, "Delphes") as tree:
        tree.read(["Track.PT"], 0, 10)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_damage_inside_is_named_with_its_branch(real, tmp_path):
    path = tmp_path / "damaged.root"
    path.write_bytes(real("delphes-10-events.root").read_bytes())
    with uproot.open(path) as file:
        branch = file["Delphes"]["Track.PT"]
        seek, size = int(branch.member("fBasketSeek")[0]), int(branch.member("fBasketBytes")[0])
    with path.open("r+b") as stream:
        stream.seek(seek + size // 2)
        stream.write(b"\x00" * (size // 3))
    message = r"damaged\.root: branch Track\.PT, events 0 to 10, cannot be read: .*copy it again"
    with pytest.raises(UserError, match=message), RootTree(path, "Delphes") as tree:
        tree.read(["Track.PT"], 0, 10)


def test_other_formats_and_trees(real, tmp_path):
    with pytest.raises(UserError, match=r"is not a ROOT file"):
        RootTree(real("geant4-em-showers-20.h5"), "Delphes")
    with uproot.recreate(tmp_path / "a.root") as file:
        file["h"] = np.histogram([1.0])
        file.mkrntuple("Events", {"x": np.arange(3.0)})
    with pytest.raises(UserError, match=r"has no tree 'Delphes', nor any other"):
        RootTree(tmp_path / "a.root", "Delphes")
    with pytest.raises(UserError, match=r"'Events' is an RNTuple, and trees are read\. .* as a tree"):
        RootTree(tmp_path / "a.root", "Events")
    with pytest.raises(UserError, match=r"has no tree 'Events'\. it has Delphes \(tree=NAME chooses\)"):
        RootTree(real("delphes-10-events.root"), "Events")
