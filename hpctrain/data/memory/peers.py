"""Memory that each rank of a group fills and all of them read, without disturbing its owner (MPI one-sided)."""

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpctrain.errors import UserError

GET_BYTES = 2**23
"""Fetched by one call: MPICH holds its lock for the whole copy, and the training thread wants it in between."""


class PeerMemory:
    """``size`` bytes of this rank, in ``own``, and those of the other ranks of ``group``.

    ``group`` is an mpi4py communicator, which belongs to this object from now on; None is a rank alone. Every
    rank of the group makes the object, fills ``own``, and calls ``share`` and ``close``. In between any thread
    may ``get`` and ``wait``. A thread that still does while another one calls ``close`` ends what it has begun;
    what it begins after that is refused (``ValueError``).
    """

    def __init__(self, size: int, group: Any | None) -> None:
        self._group = group
        self._window: Any = None
        self._shared = False
        self._closed = False
        self._fetching = 0
        """Threads in MPI, or copying from ``own``."""
        self._changed = threading.Condition()
        self.rank: int = 0 if group is None else group.Get_rank()
        if group is None or group.Get_size() == 1:
            self.own: NDArray[np.uint8] = np.empty(size, dtype=np.uint8)
            return
        from mpi4py import MPI

        try:
            # Allocated by MPI, not by us: on one node it is then shared memory, from which a peer copies whatever
            # the owner does. Memory of ours would be sent by the owner, whenever that comes by.
            self._window = MPI.Win.Allocate(size, 1, MPI.INFO_NULL, group)
        except MPI.Exception as error:
            raise UserError(
                f"MPI cannot allocate {size / 1e6:.1f} MB for data.store=memory: {error}",
                hint="Use more nodes or data.store=disk",
            ) from error
        self.own = np.frombuffer(self._window.tomemory(), dtype=np.uint8)

    def share(self) -> None:
        """Let the others read; nothing is written from now on."""
        self.own.flags.writeable = False
        if self._window is not None:
            from mpi4py import MPI

            # One access epoch for the whole life: nobody writes, so nobody has to be kept out.
            self._window.Lock_all(MPI.MODE_NOCHECK)
            self._shared = True
            self._window.Sync()
            self._group.Barrier()  # type: ignore[union-attr]

    def get(self, owner: int, place: int, into: NDArray[Any]) -> None:
        """Begin to fetch the bytes of ``owner`` from ``place`` on into a contiguous array; ``wait`` ends it."""
        if not into.size:
            return
        target = into.reshape(-1).view(np.uint8)
        with self._held():
            if owner == self.rank:
                target[:] = self.own[place : place + len(target)]
                return
            from mpi4py import MPI

            for start in range(0, len(target), GET_BYTES):
                piece = target[start : start + GET_BYTES]
                self._window.Get([piece, MPI.BYTE], owner, (place + start, len(piece), MPI.BYTE))

    def wait(self, owners: Iterable[int]) -> None:
        """Until all is there that was begun to be fetched from ``owners``."""
        with self._held():
            for owner in owners:
                if owner != self.rank:
                    self._window.Flush(owner)

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Keep the memory from being given back. Raises ``ValueError`` when it was."""
        with self._changed:
            if self._closed:
                raise ValueError("this memory was given back")
            self._fetching += 1
        try:
            yield
        finally:
            with self._changed:
                self._fetching -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Give the memory back, all ranks together; what was fetched stays."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._fetching)
        self.own = np.empty(0, dtype=np.uint8)
        if self._window is not None:
            if self._shared:
                self._window.Unlock_all()
            self._window.Free()
            self._window = None
        if self._group is not None:
            self._group.Free()
            self._group = None
