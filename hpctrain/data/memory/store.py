"""A dataset in the memory of all ranks: read from disk once, each event then fetched from the rank that has it.

After DDStore (Choi et al., "DDStore: distributed data store for scalable training of graph neural networks on
large atomistic modeling datasets", SC-W 2023): each rank keeps a contiguous part, and groups of ranks keep a whole
copy each.
"""

import hashlib
import shutil
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import psutil
from numpy.typing import NDArray

from hpctrain import machine
from hpctrain.data.columns import (
    Array,
    Columns,
    RaggedRows,
    Rows,
    SparseRows,
    offsets_of,
    take,
)
from hpctrain.data.memory.part import Part
from hpctrain.data.memory.peers import PeerMemory
from hpctrain.data.schema import Fields
from hpctrain.data.shards import ShardDataset
from hpctrain.data.together import together
from hpctrain.errors import UserError
from hpctrain.parallel.communicator import Communicator
from hpctrain.parallel.mpi import MpiCommunicator

SHARED_MEMORY = Path("/dev/shm")
"""Where MPI keeps memory that ranks of a node share; a write beyond its size ends the process with SIGBUS."""

Ints = NDArray[np.int64]


class MemoryStore:
    """The events of a dataset in the memory of the ranks of a group (see ``Source`` in ``windows``).

    What is read belongs to the caller and stays after ``close``. Threads may read at the same time.
    """

    def __init__(self, fields: Fields, parts: Sequence[Part], memory: PeerMemory) -> None:
        self.fields = fields
        self.events = parts[-1].stop
        self._parts = parts
        self._memory = memory
        self._starts = np.array([part.start for part in parts])

    @classmethod
    def fill(
        cls,
        dataset: ShardDataset,
        communicator: Communicator,
        *,
        replica_ranks: int | None = None,
        names: Sequence[str] | None = None,
    ) -> Self:
        """Read this rank's part of ``dataset``; every rank calls it. ``names`` are the fields kept, all by default.

        Ranks are divided evenly into as many groups of at least ``replica_ranks`` neighbours as there can be, each
        of which keeps a whole copy; None, or more than there are, makes one group. Raises ``UserError`` on all
        ranks when it fails on any (damaged shard, not enough memory, an engine other than MPI).
        """
        _require_mpi(communicator)
        known = communicator.gather(hashlib.sha256(dataset.info.model_dump_json().encode()).hexdigest())
        if len(set(known)) > 1:
            raise UserError(
                f"rank {known.index(next(k for k in known if k != known[0]))} sees another dataset than rank 0"
                f" in {dataset.directory}",
                hint="Give all ranks the same data",
            )
        kept = {name: dataset.fields[name] for name in (dataset.fields if names is None else names)}
        number, ranks, members = group_of(communicator.rank, communicator.size, replica_ranks)
        with together(communicator):
            own = Part.measure(
                dataset, kept, dataset.events * number // ranks, dataset.events * (number + 1) // ranks
            )
        everyone: list[Part] = communicator.gather(own)
        _require_room(communicator, own.size, ranks > 1, dataset)
        group = None
        if isinstance(communicator, MpiCommunicator):
            group = communicator.world.Split(members.start, communicator.rank)
        memory = PeerMemory(own.size, group)
        try:
            with together(communicator):
                own.load(dataset, memory.own)
        except Exception:
            memory.close()
            raise
        memory.share()
        store = cls(kept, [everyone[rank] for rank in members], memory)
        if isinstance(communicator, MpiCommunicator):
            communicator.at_close(store.close)
        return store

    @property
    def own_bytes(self) -> int:
        """What this rank holds."""
        return len(self._memory.own)

    def read_range(self, start: int, stop: int, names: Sequence[str] | None = None) -> Columns:
        """Events ``start`` to ``stop``: one fetch of each array from each rank that holds some of them."""
        return self.read_ranges([(start, stop)], names)

    def read_ranges(self, ranges: Sequence[tuple[int, int]], names: Sequence[str] | None = None) -> Columns:
        """Events of all ``ranges`` (start, stop), one after the other."""
        wanted = list(self.fields) if names is None else list(names)
        pieces = list(self._pieces(ranges))
        events = sum(piece.events for piece in pieces)
        columns: Columns = {}
        starts: dict[str, list[Ints]] = {}
        for name in wanted:
            if self.fields[name].kind == "dense":
                array = self._parts[0].arrays[name].empty(events)
                place = 0
                for piece in pieces:
                    self._get(piece.owner, name, piece.first, array[place : place + piece.events])
                    place += piece.events
                columns[name] = array
            else:
                starts[name] = self._begin_starts(name, pieces)
        self._wait(pieces)
        for name, found in starts.items():
            columns[name] = self._begin_values(name, pieces, found)
        if starts:
            self._wait(pieces)
        return {name: columns[name] for name in wanted}

    def read(self, rows: Array, names: Sequence[str] | None = None) -> Columns:
        """The events ``rows`` (int (n,), any order, repeats allowed), in that order."""
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) == 0 or rows.min() < 0 or rows.max() >= self.events:
            raise IndexError(f"rows must be some of 0 to {self.events - 1}")
        wanted, place = np.unique(rows, return_inverse=True)
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1)
        return take(self.read_ranges([(int(run[0]), int(run[-1]) + 1) for run in runs], names), place)

    def counts(self, start: int, stop: int, name: str) -> Ints:
        """Items (or stored cells) of events ``start`` to ``stop`` in a ragged (sparse) field, int64 (stop - start,)."""
        pieces = list(self._pieces([(start, stop)]))
        starts = self._begin_starts(name, pieces)
        self._wait(pieces)
        return np.concatenate([np.diff(found) for found in starts])

    def close(self) -> None:
        """Give the memory back. All ranks call it, or leave it to ``close`` of the communicator.

        Threads that read at that time, as those of a loader do, get what they read whole, or a ``ValueError``.
        """
        self._memory.close()

    def _begin_starts(self, name: str, pieces: Sequence["Piece"]) -> list[Ints]:
        """Where in its owner's values each event of each piece begins, and the last one ends."""
        arrays = [np.empty(piece.events + 1, dtype=np.int64) for piece in pieces]
        for piece, array in zip(pieces, arrays, strict=True):
            self._get(piece.owner, f"{name}/offsets", piece.first, array)
        return arrays

    def _begin_values(self, name: str, pieces: Sequence["Piece"], starts: Sequence[Ints]) -> Rows:
        offsets = offsets_of(np.concatenate([np.diff(found) for found in starts]))
        ends = ("/indices", "/values") if self.fields[name].kind == "sparse" else ("/values",)
        arrays = [self._parts[0].arrays[name + end].empty(int(offsets[-1])) for end in ends]
        place = 0
        for piece, found in zip(pieces, starts, strict=True):
            items = int(found[-1] - found[0])
            for end, array in zip(ends, arrays, strict=True):
                self._get(piece.owner, name + end, int(found[0]), array[place : place + items])
            place += items
        return SparseRows(offsets, *arrays) if len(arrays) == 2 else RaggedRows(offsets, *arrays)

    def _pieces(self, ranges: Sequence[tuple[int, int]]) -> Iterator["Piece"]:
        for start, stop in ranges:
            if not 0 <= start < stop <= self.events:
                raise IndexError(f"rows {start} to {stop} must lie in 0 to {self.events}")
            first = int(np.searchsorted(self._starts, start, side="right")) - 1
            for owner in range(first, len(self._parts)):
                part = self._parts[owner]
                low, high = max(start, part.start), min(stop, part.stop)
                if low < high:
                    yield Piece(owner, low - part.start, high - low)
                if stop <= part.stop:
                    break

    def _get(self, owner: int, path: str, first: int, into: Array) -> None:
        array = self._parts[owner].arrays[path]
        self._memory.get(owner, array.place + first * array.row_bytes, into)

    def _wait(self, pieces: Sequence["Piece"]) -> None:
        self._memory.wait(sorted({piece.owner for piece in pieces}))


@dataclass(frozen=True)
class Piece:
    """Neighbouring events that one rank holds."""

    owner: int
    first: int
    """Counted from the first event of the owner."""
    events: int


def group_of(rank: int, size: int, replica_ranks: int | None) -> tuple[int, int, range]:
    """(number of this rank in its group, ranks of the group, ranks of the job that are in it).

    >>> [group_of(rank, 5, 2)[2] for rank in (0, 4)]
    [range(0, 3), range(3, 5)]
    """
    groups = max(1, size // (replica_ranks or size))
    group = next(g for g in range(groups) if rank < -(-size * (g + 1) // groups))
    members = range(-(-size * group // groups), -(-size * (group + 1) // groups))
    return rank - members.start, len(members), members


def _require_mpi(communicator: Communicator) -> None:
    if communicator.size == 1:
        return
    if not isinstance(communicator, MpiCommunicator):
        raise UserError(
            "data.store=memory needs MPI between the ranks, and they are joined by another engine",
            hint="Set launch.engine=mpi, or data.store=disk",
        )
    from mpi4py import MPI

    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise UserError(
            "data.store=memory fetches events from a thread of its own, and MPI was started without "
            "MPI_THREAD_MULTIPLE",
            hint="Use an MPI that has it (unset MPI4PY_RC_THREAD_LEVEL if it is set), or data.store=disk",
        )


def _require_room(communicator: Communicator, size: int, shared: bool, dataset: ShardDataset) -> None:
    """Raise ``UserError`` on all ranks when the memory of a node is less than its ranks are about to take."""
    node = socket.gethostname()
    memory = min(psutil.virtual_memory().available, machine.memory_bytes())
    segment = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else memory
    asked: list[tuple[str, int, bool, int, int]] = communicator.gather((node, size, shared, memory, segment))
    for name in dict.fromkeys(line[0] for line in asked):
        lines = [line for line in asked if line[0] == name]
        wanted, free = sum(line[1] for line in lines), min(line[3] for line in lines)
        what = f"the {len(lines)} ranks on {name} would keep {{:.1f}} MB of {dataset.directory} in memory"
        if wanted > free:
            raise UserError(
                f"{what.format(wanted / 1e6)}, {free / 1e6:.1f} MB are free",
                hint="Use more nodes, a larger data.replica_ranks, or data.store=disk",
            )
        wanted, free = sum(line[1] for line in lines if line[2]), min(line[4] for line in lines)
        if len(lines) > 1 and wanted > free:
            raise UserError(
                f"{what.format(wanted / 1e6)}, {free / 1e6:.1f} MB are free in {SHARED_MEMORY}, where they share it",
                hint="Make that larger (docker run --shm-size, mount -o remount,size=…), or use data.store=disk",
            )
