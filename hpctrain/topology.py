"""The processor as the kernel describes it: cores, hyperthreads, sockets and NUMA nodes, and which of them are ours.

Source: the kernel's ``admin-guide/cputopology.rst`` and ``ABI/stable/sysfs-devices-node``.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hpctrain.cgroups import Limits, parse_list, read_limits

SLOW_CORE = 0.5
"""Speed taken for an E core beside a P core where the kernel gives no capacities: its vector units are half as wide."""


@dataclass(frozen=True)
class Core:
    """A physical core, or what we may use of it."""

    cpus: tuple[int, ...]
    """Its hardware threads, as the kernel numbers them."""
    node: int
    """NUMA node."""
    socket: int
    speed: float = 1.0
    """Beside the fastest core of the machine; below 1 for the E cores of hybrid processors."""


@dataclass(frozen=True)
class Node:
    """A NUMA node."""

    number: int
    cpus: frozenset[int]
    """All its hardware threads, ours or not; none: it is memory alone."""
    memory_bytes: int | None = None
    """None: not told."""


@dataclass(frozen=True)
class Topology:
    """A machine, and what of it this process may use."""

    cores: tuple[Core, ...]
    """Those of which we may use a hardware thread, node by node."""
    nodes: tuple[Node, ...]
    """All NUMA nodes of the machine."""
    online: int
    """Hardware threads of the machine."""
    limits: Limits = field(default_factory=Limits)
    described: bool = True
    """Whether the kernel described the machine; otherwise every CPU counts as a core."""

    @property
    def cpus(self) -> frozenset[int]:
        """Hardware threads that we may use."""
        return frozenset(cpu for core in self.cores for cpu in core.cpus)

    @property
    def sockets(self) -> int:
        """Sockets with cores that we may use."""
        return len({core.socket for core in self.cores})

    @property
    def hyperthreads(self) -> int:
        """Most hardware threads of one core that we may use."""
        return max(len(core.cpus) for core in self.cores)

    @property
    def cpu_nodes(self) -> tuple[int, ...]:
        """NUMA nodes with cores that we may use."""
        return tuple(sorted({core.node for core in self.cores}))

    @property
    def memory_nodes(self) -> tuple[Node, ...]:
        """Nodes without any core: fast memory (MCDRAM of Knights Landing in flat mode) or slow (CXL)."""
        return tuple(node for node in self.nodes if not node.cpus)

    @property
    def quota(self) -> float | None:
        """CPUs' worth of time that a cgroup gives us, where that is less than the CPUs we may run on."""
        cpus = self.limits.cpus
        return cpus if cpus is not None and cpus < len(self.cpus) else None


def read_topology(root: Path = Path("/"), allowed: Iterable[int] | None = None) -> Topology:
    """The machine as ``sys`` and ``proc`` under ``root`` describe it.

    ``allowed``: CPUs of the affinity mask; None takes that of ``proc/self/status``, else all that are online. CPUs
    that a cgroup's cpuset excludes are left out too. What is missing (containers show little) is made up: a CPU
    without siblings is a core, a core without a node is on node 0.
    """
    folder = root / "sys/devices/system/cpu"
    online = _list(folder / "online")
    limits = read_limits(root)
    usable = _mask(root) if allowed is None else frozenset(allowed)
    usable = usable or online or frozenset(range(os.cpu_count() or 1))
    if limits.cpuset and usable & limits.cpuset:
        usable &= limits.cpuset
    nodes = _nodes(root) or (Node(0, online or usable),)
    node_of = {cpu: node.number for node in nodes for cpu in node.cpus}
    speeds = _speeds(root, usable)
    cores = set()
    for cpu in usable:
        siblings = _list(folder / f"cpu{cpu}/topology/thread_siblings_list")
        socket = _list(folder / f"cpu{cpu}/topology/physical_package_id")
        cores.add(
            Core(
                tuple(sorted((siblings | {cpu}) & usable)),
                node_of.get(cpu, nodes[0].number),
                min(socket, default=0),
                speeds[cpu],
            )
        )
    return Topology(
        cores=tuple(sorted(cores, key=lambda core: (core.node, core.cpus))),
        nodes=nodes,
        online=len(online or usable),
        limits=limits,
        described=(folder / f"cpu{min(usable)}/topology").is_dir(),
    )


def here() -> Topology:
    """This machine, as this process may use it."""
    return read_topology(Path("/"), os.sched_getaffinity(0))


def _nodes(root: Path) -> tuple[Node, ...]:
    folder = root / "sys/devices/system/node"
    nodes = []
    for number in sorted(_list(folder / "online")):
        told = re.search(r"MemTotal:\s+(\d+) kB", _text(folder / f"node{number}/meminfo"))
        cpus = _list(folder / f"node{number}/cpulist")
        nodes.append(Node(number, cpus, int(told[1]) * 1024 if told else None))
    return tuple(nodes)


def _speeds(root: Path, cpus: frozenset[int]) -> dict[int, float]:
    """Of each CPU beside the fastest: by the kernel's capacities, else by its list of Intel's E cores."""
    capacities = {
        cpu: int(text)
        for cpu in cpus
        if (text := _text(root / f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity").strip()).isdigit()
    }
    if len(capacities) == len(cpus) and len(set(capacities.values())) > 1:
        largest = max(capacities.values())
        return {cpu: capacity / largest for cpu, capacity in capacities.items()}
    slow = _list(root / "sys/devices/cpu_atom/cpus")
    return {cpu: SLOW_CORE if cpu in slow and not cpus <= slow else 1.0 for cpu in cpus}


def _mask(root: Path) -> frozenset[int]:
    told = re.search(r"^Cpus_allowed_list:\s*([\d,-]+)$", _text(root / "proc/self/status"), re.MULTILINE)
    return parse_list(told[1]) if told else frozenset()


def _list(path: Path) -> frozenset[int]:
    """A list of numbers in a file; none when there is no such file, or something else in it."""
    text = _text(path).strip()
    return parse_list(text) if re.fullmatch(r"[\d,-]*\d", text) else frozenset()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
