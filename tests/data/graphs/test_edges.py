"""Edges against loops, scipy's trees and PyTorch Geometric: on every kit, both ways, at the seam, with ties."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from torch_geometric.data import Data
from torch_geometric.transforms import Cartesian, Distance
from torch_geometric.utils import (
    contains_self_loops,
    dense_to_sparse,
    is_undirected,
    sort_edge_index,
    subgraph,
)

from hpctrain.data.columns import offsets_of
from hpctrain.data.graphs import cells, neighbours
from hpctrain.data.graphs import edges as graphs
from hpctrain.data.graphs.kits import NumpyKit, TorchKit
from hpctrain.errors import UserError

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SEAM = [-math.pi, math.pi, math.pi - 1e-3, 1e-3 - math.pi, 0.0, 3.0, -3.0, 7.0, -8.5]
FEW = settings(max_examples=60, deadline=None)


def kits() -> list:
    """numpy's and torch's, each in one piece and in many small ones."""
    made = [NumpyKit(), NumpyKit(), *(TorchKit(torch.device(d)) for d in DEVICES for _ in range(2))]
    for kit in made[1::2]:
        kit.pairs = 7
    return made


KITS = st.sampled_from(kits())


@st.composite
def events(draw, features=(2, 2), largest=12, exact=False):
    """Positions and offsets of some events: duplicates, the seam of φ, values of few bits when ``exact``."""
    counts = np.array(draw(st.lists(st.integers(0, largest), max_size=5)), dtype=np.int64)
    shape = (counts.sum(), draw(st.integers(*features)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([0.3, 2.0, 9.0]))
    positions = rng.integers(-8, 9, shape) / 4
    if not exact:
        kind = rng.choice(
            3, shape, p=draw(st.sampled_from([(0.2, 0.2, 0.6), (0.0, 0.0, 1.0), (0.5, 0.5, 0.0)]))
        )
        positions = np.choose(kind, [positions, rng.choice(SEAM, shape), rng.uniform(-spread, spread, shape)])
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return torch.from_numpy(positions.astype(dtype)), torch.from_numpy(offsets_of(counts))


def with_kit(kit, function, *args, **kwargs):
    """The builder's answer, found with this kit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "_kit", lambda tensor: kit)
        if isinstance(kit, TorchKit):
            args = [a.to(kit.device) if isinstance(a, torch.Tensor) else a for a in args]
        made = function(*args, **kwargs)
    return made.cpu() if isinstance(made, torch.Tensor) else tuple(part.cpu() for part in made)


def distance(a, b, phi) -> float:
    """In double precision, by the book."""
    apart = [float(x) - float(y) for x, y in zip(a, b, strict=True)]
    if phi is not None:
        apart[phi] = math.remainder(apart[phi], 2 * math.pi)
    return math.hypot(*apart)


def by_event(positions, offsets):
    """(number of the first item, positions) of each event."""
    bounds = offsets.tolist()
    return [(start, positions[start:stop].numpy()) for start, stop in itertools.pairwise(bounds)]


def edge_set(edge_index):
    return set(map(tuple, edge_index.t().tolist()))


@FEW
@given(events(), KITS, st.booleans())
def test_fully_connected_is_a_loop(event, kit, loops):
    _, offsets = event
    expected = [
        (source, target)
        for start, stop in itertools.pairwise(offsets.tolist())
        for target in range(start, stop)
        for source in range(start, stop)
        if loops or source != target
    ]
    made = with_kit(kit, graphs.fully_connected, offsets, loops=loops)
    assert made.dtype == torch.int64
    assert made.t().tolist() == [list(edge) for edge in expected]


def test_fully_connected_is_the_dense_graph_of_pyg():
    counts = [3, 0, 1, 5]
    offsets = torch.from_numpy(offsets_of(np.array(counts)))
    blocks = torch.block_diag(*(torch.ones(n, n) - torch.eye(n) for n in counts if n))
    expected, _ = dense_to_sparse(blocks)
    made = graphs.fully_connected(offsets)
    assert torch.equal(sort_edge_index(made), sort_edge_index(expected))
    assert is_undirected(made)
    assert not contains_self_loops(made)


@FEW
@given(events(exact=True), KITS, st.integers(1, 14), st.booleans())
def test_nearest_are_those_of_a_loop_with_ties_by_number(event, kit, k, loops):
    """Positions of few bits: distances are exact, so that ties are ties for everybody."""
    positions, offsets = event
    expected = []
    for start, points in by_event(positions, offsets):
        for i, point in enumerate(points):
            others = [j for j in range(len(points)) if j != i]
            others.sort(key=lambda j, p=points, a=point: (distance(p[j], a, None), j))
            expected += [[start + j, start + i] for j in ([i, *others] if loops else others)[:k]]
    made = with_kit(kit, graphs.knn, positions, offsets, k, phi=None, loops=loops)
    assert made.t().tolist() == expected


@FEW
@given(events(features=(1, 3)), KITS, st.integers(1, 14), st.data())
def test_nearest_are_nearest_across_the_seam(event, kit, k, data):
    positions, offsets = event
    phi = data.draw(st.sampled_from([None, *range(positions.shape[1])]))
    source, target = with_kit(kit, graphs.knn, positions, offsets, k, phi=phi)
    for start, points in by_event(positions, offsets):
        for i, point in enumerate(points):
            mine = (source[target == start + i] - start).tolist()
            every = sorted(distance(other, point, phi) for j, other in enumerate(points) if j != i)
            assert len(set(mine)) == len(mine) == min(k, len(points) - 1)
            assert i not in mine
            np.testing.assert_allclose([distance(points[j], point, phi) for j in mine], every[:k], atol=4e-6)
    assert torch.equal(target, target.sort(stable=True).values)


@FEW
@given(events(features=(1, 3), largest=30), KITS, st.floats(-0.1, 2), st.floats(0.01, 4), st.data())
def test_a_ring_holds_what_is_in_it(event, kit, low, width, data):
    positions, offsets = event
    phi = data.draw(st.sampled_from([None, *range(positions.shape[1])]))
    high = low + width if low + width >= 0 else 0.5
    made = with_kit(kit, graphs.ring, positions, offsets, low, high, phi=phi)
    edges = edge_set(made)
    for start, points in by_event(positions, offsets):
        for i, j in itertools.permutations(range(len(points)), 2):
            apart = distance(points[i], points[j], phi)
            edge = (start + j, start + i)
            if low + 4e-6 < apart < high - 4e-6 or (low < -1e-9 and apart < high - 4e-6):
                assert edge in edges
            elif apart < low - 4e-6 or apart > high + 4e-6:
                assert edge not in edges
    assert len(edges) == made.shape[1]
    assert {(b, a) for a, b in edges} == edges
    assert not contains_self_loops(made)
    assert made.t().tolist() == sorted(made.t().tolist(), key=lambda edge: edge[::-1])
    for start, stop in itertools.pairwise(offsets.tolist()):  # no edge leaves its event
        inside = subgraph(torch.arange(start, stop), made, num_nodes=len(positions))[0]
        assert inside.shape[1] == ((made[1] >= start) & (made[1] < stop)).sum()


@FEW
@given(events(exact=True), KITS, st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.5]), st.booleans())
def test_a_radius_includes_what_is_at_it(event, kit, r, loops):
    positions, offsets = event
    expected = {
        (start + j, start + i)
        for start, points in by_event(positions, offsets)
        for i, j in itertools.product(range(len(points)), repeat=2)
        if (loops or i != j) and distance(points[i], points[j], None) <= r
    }
    made = with_kit(kit, graphs.radius, positions, offsets, r, phi=None, loops=loops)
    assert edge_set(made) == expected


@settings(max_examples=150, deadline=None)
@given(events(features=(1, 3), largest=40), KITS, st.data())
def test_cells_find_the_very_edges_of_all_pairs(event, kit, data):
    """Both ways to search are the same function, bit for bit, whatever the radius and the kit."""
    positions, offsets = event
    phi = data.draw(st.sampled_from([None, *range(positions.shape[1])]))
    loops, k = data.draw(st.booleans()), data.draw(st.integers(1, 50))
    low = data.draw(st.floats(-1, 2))
    high = low + data.draw(st.one_of(st.floats(1.001, 4), st.just(graphs.LARGEST)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "SAMPLE", data.draw(st.sampled_from([1, 5, 256])))
        patch.setattr(graphs, "_kit", lambda tensor: kit)
        cloud = graphs._cloud(positions, offsets, phi)
        if not cloud.items:
            return
        host = [
            array.tolist() for array in (cells.nearest(cloud, k, loops), neighbours.nearest(cloud, k, loops))
        ]
        assert host[0] == host[1]
        grid = cells.Cells.of(cloud, math.sqrt(high))
        found = grid.within(*grid.candidates(), low, high, loops)
        assert found.tolist() == neighbours.within(cloud, low, high, loops).tolist()


@FEW
@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 2000), st.booleans())
def test_blocks_hold_every_target_once_within_the_budget(counts, budget, by_size):
    counts = np.array(counts, dtype=np.int64)
    order = np.argsort(counts, kind="stable") if by_size else np.arange(len(counts))
    seen = []
    for block in neighbours.blocks(counts, order, budget):
        rows = block.end - block.begin
        assert len(block.events) * rows * block.width <= budget or (len(block.events) == 1 and rows == 1)
        assert len(block.events) == 1 or rows == block.width  # several events are there as a whole
        assert block.width == counts[block.events].max()
        assert block.full == (counts[block.events] == block.width).all()
        seen += [(e, t) for e in block.events for t in range(block.begin, min(block.end, counts[e]))]
    assert seen == [(e, t) for e in order for t in range(counts[e])]


@pytest.mark.parametrize("kit", kits()[::2], ids=lambda kit: type(kit).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("sizes", "spread"), [((100, 1, 0, 60, 2), 2.5), ((1500, 40, 1400), 4.0)])
def test_events_of_particles_beside_trees_of_scipy(kit, dtype, sizes, spread):
    rng = np.random.default_rng(8)
    offsets = torch.from_numpy(offsets_of(np.array(sizes)))
    items = int(offsets[-1])
    eta, phi = rng.uniform(-spread, spread, items), rng.uniform(-math.pi, math.pi, items)
    positions = torch.from_numpy(np.stack([eta, phi], axis=1)).to(dtype)
    near = with_kit(kit, graphs.knn, positions, offsets, 16, phi=1)
    inside = with_kit(kit, graphs.radius, positions, offsets, 0.4, phi=1)
    between = with_kit(kit, graphs.ring, positions, offsets, 0.1, 0.4, phi=1)
    nearest, pairs = [], []
    for start, points in by_event(positions.double(), offsets):
        points[:, 1] %= 2 * math.pi
        if len(points) < 2:
            continue
        tree = cKDTree(points, boxsize=[0, 2 * math.pi])
        _, found = tree.query(points, k=min(17, len(points)))
        nearest.append(
            np.stack([found[:, 1:].ravel(), np.repeat(np.arange(len(points)), found.shape[1] - 1)]) + start
        )
        both = tree.sparse_distance_matrix(tree, 0.4, output_type="coo_matrix")
        pairs.append(np.stack([both.row + start, both.col + start, both.data]))
    wrong = near.numpy() != np.concatenate(nearest, axis=1)
    assert wrong.mean() < 1e-4  # two at one distance in float32 may change places
    assert dtype == torch.float32 or not wrong.any()
    source, target, apart = np.concatenate(pairs, axis=1)
    apart[source == target] = 9.0
    for made, low in ((inside, -1.0), (between, 0.1)):
        chosen = (apart > low) & (apart <= 0.4)
        expected = set(zip(source[chosen].astype(int), target[chosen].astype(int), strict=True))
        odd = expected ^ edge_set(made)
        assert len(odd) <= (4 if dtype == torch.float32 else 0)  # within rounding of a bound


@pytest.mark.parametrize("bounds", [(0.0, 0.3, 0.6, 1.5), (0.2, 0.5), (-2.0, -1.0, 0.0, 0.4)])
def test_rings_are_types_of_edges(bounds):
    rng = np.random.default_rng(2)
    positions = torch.from_numpy(rng.uniform(-3, 3, (300, 2)).astype(np.float32))
    positions[5] = positions[6]
    offsets = torch.tensor([0, 100, 300])
    edges, kind = graphs.rings(positions, offsets, bounds, phi=1)
    assert torch.equal(edges, graphs.ring(positions, offsets, bounds[0], bounds[-1], phi=1))
    for number, (low, high) in enumerate(itertools.pairwise(bounds)):
        if high < 0:
            assert not (kind == number).any()
            continue
        assert torch.equal(edges[:, kind == number], graphs.ring(positions, offsets, low, high, phi=1))


@FEW
@given(events(), st.sampled_from([None, 0, 1]))
def test_attributes_are_wrapped_differences(event, phi):
    positions, offsets = event
    edges = graphs.fully_connected(offsets)
    made = graphs.edge_attributes(positions, edges, phi=phi)
    assert made.shape == (edges.shape[1], 3)
    assert made.dtype == positions.dtype
    for (source, target), (first, second, apart) in zip(edges.t().tolist(), made.tolist(), strict=True):
        expected = (positions[source].double() - positions[target].double()).tolist()
        for number, value in enumerate((first, second)):
            if number == phi:
                assert abs(value) <= math.pi + 1e-5
                assert math.remainder(value - expected[number], 2 * math.pi) == pytest.approx(0, abs=5e-6)
            else:
                assert value == pytest.approx(expected[number], abs=5e-6)
        assert apart == pytest.approx(math.hypot(first, second), abs=1e-5)


def test_attributes_are_those_of_pyg_and_carry_gradients():
    positions = torch.rand(6, 3, requires_grad=True)
    edges = graphs.fully_connected(torch.tensor([0, 4, 6]))
    made = graphs.edge_attributes(positions, edges, phi=None)
    data = Data(pos=positions.detach(), edge_index=edges)
    torch.testing.assert_close(made[:, :3].detach(), Cartesian(norm=False)(data.clone()).edge_attr)
    torch.testing.assert_close(made[:, 3:].detach(), Distance(norm=False)(data.clone()).edge_attr)
    made[:, 3].sum().backward()
    assert positions.grad.abs().sum() > 0


@FEW
@given(events())
def test_whose_event_an_item_and_an_edge_is(event):
    positions, offsets = event
    expected = [number for number, n in enumerate(offsets.diff().tolist()) for _ in range(n)]
    assert graphs.event_of_item(offsets).tolist() == expected
    edges = graphs.knn(positions, offsets, 3, phi=1)
    places = graphs.edge_offsets(edges, offsets)
    for number, (start, stop) in enumerate(itertools.pairwise(places.tolist())):
        assert (graphs.event_of_item(offsets)[edges[:, start:stop]] == number).all()
    assert places[-1] == edges.shape[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_searched_in_single(dtype):
    positions = torch.rand(30, 2).to(dtype)
    offsets = torch.tensor([0, 12, 30])
    assert torch.equal(
        graphs.knn(positions, offsets, 4, phi=1), graphs.knn(positions.float(), offsets, 4, phi=1)
    )


def test_memory_is_that_of_pieces_not_of_all_pairs():
    """An event of 4,000 has 16 million pairs: 64 MB for one float each. Small ones beside it are not padded to it."""
    rng = np.random.default_rng(3)
    counts = np.array([4000] + [5] * 3000)
    offsets = torch.from_numpy(offsets_of(counts))
    positions = torch.from_numpy(rng.uniform(-3, 3, (counts.sum(), 2)).astype(np.float32))
    cloud = graphs._cloud(positions, offsets, 1)
    grid = cells.Cells.of(cloud, 1.0)
    for search in (
        lambda: neighbours.nearest(cloud, 4, False),
        lambda: neighbours.within(cloud, 0.0, 0.001, False),
        lambda: cells.nearest(cloud, 4, False),
        lambda: grid.within(*grid.candidates(), 0.99, 1.0, False),
    ):
        tracemalloc.start()
        edges = search()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 16e6 + 4 * edges.nbytes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"positions": torch.zeros(5)}, "floating"),
        ({"positions": torch.zeros(5, 2, dtype=torch.int64)}, "floating"),
        ({"positions": torch.zeros(4, 2)}, "offsets end at 5, there are 4"),
        ({"positions": torch.full((5, 2), math.nan)}, "NaN"),
        ({"positions": torch.full((5, 2), math.inf)}, "infinite"),
        ({"offsets": torch.tensor([0, 3, 2, 5])}, "do not rise"),
        ({"offsets": torch.tensor([1, 5])}, "do not rise from 0"),
        ({"offsets": torch.tensor([0, 5], dtype=torch.int32)}, r"int32\[2\], they must be int64"),
        ({"offsets": torch.tensor([], dtype=torch.int64)}, "has no offsets"),
        ({"phi": 2}, "phi=2"),
        ({"positions": torch.full((5, 2), 1e30)}, r"not below 1e\+18"),
        ({"k": 0}, "k is 0"),
        ({"k": 2.5}, "k is 2.5"),
    ],
)
def test_mistakes_are_named(change, words):
    given = {"positions": torch.zeros(5, 2), "offsets": torch.tensor([0, 2, 5]), "k": 2, "phi": 1} | change
    with pytest.raises(UserError, match=words) as raised:
        graphs.knn(given["positions"], given["offsets"], given["k"], phi=given["phi"])
    assert raised.value.hint


@pytest.mark.parametrize("phi", [-1, 2])
def test_attributes_need_a_feature_for_phi(phi):
    with pytest.raises(UserError, match=f"phi={phi}"):
        graphs.edge_attributes(torch.zeros(2, 2), torch.tensor([[0], [1]]), phi=phi)


def test_empty_rings_are_named():
    positions, offsets = torch.zeros(5, 2), torch.tensor([0, 5])
    with pytest.raises(UserError, match="below 0"):
        graphs.radius(positions, offsets, -0.1, phi=1)
    with pytest.raises(UserError, match="empty"):
        graphs.ring(positions, offsets, 0.4, 0.4, phi=1)
    with pytest.raises(UserError, match="must rise"):
        graphs.rings(positions, offsets, (0.0, 0.6, 0.3), phi=1)
