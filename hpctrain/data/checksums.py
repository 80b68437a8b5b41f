"""Checksums that let any part of a shard be verified without reading the rest.

The events of a shard are cut into blocks of ``BLOCK_ROWS``. Each array in the file has a table with the XXH3-64
of every block's bytes, kept in the shard itself; the XXH3-128 of all tables is the shard's ``digest`` and stands
in ``dataset.json``. So a reader holds the few events that it takes to the dataset it opened: a flipped byte, a
truncated file or a shard of another dataset is found at the cost of the bytes read, whatever the shard's size.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import xxhash
from numpy.typing import NDArray

from hpctrain.data.columns import Array, Columns, RaggedRows, SparseRows

BLOCK_ROWS = 64
"""Events that share a checksum; fixed by the format."""

Tables = Mapping[str, NDArray[np.uint64]]
"""Path of an array in the file → checksum of each block."""


def arrays(columns: Columns) -> Iterator[tuple[str, Array, Array | None]]:
    """(path in the file, array, offsets by which rows own parts of it, or None where a row is a row)."""
    for name, values in columns.items():
        if isinstance(values, SparseRows):
            yield f"{name}/offsets", values.offsets, None
            yield f"{name}/indices", values.indices, values.offsets
            yield f"{name}/values", values.values, values.offsets
        elif isinstance(values, RaggedRows):
            yield f"{name}/offsets", values.offsets, None
            yield f"{name}/values", values.values, values.offsets
        else:
            yield name, values, None


def tables(columns: Columns, events: int) -> dict[str, NDArray[np.uint64]]:
    """The checksum tables of a shard's columns, in the order of ``arrays``."""
    starts = np.arange(0, events, BLOCK_ROWS)
    found = {}
    for path, array, offsets in arrays(columns):
        bounds = np.append(starts, events)
        if offsets is not None:
            bounds = offsets[bounds]
        found[path] = checksums(array, bounds, overlap=path.endswith("/offsets"))
    return found


def checksums(array: Array, bounds: Array, *, overlap: bool = False) -> NDArray[np.uint64]:
    """XXH3-64 of the bytes of ``array[bounds[i]:bounds[i+1]]``; ``overlap`` takes one item more of each.

    Offsets overlap: the rows of a block need the place where the last of them ends.
    """
    array = np.ascontiguousarray(array)
    more = int(overlap)
    sums = [
        xxhash.xxh3_64_intdigest(array[start : stop + more].data)
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    ]
    return np.array(sums, dtype=np.uint64)


def digest(tables: Tables, events: int) -> str:
    """Hexadecimal XXH3-128 of a shard's tables: ``events`` as decimal text, then each path and its table, by path."""
    total = xxhash.xxh3_128(str(events).encode())
    for path in sorted(tables):
        total.update(path.encode())
        total.update(tables[path].astype("<u8").tobytes())
    return total.hexdigest()
