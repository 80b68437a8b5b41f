"""Which rank of a node runs where: cores, NUMA node and threads, from the topology alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from hpctrain.cgroups import write_list
from hpctrain.topology import Core, Topology


@dataclass(frozen=True)
class Place:
    """Where one rank runs."""

    local_rank: int
    cores: tuple[Core, ...]
    """Its own, node by node."""
    threads: int
    """That compute."""
    hyperthreads: bool = False
    """Whether compute threads share cores; otherwise the other hardware threads of a core are for what runs beside."""

    @property
    def cpus(self) -> frozenset[int]:
        """Every hardware thread of its cores."""
        return frozenset(cpu for core in self.cores for cpu in core.cpus)

    @property
    def nodes(self) -> tuple[int, ...]:
        """NUMA nodes of its cores."""
        return tuple(sorted({core.node for core in self.cores}))

    @property
    def slots(self) -> tuple[tuple[int, ...], ...]:
        """The hardware threads that each compute thread may be on, in the order of the threads."""
        if self.hyperthreads:
            return tuple((cpu,) for core in self.cores for cpu in core.cpus)
        return tuple(core.cpus for core in self.cores)

    def __str__(self) -> str:
        several = max(len(core.cpus) for core in self.cores)
        each = f" ({several} hyperthreads each)" if several > 1 else ""
        noun = "core" if len(self.cores) == 1 else "cores"
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{noun} {write_list(tuple(c.cpus[0] for c in self.cores))}{each}, NUMA {write_list(self.nodes)}, {threads}"


def plan(
    topology: Topology,
    ranks: int,
    threads: int | None = None,
    *,
    hyperthreads: bool = False,
    spare_cores: int = 0,
) -> tuple[Place, ...]:
    """A place for each of the ``ranks`` of this node, in the order of their local ranks.

    All have equally many cores of their own; where those do not divide, some are left over (training is synchronous:
    a rank with more would wait for the others). With as many ranks as NUMA nodes or more, no rank is on two nodes.
    ``threads``: of each rank; None takes one a core, or one a hardware thread with ``hyperthreads``, and no more than
    the CPU time of a cgroup. ``spare_cores`` are left to the operating system, the last of the largest nodes.
    E cores of hybrid processors are left out where the P cores alone do more. More ranks than cores share cores by
    hardware threads, and beyond that they have the CPUs in turn.

    Raises ``ValueError`` when no rank or no core is left.
    """
    if ranks < 1 or not 0 <= spare_cores < len(topology.cores):
        raise ValueError(
            f"no place for {ranks} ranks on {len(topology.cores)} cores, {spare_cores} of them spared"
        )
    cores = even_cores(without_spare(topology.cores, spare_cores), ranks)
    crowded = ranks > len(cores)
    if crowded:
        cores = [Core((cpu,), core.node, core.socket, core.speed) for core in cores for cpu in core.cpus]
    shares = _shares(cores, ranks, hyperthreads=hyperthreads, threads=threads)
    places = []
    for local_rank, share in enumerate(shares):
        own = threads or (sum(len(core.cpus) for core in share) if hyperthreads else len(share))
        if threads is None and crowded and not hyperthreads:
            own = 1
        if threads is None and topology.quota is not None:
            own = min(own, max(1, int(topology.quota / ranks)))
        places.append(Place(local_rank, tuple(share), own, hyperthreads))
    if threads is None:  # hardware threads of some cores may be withheld from us
        fewest = min(place.threads for place in places)
        places = [Place(p.local_rank, p.cores, fewest, hyperthreads) for p in places]
    return tuple(places)


def without_spare(cores: Sequence[Core], spare: int) -> list[Core]:
    """All but ``spare`` cores, taken from the end of whichever node has most left."""
    by_node = _by_node(cores)
    for _ in range(spare):
        max(by_node.values(), key=len).pop()
    return [core for node in by_node.values() for core in node]


def even_cores(cores: Sequence[Core], ranks: int = 1) -> list[Core]:
    """The fast cores alone where they do more in step than all at the pace of the slowest; else all."""
    slowest = min(core.speed for core in cores)
    fast = [core for core in cores if core.speed > slowest]
    if len(fast) >= ranks and sum(core.speed for core in fast) >= len(cores) * slowest:
        return even_cores(fast, ranks)
    return list(cores)


def _shares(
    cores: Sequence[Core], ranks: int, *, hyperthreads: bool, threads: int | None
) -> list[list[Core]]:
    by_node = [node for node in _by_node(cores).values() if node]
    if ranks > len(cores):
        return [[cores[rank % len(cores)]] for rank in range(ranks)]
    most = len(cores) // ranks
    whole = max(
        (n for n in range(1, most + 1) if sum(len(node) // n for node in by_node) >= ranks), default=0
    )
    width = max(len(core.cpus) for core in cores) if hyperthreads else 1
    wanted = -(-threads // width) if threads else 0
    # Asked for more threads than fit that way, or fewer ranks than nodes: they cross nodes, in the order of the cores.
    if ranks < len(by_node) or min(wanted, most) > whole:
        return [list(cores[rank * most : (rank + 1) * most]) for rank in range(ranks)]
    counts = [0] * len(by_node)
    for _ in range(ranks):  # to the node with most cores free, so that memory is shared out too
        counts[max(range(len(by_node)), key=lambda i: len(by_node[i]) - counts[i] * whole)] += 1
    return [
        node[number * whole : (number + 1) * whole]
        for node, count in zip(by_node, counts, strict=True)
        for number in range(count)
    ]


def _by_node(cores: Sequence[Core]) -> dict[int, list[Core]]:
    nodes: dict[int, list[Core]] = {}
    for core in cores:
        nodes.setdefault(core.node, []).append(core)
    return nodes
