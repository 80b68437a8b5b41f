"""Graphs on a device that is not the CPU: the same edges, nothing of two devices in one operation, few waits.

The device is not there: its tensors say ``meta`` and are computed on the CPU, so that what is written for a GPU runs
without one, and is held to what a GPU would refuse or wait for.
"""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from hpctrain.data.columns import offsets_of
from hpctrain.data.graphs import edges as graphs
from hpctrain.data.graphs import pyg
from hpctrain.errors import UserError

ELSEWHERE = torch.device("meta")
WAITS = ("_local_scalar_dense", "nonzero", "bincount", "masked_select", "unique", "equal")
"""Operations whose result the host must have before it goes on."""


class _Elsewhere(torch.Tensor):
    held: torch.Tensor

    @staticmethod
    def __new__(cls, real: torch.Tensor) -> Any:
        return torch.Tensor._make_wrapper_subclass(
            cls, real.shape, strides=real.stride(), storage_offset=real.storage_offset(), dtype=real.dtype,
            device=ELSEWHERE,
        )  # fmt: skip

    def __init__(self, real: torch.Tensor) -> None:
        self.held = real

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside of Device()")


class Device(TorchDispatchMode):
    """Where tensors of ``ELSEWHERE`` can be made and computed with. ``waits`` are the operations waited for.

    Raises ``RuntimeError``, as a GPU does, when one operation has tensors of both sides.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = _Elsewhere(tensor.clone())
        return made

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
        ours = [tensor for tensor in given if isinstance(tensor, _Elsewhere)]
        target = kwargs.get("device")
        if (
            name not in {"_to_copy", "copy_"}
            and ours
            and any(t.ndim for t in given if not isinstance(t, _Elsewhere))
        ):
            raise RuntimeError(f"{name}: expected all tensors to be on the same device")
        to_host = ours and target is not None and torch.device(target) != ELSEWHERE
        if to_host or (ours and name in WAITS):
            self.waits.append(name)
        if ours and name == "repeat_interleave" and kwargs.get("output_size") is None:
            self.waits.append(name)
        here = not to_host and (ours or (target is not None and torch.device(target) == ELSEWHERE))
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        wrappers = {id(tensor.held): tensor for tensor in ours}
        args, kwargs = tree_map(lambda v: v.held if isinstance(v, _Elsewhere) else v, (args, kwargs))
        made = func(*args, **kwargs)

        def wrap(value: Any) -> Any:
            if not here or not isinstance(value, torch.Tensor):
                return value
            return wrappers.get(id(value)) if id(value) in wrappers else _Elsewhere(value)

        return tree_map(wrap, made)


BUILDERS = {
    "fully_connected": lambda x, offsets: graphs.fully_connected(offsets),
    "knn": lambda x, offsets: graphs.knn(x, offsets, 4, phi=1),
    "radius": lambda x, offsets: graphs.radius(x, offsets, 0.3, phi=1),
    "ring": lambda x, offsets: graphs.ring(x, offsets, 0.1, 0.3, phi=1),
    "rings": lambda x, offsets: graphs.rings(x, offsets, (0, 0.1, 0.3), phi=1),
    "edge_attributes": lambda x, offsets: graphs.edge_attributes(
        x, graphs.radius(x, offsets, 0.3, phi=1), phi=1
    ),
    "event_of_item": lambda x, offsets: graphs.event_of_item(offsets, len(x)),
    "edge_offsets": lambda x, offsets: graphs.edge_offsets(graphs.knn(x, offsets, 4, phi=1), offsets),
}


def points(events: int, largest: int, dtype: type) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(events)
    counts = rng.integers(0, largest, events)
    counts[:2] = largest, 0
    x = rng.uniform(-3, 3, (counts.sum(), 2)).astype(dtype)
    return torch.from_numpy(x), torch.from_numpy(offsets_of(counts))


def parts(made):
    return made if isinstance(made, tuple) else (made,)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("events", "largest"), [(5, 20), (300, 20), (3, 1200)])
@pytest.mark.parametrize("builder", BUILDERS)
def test_edges_are_those_of_the_cpu(builder, events, largest, dtype):
    x, offsets = points(events, largest, dtype)
    expected = parts(BUILDERS[builder](x, offsets))
    with Device() as device:
        made = parts(BUILDERS[builder](device.put(x), device.put(offsets)))
        assert [part.device for part in made] == [ELSEWHERE] * len(expected)
        for part, there in zip(made, expected, strict=True):
            torch.testing.assert_close(part.cpu(), there, rtol=0, atol=0)


@pytest.mark.parametrize("builder", BUILDERS)
def test_a_device_is_waited_for_as_often_whatever_the_number_of_events(builder):
    waits = []
    for events in (5, 300):
        x, offsets = points(events, 20, np.float32)
        with Device() as device:
            BUILDERS[builder](device.put(x), device.put(offsets))
            waits.append(Counter(device.waits))
    assert waits[0] == waits[1]
    # Offsets and the check for NaN; the number of edges where it follows from the positions.
    most = {"fully_connected": 1, "event_of_item": 0, "knn": 2, "edge_offsets": 2}
    assert waits[0].total() <= most.get(builder, 3)


def test_nan_is_found_there():
    x, offsets = points(5, 20, np.float32)
    x[3, 0] = torch.nan
    with Device() as device, pytest.raises(UserError, match="NaN, infinite"):
        graphs.knn(device.put(x), device.put(offsets), 4, phi=1)


def test_to_pyg_and_back_stays_there():
    x, offsets = points(5, 20, np.float32)
    batch = {"p": x, "p.offsets": offsets, "label": torch.arange(5)}
    with Device() as device:
        there = {name: device.put(tensor) for name, tensor in batch.items()}
        edges = graphs.knn(there["p"], there["p.offsets"], 4, phi=1)
        joined = pyg.to_pyg(there, "p", edge_index=edges)
        assert {joined[name].device for name in ("x", "y", "edge_index", "batch", "ptr")} == {ELSEWHERE}
        back = pyg.from_pyg(joined, nodes="p", label="label")
        for name, tensor in batch.items():
            assert torch.equal(back[name].cpu(), tensor)
        own = back["edge_index"].cpu()
    of_event = offsets[graphs.event_of_item(offsets)[graphs.knn(x, offsets, 4, phi=1)[1]]]
    assert torch.equal(own, (graphs.knn(x, offsets, 4, phi=1) - of_event).t())


def test_the_device_refuses_and_counts_as_a_gpu_does():
    with Device() as device:
        x = device.put(torch.arange(3.0))
        with pytest.raises(RuntimeError, match="same device"):
            x + torch.arange(3.0)
        assert (x + 1).device == ELSEWHERE
        assert device.waits == []
        assert float(x.max()) == 2
        assert x.cpu().tolist() == [0, 1, 2]
        assert device.waits == ["_local_scalar_dense", "_to_copy"]
