"""Ragged batches ↔ PyTorch Geometric: round trips, its own batching as the reference, mistakes."""

import itertools
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GCNConv, global_add_pool

from hpctrain.data import graphs
from hpctrain.data.columns import RaggedRows, SparseRows, offsets_of
from hpctrain.data.graphs import pyg
from hpctrain.data.loader import Loader
from hpctrain.data.order import Order
from hpctrain.data.schema import DenseField, RaggedField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.data.shards import ShardDataset
from hpctrain.errors import UserError

FEW = settings(max_examples=40, deadline=None)


@st.composite
def columns(draw, least=1):
    """Events with particles, vertices, edges between particles, labels, weights and a vector."""
    counts = np.array(draw(st.lists(st.integers(0, 6), min_size=least, max_size=6)), dtype=np.int64)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    n = len(counts)
    particles = RaggedRows(offsets_of(counts), rng.normal(size=(counts.sum(), 3)).astype(np.float32))
    vertices = RaggedRows.from_lists([rng.normal(size=(rng.integers(0, 3), 2)) for _ in range(n)], (2,))
    edges = [
        rng.integers(0, count, (rng.integers(0, 9), 2)) if count else np.zeros((0, 2), dtype=np.int64)
        for count in counts
    ]
    edge_index = RaggedRows.from_lists(edges, (2,), np.int64)
    return {
        "particles": particles,
        "vertices": vertices,
        "edge_index": edge_index,
        "edge_attr": RaggedRows(
            edge_index.offsets, rng.normal(size=(len(edge_index.values), 2)).astype(np.float32)
        ),
        "label": rng.integers(0, 5, n),
        "weight": rng.uniform(0, 1, n),
        "met": rng.normal(size=(n, 2)).astype(np.float32),
    }


def as_batch(events):
    """As a loader gives them."""
    batch = {}
    for name, values in events.items():
        if isinstance(values, RaggedRows):
            batch |= {name: torch.tensor(values.values), f"{name}.offsets": torch.tensor(values.offsets)}
        else:
            batch[name] = torch.tensor(values)
    return batch


def assert_same(one, other):
    assert set(one) == set(other)
    for name, values in one.items():
        if isinstance(values, RaggedRows):
            np.testing.assert_array_equal(values.offsets, other[name].offsets, err_msg=name)
            values, found = values.values, other[name].values
        else:
            found = other[name]
        np.testing.assert_array_equal(values, found, err_msg=name)
        assert values.dtype == found.dtype, name
        assert values.shape == found.shape, name


@FEW
@given(columns())
def test_columns_to_data_and_back(events):
    made = pyg.graphs_of(events, "particles")
    assert all(type(graph) is Data for graph in made)
    for number, graph in enumerate(made):
        one = {
            k: v[number] if isinstance(v, np.ndarray) else v.part(number, number + 1).values
            for k, v in events.items()
        }
        assert graph.num_nodes == len(one["particles"])
        np.testing.assert_array_equal(graph.x, one["particles"])
        np.testing.assert_array_equal(graph.edge_index, one["edge_index"].T)
        np.testing.assert_array_equal(graph.edge_attr, one["edge_attr"])
        np.testing.assert_array_equal(graph.vertices, one["vertices"])
        np.testing.assert_array_equal(graph.met[0], one["met"])
        assert graph.y.tolist() == [one["label"]]
        graph.validate()
    back = pyg.columns_of(made, nodes="particles", label="label", ragged=["vertices"])
    assert_same(events, back)


@FEW
@given(columns())
def test_a_batch_is_the_one_pyg_makes_of_its_events(events):
    made = pyg.to_pyg(as_batch(events), "particles")
    reference = Batch.from_data_list(pyg.graphs_of(events, "particles"), follow_batch=["vertices"])
    assert type(made) is type(reference)
    assert made.num_graphs == reference.num_graphs == len(events["label"])
    assert set(made.keys()) == set(reference.keys())
    for key in reference.keys():  # noqa: SIM118  (a Batch iterates over pairs)
        assert torch.equal(made[key], reference[key]), key
        assert made[key].dtype == reference[key].dtype, key
    for ours, theirs in zip(made.to_data_list(), reference.to_data_list(), strict=True):
        assert ours.to_dict().keys() == theirs.to_dict().keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs.keys())  # noqa: SIM118


@FEW
@given(columns())
def test_a_ragged_batch_to_pyg_and_back(events):
    batch = as_batch(events)
    back = pyg.from_pyg(pyg.to_pyg(batch, "particles"), nodes="particles", label="label", ragged=["vertices"])
    assert set(back) == set(batch)
    for name, tensor in batch.items():
        assert torch.equal(back[name], tensor), name
        assert back[name].dtype == tensor.dtype, name


@FEW
@given(columns())
def test_edges_built_for_a_batch_go_to_their_events(events):
    batch = as_batch(events)
    positions, offsets = batch["particles"][:, :2], batch["particles.offsets"]
    edges = graphs.knn(positions, offsets, 2, phi=1)
    attributes = graphs.edge_attributes(positions, edges, phi=1)
    made = pyg.to_pyg(batch, "particles", edge_index=edges, edge_attr=attributes)
    for number, (start, stop) in enumerate(itertools.pairwise(offsets.tolist())):
        one = graphs.knn(positions[start:stop], torch.tensor([0, stop - start]), 2, phi=1)
        graph = made[number]
        assert torch.equal(graph.edge_index, one)
        assert torch.equal(graph.edge_attr, graphs.edge_attributes(positions[start:stop], one, phi=1))
    back = pyg.from_pyg(made, nodes="particles", label="label")
    assert torch.equal(back["edge_index.offsets"], graphs.edge_offsets(edges, offsets))


def test_what_pyg_users_have_becomes_columns():
    made = [
        Data(
            x=torch.ones(3, 2),
            edge_index=torch.tensor([[0, 1], [1, 2]]),
            y=1,
            charge=torch.tensor([1, -1, 0]),
        ),
        Data(
            x=torch.ones(1, 2), edge_index=torch.zeros(2, 0, dtype=torch.int64), y=0, charge=torch.tensor([1])
        ),
    ]
    found = pyg.columns_of(made)
    assert found["x"].counts.tolist() == [3, 1]
    assert found["edge_index"].values.tolist() == [[0, 1], [1, 2]]
    assert found["edge_index"].counts.tolist() == [2, 0]
    assert found["y"].tolist() == [1, 0]
    assert found["charge"].counts.tolist() == [3, 1]
    # Of single items it cannot be seen that they are a list of one.
    assert isinstance(pyg.columns_of(made[1:])["charge"], np.ndarray)
    assert pyg.columns_of(made[1:], ragged=["charge"])["charge"].counts.tolist() == [1]
    loader = DataLoader(made, batch_size=2)
    assert pyg.from_pyg(next(iter(loader)))["edge_index"].tolist() == [[0, 1], [1, 2]]


def test_from_shards_through_the_loader_into_a_network(tmp_path):
    """Data list → shards → loader → edges → Batch → a network of PyG gives the same as on the list itself."""
    rng = np.random.default_rng(5)
    made = [
        Data(x=torch.from_numpy(rng.normal(size=(n, 3)).astype(np.float32)), y=torch.tensor([n % 2]))
        for n in (4, 1, 7, 12, 3)
    ]
    found = pyg.columns_of(made, nodes="particles", label="label")
    fields = {
        "particles": RaggedField(shape=(3,), features=("pt", "eta", "phi")),
        "label": DenseField(dtype="int64"),
    }
    with ShardWriter(tmp_path / "set", fields, provenance={"label": "noise, for a test"}) as writer:
        writer.append(found)
    network = GCNConv(3, 2)
    dataset = ShardDataset.open(tmp_path / "set")
    for batch in Loader(dataset).epoch(Order(5, 2, seed=1), 0):
        edges = graphs.knn(batch["particles"][:, 1:], batch["particles.offsets"], 3, phi=1)
        joined = pyg.to_pyg(batch, "particles", edge_index=edges)
        scores = global_add_pool(network(joined.x, joined.edge_index), joined.batch)
        for number, row in enumerate(batch["row"].tolist()):
            x = made[row].x
            one = graphs.knn(x[:, 1:], torch.tensor([0, len(x)]), 3, phi=1)
            torch.testing.assert_close(scores[number], network(x, one).sum(0))


def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    page = (Path(__file__).parents[3] / "docs" / "graphs.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("example.py").write_text(example)
    names = runpy.run_path("example.py")
    assert names["scores"].shape == (len(names["batch"]["label"]), 8)


def test_mistakes_are_named():
    events = as_batch({"particles": RaggedRows(np.array([0, 2, 3]), np.ones((3, 2), np.float32))})
    with pytest.raises(UserError, match=r"nodes='hits'.*particles"):
        pyg.to_pyg(events, "hits")
    for wrong in (torch.tensor([[0, 2], [2, 0]]), torch.tensor([[2, 0], [2, 1]])):
        with pytest.raises(UserError, match="between events"):
            pyg.to_pyg(events, "particles", edge_index=wrong)
    with pytest.raises(UserError, match="int64"):
        pyg.to_pyg(events, "particles", edge_index=torch.zeros(3, 2))
    with pytest.raises(UserError, match="would be 'x'"):
        pyg.to_pyg(events | {"x": torch.zeros(2)}, "particles")
    with pytest.raises(UserError, match="index_of_cell"):
        pyg.to_pyg(events | {"index_of_cell": torch.zeros(2, 2)}, "particles")
    with pytest.raises(UserError, match="sparse"):
        pyg.graphs_of({"image": SparseRows.from_dense(np.ones((1, 2)))}, "particles")
    with pytest.raises(UserError, match="no graphs"):
        pyg.columns_of([])
    with pytest.raises(UserError, match="'name' of the graphs is no tensor"):
        pyg.columns_of([Data(x=torch.ones(1, 1), name="one")])
    hetero = HeteroData()
    hetero["particle"].x = torch.ones(2, 2)
    for other in (Data(x=torch.ones(1, 1)), Batch.from_data_list([hetero])):
        with pytest.raises(UserError, match="taken apart"):
            pyg.from_pyg(other)


def test_the_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_geometric", None)
    with pytest.raises(UserError, match="torch_geometric") as raised:
        pyg.graphs_of({"x": RaggedRows(np.array([0, 1]), np.ones((1, 2)))}, "x")
    assert raised.value.hint == "pip install 'hpctrain[graphs]'"
