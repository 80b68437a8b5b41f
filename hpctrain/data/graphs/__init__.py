"""Graphs of events: edges between items, who is near whom, and the exchange with PyTorch Geometric (``pyg``)."""

from hpctrain.data.graphs.edges import (
    edge_attributes,
    edge_offsets,
    event_of_item,
    fully_connected,
    knn,
    radius,
    ring,
    rings,
)

__all__ = [
    "edge_attributes",
    "edge_offsets",
    "event_of_item",
    "fully_connected",
    "knn",
    "radius",
    "ring",
    "rings",
]
