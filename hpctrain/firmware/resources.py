"""What the firmware needs on the chip: exact counts of multiplications, and estimates labelled as such.

Nothing here comes from a synthesis tool. Counts are exact; multipliers, DSPs and cycles are estimates from
hls4ml's own structure (``nnet_dense_resource.h``, ``nnet_conv2d_stream.h``) and the width of a DSP slice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hpctrain.compress.fixed_point import FixedPoint
from hpctrain.compress.prune import MaskedLayer
from hpctrain.compress.types import LayerTypes
from hpctrain.firmware.twin import firmware_name

DSP_WIDTHS = (25, 18)
"""Signed operands of one DSP48E1 multiplier (a DSP48E2 takes 27×18)."""
MOVE_CYCLES = 6
"""Cycles per output position that hls4ml reckons for moving data in a streamed convolution."""


def dsps_per_multiplier(a: FixedPoint, b: FixedPoint) -> int:
    """DSP slices of one product of two types: 1 up to 25×18 bits signed, more when it has to be tiled.

    An unsigned operand needs a bit more for its sign. Each further tile of a signed operand is one bit
    narrower than the slice. Tools may put narrow products into LUTs instead: an upper bound.
    """
    widths = sorted((kind.width + (not kind.signed) for kind in (a, b)), reverse=True)
    return min(_tiles(widths[0], x) * _tiles(widths[1], y) for x, y in (DSP_WIDTHS, DSP_WIDTHS[::-1]))


def _tiles(width: int, slice_width: int) -> int:
    return max(1, math.ceil((width - 1) / (slice_width - 1)))


def count_weights(weight: Tensor, kind: FixedPoint) -> dict[str, int]:
    """Weights (any shape, on the grid of ``kind``): all, ``nonzero``, and ``multiplied``.

    A product with a power of two is a shift, so ``multiplied`` counts the non-zero others: the real
    multiplications of one application.
    """
    codes = torch.round(weight.double() / kind.step).abs().long().flatten()
    nonzero = codes[codes > 0]
    shifts = int(((nonzero & (nonzero - 1)) == 0).sum())
    return {
        "weights": codes.numel(),
        "nonzero_weights": nonzero.numel(),
        "multiplied": nonzero.numel() - shifts,
    }


def layer_resources(
    types: Sequence[LayerTypes],
    input_shape: tuple[int, ...],
    reuse: Mapping[str, int],
    strategy: str,
    io_type: str,
) -> list[dict[str, Any]]:
    """One record per layer with weights: exact counts, then ``multipliers``, ``dsp`` and ``interval_cycles``.

    ``reuse`` is firmware layer name → reuse factor in effect. ``multiplications`` are those of one event (all
    positions). With ``Resource`` weights sit in memory, so zeros are multiplied too; with ``Latency`` zeros and
    powers of two vanish from the design at reuse 1.
    """
    records = []
    shape = torch.zeros(1, *input_shape, dtype=torch.float64)
    for entry in types:
        before = shape
        if entry.layer is None:
            continue
        with torch.no_grad():
            shape = entry.layer.double()(shape)
        if not isinstance(entry.layer, MaskedLayer) or entry.weight is None:
            continue
        name = firmware_name(entry.name)
        counts = count_weights(entry.layer.effective()[0], entry.weight)
        positions = math.prod(shape.shape[2:])
        factor = reuse[name]
        shared = counts["weights"] if strategy == "Resource" else counts["multiplied"]
        multipliers = math.ceil(shared / factor)
        records.append(
            {
                "name": name,
                "positions": positions,
                **counts,
                "multiplications": counts["nonzero_weights"] * positions,
                "reuse_factor": factor,
                "multipliers": multipliers,
                "dsp": multipliers * dsps_per_multiplier(entry.inputs, entry.weight),
                "weight_memory_bits": counts["weights"] * entry.weight.width,
                "interval_cycles": _interval(
                    entry.layer, before.shape[2:], positions, factor, strategy, io_type
                ),
            }
        )
    return records


def _interval(
    layer: nn.Module, shape: Sequence[int], positions: int, factor: int, strategy: str, io_type: str
) -> int:
    """Cycles before the layer takes the next event.

    A streamed convolution reads one padded pixel after another and is busy for the reuse factor at each position
    of the output (plus the moves between, where the loop is not pipelined).
    """
    if isinstance(layer, nn.Linear) or io_type == "io_parallel":
        return factor * (1 if isinstance(layer, nn.Linear) else positions)
    padding: Any = layer.padding
    padded = math.prod(size + 2 * int(pad) for size, pad in zip(shape, padding, strict=True))
    busy = factor + (MOVE_CYCLES if strategy == "Resource" else 0)
    return max(padded, (padded - positions) + positions * busy)


def estimates(layers: Sequence[Mapping[str, Any]], clock_period: float) -> dict[str, Any]:
    """Sums over the records of ``layer_resources``, each an estimate.

    In a dataflow design the slowest layer sets the interval between events.
    """
    slowest = max(layers, key=lambda record: int(record["interval_cycles"]))
    cycles = int(slowest["interval_cycles"])
    return {
        "kind": "estimate",
        "note": "from hls4ml's structure and operand widths, without a synthesis tool; "
        "dsp is an upper bound (narrow products may go to LUTs)",
        "multiplications": sum(int(record["multiplications"]) for record in layers),
        "multipliers": sum(int(record["multipliers"]) for record in layers),
        "dsp": sum(int(record["dsp"]) for record in layers),
        "weight_memory_bits": sum(int(record["weight_memory_bits"]) for record in layers),
        "interval_cycles": cycles,
        "interval_us": cycles * clock_period / 1000.0,
        "clock_period_ns": clock_period,
        "slowest_layer": slowest["name"],
    }
