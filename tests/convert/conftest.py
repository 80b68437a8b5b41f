"""What the converters' tests share: real excerpts, trees written here, one call from a kind to an open dataset.

The trees have the names and types of Delphes and of customised NanoAOD, and random numbers: they stand for towers,
fat jets and particle-flow candidates that no real file at hand has. uproot cannot write ``TClonesArray``, so their
branches are flat (``Tower.ET`` without a parent).
"""

from collections.abc import Callable
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from hpctrain.convert.driver import convert, read_config
from hpctrain.data.shards import ShardDataset

DATA_FILES = Path(__file__).parent.parent / "data_files"


@pytest.fixture
def real() -> Callable[[str], Path]:
    """Path of a file in ``tests/data_files``, whose README says where it comes from."""
    return lambda name: DATA_FILES / name


@pytest.fixture
def converted(tmp_path: Path) -> Callable[..., ShardDataset]:
    """Converts files with the settings of a command line and opens the dataset."""
    count = 0

    def run(kind: str, *inputs: Path, settings: tuple[str, ...] = (), **options: object) -> ShardDataset:
        nonlocal count
        count += 1
        output = tmp_path / f"converted-{count}"
        convert(read_config(kind, settings), list(inputs), output, **options)
        return ShardDataset.open(output)

    return run


@pytest.fixture
def delphes_objects() -> Callable[..., dict[str, ak.Array]]:
    return _delphes_objects


@pytest.fixture
def write_delphes() -> Callable[..., Path]:
    return _write_delphes


@pytest.fixture
def nanoaod_events() -> Callable[..., dict[str, ak.Array]]:
    return _nanoaod_events


@pytest.fixture
def write_nanoaod() -> Callable[..., Path]:
    return _write_nanoaod


def _delphes_objects(events: int, seed: int = 0) -> dict[str, ak.Array]:
    """Towers, tracks and jets of so many events; the fat jets of every second event pass the preselection."""
    rng = np.random.default_rng(seed)

    def collection(counts: np.ndarray, **columns: np.ndarray) -> ak.Array:
        return ak.zip({name: ak.unflatten(values, counts) for name, values in columns.items()})

    def directions(n: int) -> dict[str, np.ndarray]:
        return {
            "Eta": rng.uniform(-4.9, 4.9, n).astype(np.float32),
            "Phi": rng.uniform(-np.pi, np.pi, n).astype(np.float32),
        }

    towers = rng.integers(0, 60, events)
    n = int(towers.sum())
    ecal = (rng.exponential(5, n) * (rng.random(n) < 0.8)).astype(np.float32)
    hcal = (rng.exponential(9, n) * (rng.random(n) < 0.7)).astype(np.float32)
    where = directions(n)
    et = ((ecal + hcal) / np.cosh(where["Eta"])).astype(np.float32)
    found = {"Tower": collection(towers, ET=et, **where, E=ecal + hcal, Eem=ecal, Ehad=hcal)}
    tracks = rng.integers(0, 30, events)
    n = int(tracks.sum())
    found["Track"] = collection(
        tracks, PID=rng.choice([211, -211], n).astype(np.int32), Charge=rng.choice([1, -1], n).astype(np.int32),
        PT=rng.exponential(3, n).astype(np.float32), **directions(n), D0=rng.normal(0, 0.1, n).astype(np.float32),
        DZ=rng.normal(0, 1, n).astype(np.float32),
    )  # fmt: skip
    good = np.arange(events) % 2 == 0
    jets = np.where(good, 4, 2)
    pt = np.concatenate([[900, 700, 500, 300] if g else [900, 250] for g in good]).astype(np.float32)
    n = len(pt)
    eta = rng.uniform(-1.9, 1.9, n).astype(np.float32)
    for name, factor in (("FatJet", 1.0), ("Jet", 0.5), ("GenJet", 0.45)):
        found[name] = collection(
            jets, PT=pt * np.float32(factor), Eta=eta, Phi=rng.uniform(-3, 3, n).astype(np.float32),
            Mass=rng.uniform(50, 300, n).astype(np.float32),
        )  # fmt: skip
    one = np.ones(events, dtype=int)
    found["MissingET"] = collection(
        one,
        MET=rng.exponential(50, events).astype(np.float32),
        Phi=rng.uniform(-3, 3, events).astype(np.float32),
    )
    found["Event"] = collection(
        one, Number=np.arange(events), Weight=rng.uniform(0.5, 1.5, events).astype(np.float32)
    )
    return found


def _write_delphes(path: Path, found: dict[str, ak.Array], tree: str = "Delphes") -> Path:
    """A flat tree: branches ``Tower.ET`` without a parent, ``Tower_size`` counts."""
    with uproot.recreate(path) as file:
        file.mktree(
            tree,
            {name: array.type for name, array in found.items()},
            field_name=lambda outer, inner: f"{outer}.{inner}" if inner else outer,
            counter_name=lambda counted: f"{counted}_size",
        )
        file[tree].extend(found)
    return path


def _nanoaod_events(count: int, seed: int = 0) -> dict[str, ak.Array]:
    """Jets, candidates, and which candidate is in which jet (``jetIdx``, ``candIdx``) of so many events."""
    rng = np.random.default_rng(seed)

    def collection(counts, mass):
        n = int(counts.sum())
        columns = {
            "pt": np.sort(rng.exponential(50, n))[::-1] + 1,
            "eta": rng.uniform(-2.4, 2.4, n),
            "phi": rng.uniform(-3.1, 3.1, n),
            "mass": np.full(n, mass),
        }
        return ak.zip({k: ak.unflatten(v.astype(np.float32), counts) for k, v in columns.items()})

    jets, candidates = rng.integers(0, 4, count), rng.integers(0, 20, count)
    jet, candidate = collection(jets, 10.0), collection(candidates, 0.14)
    flavour = rng.choice([0, 4, 5], int(jets.sum())).astype(np.int32)
    jet = ak.with_field(jet, ak.unflatten(flavour, jets), "hadronFlavour")
    charge = rng.choice([-1, 0, 1], int(candidates.sum())).astype(np.int32)
    candidate = ak.with_field(candidate, ak.unflatten(charge, candidates), "charge")
    pairs = []
    for j, c in zip(jets.tolist(), candidates.tolist(), strict=True):
        chosen = rng.permutation(c)[: rng.integers(0, c + 1)] if j else []
        pairs.append([{"jetIdx": int(rng.integers(-1, j)), "candIdx": int(k)} for k in chosen])
    link = ak.Array([*pairs, [{"jetIdx": 0, "candIdx": 0}]])[:count]
    return {"Jet": jet, "PFCands": candidate, "link": ak.values_astype(link, np.int32)}


def _write_nanoaod(
    path: Path, found: dict[str, ak.Array], link: str = "JetPFCands", index: str = "pFCandsIdx"
) -> Path:
    """The tree ``Events``, its link table called ``link`` with the candidates' numbers in ``index``."""
    count = len(found["Jet"])
    table = ak.zip({"jetIdx": found["link"].jetIdx, index: found["link"].candIdx})
    columns = {
        "run": np.full(count, 3, np.uint32),
        "luminosityBlock": np.full(count, 7, np.uint32),
        "event": np.arange(count, dtype=np.uint64) + 2**60,
        "Jet": found["Jet"],
        "PFCands": found["PFCands"],
        link: table,
        "PuppiMET_pt": np.arange(count, dtype=np.float32),
        "PuppiMET_phi": np.zeros(count, np.float32),
    }
    with uproot.recreate(path) as file:
        file.mktree("Events", {k: v.type if isinstance(v, ak.Array) else v.dtype for k, v in columns.items()})
        file["Events"].extend(columns)
    return path
