"""How large the pieces of an order are when nobody says: from the size of an event and of a batch alone.

Never from the number of ranks: the order would then depend on it.
"""

from hpctrain.data.order import Order

WINDOW_BYTES = 2**28
"""What a window takes, over all ranks together …"""
SAMPLE_BYTES = 2**16
"""… or this much for each sample of a global batch, where that is more: large batches have many ranks."""
MOST_EVENTS = 2**16
BLOCK_BYTES = 2**20
"""A read of this size costs a disk or a parallel file system little more than a shorter one."""
BLOCKS_OF_A_LANE = 4
"""Blocks that a lane's window has at least: windows end within blocks, and those are then read twice."""


def order_for(
    events: int,
    row_bytes: float,
    global_batch_size: int,
    seed: int,
    *,
    block: int | None = None,
    window: int | None = None,
    lanes: int | None = None,
) -> Order:
    """The order of ``events`` events of ``row_bytes`` bytes in memory; what is None is chosen."""
    block = block or block_for(row_bytes)
    window = window or window_for(row_bytes, global_batch_size)
    lanes = lanes or lanes_for(global_batch_size, window // (BLOCKS_OF_A_LANE * block))
    return Order(events, global_batch_size, seed, block=block, window=window, lanes=lanes)


def window_for(row_bytes: float, global_batch_size: int) -> int:
    """Events of a window: a power of two, but 4 global batches at least; 65,536 or 16 batches at most.

    >>> window_for(2000, 512), window_for(600_000, 128), window_for(2000, 25_600)
    (65536, 512, 409600)
    """
    events = max(WINDOW_BYTES, SAMPLE_BYTES * global_batch_size) / max(row_bytes, 1)
    fitting = 2 ** (max(1, int(events)).bit_length() - 1)
    most = max(MOST_EVENTS, 16 * global_batch_size)
    return int(max(4 * global_batch_size, min(most, fitting)))


def block_for(row_bytes: float) -> int:
    """Events of a block: a power of two from 64, which share a checksum, to 256.

    >>> block_for(2000), block_for(600_000)
    (256, 64)
    """
    events = max(1, int(BLOCK_BYTES / max(row_bytes, 1)))
    return int(min(256, max(64, 2 ** (events.bit_length() - 1))))


def lanes_for(global_batch_size: int, most: int) -> int:
    """As many lanes as ``most`` allows that deal a batch evenly: then ranks that divide them meet in none.

    Where no such number is near, as for a batch of 509, ``most``: ranks then share the lane in which two of them meet.

    >>> lanes_for(512, 64), lanes_for(1000, 64), lanes_for(509, 64), lanes_for(32, 64), lanes_for(512, 0)
    (64, 50, 64, 32, 1)
    """
    most = max(1, min(most, global_batch_size))
    for lanes in range(most, most // 2, -1):
        if global_batch_size % lanes == 0:
            return lanes
    return most
