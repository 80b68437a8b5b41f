"""torch.distributed on MPI: a process group over mpi4py, for what torch itself builds on one (DDP, FSDP, its hooks).

The torch wheels know MPI only when built from source. Collectives run one after the other on a thread of the group,
so they overlap with the backward pass; the thread's order is the order of the calls, the same on every rank.
"""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import TCPStore, _create_work_from_future  # type: ignore[attr-defined]
from torch.futures import Future

from hpctrain.parallel.mpi import MpiCommunicator

BACKEND = "mpi4py"
_open: list["MpiProcessGroup"] = []
_world: list[MpiCommunicator] = []


def use_mpi_for_torch(communicator: MpiCommunicator, timeout_s: float = 300.0) -> None:
    """Make torch.distributed's default group, and those of ``new_group``, run on the ranks of ``communicator``.

    Every rank calls it once. Nothing need be exported: MPI tells ranks where they meet. ``close`` of the
    communicator leaves torch.distributed in good order first.
    """
    if BACKEND.upper() not in vars(dist.Backend):
        dist.Backend.register_backend(BACKEND, _create, extended_api=True, devices=["cpu"])
    hosts = communicator.gather(socket.gethostname())
    host = "127.0.0.1" if len(set(hosts)) == 1 else hosts[0]
    patience = timedelta(seconds=timeout_s)
    first = communicator.rank == 0
    store = TCPStore(host, 0, None, True, patience, wait_for_workers=False) if first else None
    port = communicator.gather(store.port if store is not None else None)[0]
    store = store or TCPStore(host, port, None, False, patience, wait_for_workers=False)
    _world.append(communicator)
    dist.init_process_group(
        BACKEND, store=store, rank=communicator.rank, world_size=communicator.size, timeout=patience
    )
    communicator.at_close(_leave)


def _leave() -> None:
    while _open:  # the last made goes first, on every rank alike
        _open.pop().close()
    dist.destroy_process_group()
    _world.clear()


def _create(options: Any, _: Any) -> "MpiProcessGroup":
    """Called by torch on the members of a new group, and only there."""
    world = _world[0].world
    members = list(options.global_ranks_in_group)
    if members:
        group = world.Get_group()
        chosen = group.Incl(members)
        part = world.Create_group(chosen)
        chosen.Free()
        group.Free()
    else:
        part = world.Dup()
    made = MpiProcessGroup(part)
    _open.append(made)
    return made


class MpiProcessGroup(dist.ProcessGroup):
    """Collectives of one communicator of MPI on CPU tensors, as torch.distributed calls them."""

    def __init__(self, world: Any) -> None:
        from mpi4py import MPI

        super().__init__(world.Get_rank(), world.Get_size())  # type: ignore[call-arg]
        self._mpi = MPI
        self._world = world
        self._thread = ThreadPoolExecutor(1)

    def close(self) -> None:
        """Wait for what was begun, then give the communicator back. Every rank of the group calls it."""
        self._thread.shutdown()
        self._world.Barrier()
        self._world.Free()

    def getBackendName(self) -> str:
        return BACKEND

    def _begin(self, action: Callable[[], None], result: Any) -> Any:
        future: Future[Any] = Future()

        def run() -> None:
            try:
                action()
            except Exception as error:  # noqa: BLE001 - raised where torch waits for it
                future.set_exception(error)
            else:
                future.set_result(result)

        self._thread.submit(run)
        return _create_work_from_future(future)

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> Any:  # type: ignore[override]
        operation = dist.ReduceOp.SUM if opts is None else opts.reduceOp

        def action() -> None:
            for tensor in tensors:
                self._reduce(tensor, operation)

        return self._begin(action, tensors)

    def _reduce(self, tensor: Tensor, operation: Any) -> None:
        mpi = self._mpi
        known = {
            dist.ReduceOp.SUM: mpi.SUM, dist.ReduceOp.AVG: mpi.SUM, dist.ReduceOp.MAX: mpi.MAX,
            dist.ReduceOp.MIN: mpi.MIN, dist.ReduceOp.PRODUCT: mpi.PROD,
        }  # fmt: skip
        buffer = wire(tensor)
        self._world.Allreduce(
            mpi.IN_PLACE, buffer.numpy(), op=next(m for torchs, m in known.items() if operation == torchs)
        )
        if operation == dist.ReduceOp.AVG:
            buffer /= self._world.Get_size()
        back(buffer, tensor)

    def broadcast(self, tensors: list[Tensor], opts: Any = None) -> Any:  # type: ignore[override]
        root = 0 if opts is None else opts.rootRank

        def action() -> None:
            for tensor in tensors:
                buffer = wire(tensor)
                self._world.Bcast(buffer.numpy(), root=root)
                back(buffer, tensor)

        return self._begin(action, tensors)

    def allgather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None) -> Any:  # type: ignore[override]
        def action() -> None:
            for places, mine in zip(outputs, inputs, strict=True):
                sent = wire(mine)
                received = sent.new_empty((len(places), sent.numel()))
                self._world.Allgather(sent.numpy(), received.numpy())
                for place, part in zip(places, received, strict=True):
                    back(part, place)

        return self._begin(action, outputs)

    def _allgather_base(self, output: Tensor, mine: Tensor, opts: Any = None) -> Any:
        def action() -> None:
            sent = wire(mine)
            received = sent.new_empty(output.numel())
            self._world.Allgather(sent.numpy(), received.numpy())
            back(received, output)

        return self._begin(action, output)

    def _reduce_scatter_base(self, output: Tensor, whole: Tensor, opts: Any = None) -> Any:
        operation = dist.ReduceOp.SUM if opts is None else opts.reduceOp

        def action() -> None:
            copy = whole.clone()
            self._reduce(copy, operation)
            output.copy_(copy.view(self._world.Get_size(), -1)[self._world.Get_rank()].view_as(output))

        return self._begin(action, output)

    # The names of torch 2.13 and later.
    all_gather_single = _allgather_base  # type: ignore[assignment]
    reduce_scatter_single = _reduce_scatter_base  # type: ignore[assignment]

    def barrier(self, opts: Any = None) -> Any:
        return self._begin(self._world.Barrier, [torch.zeros(1)])


def wire(tensor: Tensor) -> Tensor:
    """What MPI can carry of it, flat: MPI knows no bfloat16 and no float16, which go as float32."""
    flat = tensor.detach().contiguous().view(-1)
    return flat.float() if flat.dtype in {torch.bfloat16, torch.float16} else flat


def back(buffer: Tensor, tensor: Tensor) -> None:
    """What came over the wire, where it belongs."""
    if buffer.data_ptr() != tensor.data_ptr():
        tensor.detach().copy_(buffer.view_as(tensor))
