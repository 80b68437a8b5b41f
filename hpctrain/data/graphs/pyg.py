"""To PyTorch Geometric and back: ragged batches ↔ ``Batch``, columns of events ↔ a list of ``Data``.

Tensors are handed over, not copied event by event. An edge of an event on its own, in columns and shards, is two
numbers of items of that event: the ragged field ``edge_index`` int64 (edges, 2), source then target. Joined into one
``Batch`` it is (2, edges) with numbers of the items of all events.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpctrain.data.batches import Batch
from hpctrain.data.columns import Columns, RaggedRows, SparseRows
from hpctrain.data.graphs.edges import edge_offsets, event_of_item
from hpctrain.errors import UserError

OF_ITEMS = ("x", "pos", "edge_index", "edge_attr", "edge_weight")
"""Attributes of PyTorch Geometric that are lists, even where each event has one item."""


def to_pyg(
    batch: Batch,
    nodes: str,
    *,
    label: str = "label",
    edge_index: Tensor | None = None,
    edge_attr: Tensor | None = None,
) -> Any:
    """The ``torch_geometric.data.Batch`` of a ragged batch, which can be taken apart again (``to_data_list``).

    The ragged field ``nodes`` becomes ``x``, the field ``label`` (where there is one) ``y``. ``edge_index`` (2, edges)
    are edges made by ``graphs``, ``edge_attr`` (edges, …) their attributes; without it those of the fields of these
    names, if any. Other ragged fields come with a ``NAME_batch`` and a ``NAME_ptr``.
    """
    torch_geometric = _torch_geometric()
    if f"{nodes}.offsets" not in batch:
        there = ", ".join(name.removesuffix(".offsets") for name in batch if name.endswith(".offsets"))
        raise UserError(
            f"nodes='{nodes}' is no ragged field of this batch", hint=f"It has: {there or 'none'}"
        )
    offsets = batch[f"{nodes}.offsets"]
    made = dict(batch)
    if edge_index is not None:
        made = {name: values for name, values in batch.items() if not name.startswith("edge_")}
        made |= _own_edges(edge_index, offsets)
        if edge_attr is not None:
            made |= {"edge_attr": edge_attr, "edge_attr.offsets": made["edge_index.offsets"]}
    graphs = torch_geometric.data.Batch(_base_cls=torch_geometric.data.Data)
    slices, increments = {}, {}
    events = len(offsets) - 1
    each = torch.arange(events + 1)
    none = torch.zeros(events, dtype=torch.int64)
    for name in [name for name in made if not name.endswith(".offsets")]:
        key, values = {nodes: "x", label: "y"}.get(name, name), made[name]
        if key in slices:
            raise UserError(f"two fields would be '{key}' of the graph", hint=f"Rename the field '{key}'")
        slices[key], increments[key] = made.get(f"{name}.offsets", each), none
        if key == "edge_index":
            increments[key] = offsets[:-1]
            if edge_index is None:
                values = _joined(values, offsets, slices[key])
        elif "index" in key and values.ndim > 1:
            raise UserError(
                f"field '{name}': PyTorch Geometric takes it for numbers of nodes",
                hint="Rename it, without 'index'",
            )
        elif f"{name}.offsets" in made and key != "x" and not key.startswith("edge_"):
            graphs[f"{key}_batch"] = event_of_item(slices[key], len(values))
            graphs[f"{key}_ptr"] = slices[key]
        graphs[key] = values
    graphs.batch, graphs.ptr = event_of_item(offsets, len(batch[nodes])), offsets
    graphs._num_graphs, graphs._slice_dict, graphs._inc_dict = events, slices, increments
    return graphs


def from_pyg(graphs: Any, *, nodes: str = "x", label: str = "y", ragged: Collection[str] = ()) -> Batch:
    """The ragged batch of a ``torch_geometric.data.Batch``, with ``x`` and ``y`` under the names asked for.

    An attribute of which every event has one (or a first axis of length 1) is one value for each event; all others
    are ragged, and so are x, pos, edges and what is named in ``ragged``, always.
    """
    slices, increments = getattr(graphs, "_slice_dict", None), getattr(graphs, "_inc_dict", None)
    if slices is None or increments is None or not isinstance(graphs, _torch_geometric().data.Data):
        raise UserError(
            f"a {type(graphs).__name__} cannot be taken apart into events",
            hint="Give a torch_geometric Batch made by Batch.from_data_list or its DataLoader",
        )
    batch: Batch = {}
    for key, places in slices.items():
        values = graphs[key]
        if not isinstance(values, Tensor) or not isinstance(places, Tensor) or places.ndim != 1:
            raise UserError(
                f"attribute '{key}' of the graphs is no tensor", hint="Delete it from each Data first"
            )
        offsets = places.to(values.device)
        values = values.movedim(graphs.__cat_dim__(key, values) or 0, 0)
        added = increments[key]
        if added is not None and bool((added != 0).any()):
            if added.ndim != 1:
                raise UserError(
                    f"attribute '{key}' joins two kinds of nodes", hint="Use Data with one kind of nodes"
                )
            added = added.to(values.device)[event_of_item(offsets, len(values))]
            values = values - added.reshape(-1, *[1] * (values.ndim - 1))
        name = {"x": nodes, "y": label}.get(key, key)
        batch[name] = values.contiguous()
        if key in OF_ITEMS or name in ragged or key in ragged or bool((offsets.diff() != 1).any()):
            batch[f"{name}.offsets"] = offsets
    return batch


def columns_of(
    graphs: Sequence[Any], *, nodes: str = "x", label: str = "y", ragged: Collection[str] = ()
) -> Columns:
    """Columns of a list of ``Data``, one event each: for a ``ShardWriter``. Other arguments as of ``from_pyg``."""
    if not graphs:
        raise UserError("there are no graphs to take columns from", hint="Give one Data at least")
    joined = _torch_geometric().data.Batch.from_data_list(list(graphs))
    batch = from_pyg(joined, nodes=nodes, label=label, ragged=ragged)
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in batch.items()}
    columns: Columns = {}
    for name, array in arrays.items():
        if f"{name}.offsets" in arrays:
            columns[name] = RaggedRows(arrays[f"{name}.offsets"], array)
        elif not name.endswith(".offsets"):
            columns[name] = array
    return columns


def graphs_of(columns: Columns, nodes: str, *, label: str = "label") -> list[Any]:
    """A ``Data`` for each event of ``columns``: ``x`` is the field ``nodes``, ``y`` the field ``label``."""
    batch: Batch = {}
    for name, values in columns.items():
        if isinstance(values, SparseRows):
            raise UserError(
                f"field '{name}' is sparse, a graph has no such thing", hint=f"Leave '{name}' out"
            )
        if isinstance(values, RaggedRows):
            batch[name] = torch.from_numpy(np.array(values.values))
            batch[f"{name}.offsets"] = torch.from_numpy(np.array(values.offsets))
        else:
            batch[name] = torch.from_numpy(np.array(values))
    graphs: list[Any] = to_pyg(batch, nodes, label=label).to_data_list()
    return graphs


def _own_edges(edge_index: Tensor, offsets: Tensor) -> Batch:
    """Where the edges of each event begin, after a look at whether they are one event after the other."""
    if edge_index.dtype != torch.int64 or edge_index.ndim != 2 or len(edge_index) != 2:
        raise UserError(
            f"edge_index is {edge_index.dtype} {list(edge_index.shape)}, it must be int64 (2, edges)",
            hint="Make it with hpctrain.data.graphs",
        )
    event = event_of_item(offsets)[edge_index]
    if not bool((event[0] == event[1]).all() & (event[1].diff() >= 0).all()):
        raise UserError(
            "edge_index has edges between events, or its edges are not one event after the other",
            hint="Make it with hpctrain.data.graphs from the same offsets",
        )
    return {"edge_index": edge_index, "edge_index.offsets": edge_offsets(edge_index, offsets)}


def _joined(edges: Tensor, offsets: Tensor, edge_places: Tensor) -> Tensor:
    """Edges (edges, 2) of each event on its own, of any integer type → int64 (2, edges) of the batch."""
    first = offsets[:-1].repeat_interleave(edge_places.diff(), output_size=len(edges))
    joined = torch.empty((2, len(edges)), dtype=torch.int64, device=edges.device)
    for end in (0, 1):  # one by one: turning a (edges, 2) round takes longer than all the rest
        torch.add(edges[:, end], first, out=joined[end])
    return joined


def _torch_geometric() -> Any:
    try:
        import torch_geometric
        import torch_geometric.data
    except ImportError as error:
        raise UserError(
            "graphs for PyTorch Geometric need the package torch_geometric",
            hint="pip install 'hpctrain[graphs]'",
        ) from error
    return torch_geometric
