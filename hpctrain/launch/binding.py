"""A rank takes its place: its cores and threads are settled before torch is loaded, unless others did that already.

Who bound a rank is judged by its affinity mask, not by variables alone: Slurm without an affinity plugin announces
masks that it never sets.
"""

import contextlib
import json
import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from hpctrain.cgroups import parse_list
from hpctrain.errors import UserError
from hpctrain.launch.placement import Place, plan
from hpctrain.parallel.environment import Ranks, detect
from hpctrain.topology import Topology, read_topology

Bind = Literal["auto", "none", "cores"]
PLACEMENT = "HPCTRAIN_PLACEMENT"
"""Tells each rank what its launcher wants of it (``Wish``, JSON)."""
THREAD_VARIABLES = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
"""Where OpenMP is told what thread runs where: a user who set one of them is not overruled."""
_LOCAL_SIZES = {
    "Open MPI": "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MPICH": "MPI_LOCALNRANKS",
    "torchrun": "LOCAL_WORLD_SIZE",
}
LEAVE_TO_US = {
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "I_MPI_PIN": "0",
    "MV2_ENABLE_AFFINITY": "0",
}
"""What keeps Open MPI (4, 5), Intel MPI and MVAPICH2 from binding by default, one rank a core whatever its threads."""


@dataclass(frozen=True)
class Wish:
    """What the launcher of this machine wants of its ranks; the defaults are for ranks that others started."""

    bind: Bind = "auto"
    threads: int | None = None
    hyperthreads: bool = False
    spare_cores: int = 0
    ranks: int | None = None
    """On this machine; None: see what the launcher tells."""
    cpus: str | None = None
    """Affinity of hpctrain itself: a rank with another has been bound on the way."""

    def to_environment(self) -> dict[str, str]:
        """The variables that carry this to each rank."""
        return {PLACEMENT: json.dumps({k: v for k, v in asdict(self).items() if v is not None})}

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "Wish":
        """What came in the environment; ``OMP_NUM_THREADS`` counts where no launcher of ours speaks."""
        if PLACEMENT in environment:
            return cls(**json.loads(environment[PLACEMENT]))
        threads = environment.get("OMP_NUM_THREADS", "")
        return cls(threads=int(threads) if threads.isdigit() and int(threads) else None)


@dataclass(frozen=True)
class Settled:
    """How a rank runs."""

    place: Place
    bound_by: str
    """In a few words; ``not bound: why`` when nobody did."""
    ours: bool = False
    """Whether the affinity is to be made that of the place."""
    pinned: bool = False
    """Whether each compute thread is to stay on its core."""

    def __str__(self) -> str:
        return f"{self.place}; {self.bound_by}"


class Seat:
    """The place of this process, which it takes in two parts: before torch (OpenMP) is loaded, and after."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        """Set the affinity of every thread there is, and ``OMP_NUM_THREADS``, ``OMP_PLACES`` and ``OMP_PROC_BIND``
        for the library that is loaded next."""
        self._environment = environment
        wish = Wish.read(environment)
        try:
            ranks = detect(environment)
        except UserError:  # is told where ranks meet
            ranks = Ranks(0, 1, 0, "a single process")
        mask = frozenset(os.sched_getaffinity(0))
        self.settled = decide(wish, read_topology(Path("/"), mask), ranks, environment)
        self.line = f"rank {ranks.rank}: {self.settled}"
        """What the log is told."""
        self._cpus = self.settled.place.cpus if self.settled.ours else mask
        if self._cpus != mask:
            _move_all(self._cpus)
        environment["OMP_NUM_THREADS"] = str(self.settled.place.threads)
        if self.settled.pinned:
            slots = self.settled.place.slots
            environment["OMP_PLACES"] = ",".join(f"{{{','.join(map(str, slot))}}}" for slot in slots)
            environment["OMP_PROC_BIND"] = "close"

    def loaded(self) -> None:
        """Let the main thread, and so each thread it starts, onto all CPUs of the rank again.

        OpenMP put it onto the first core. Reader, checkpoint writer and whatever else runs beside would inherit that
        and take its time, while other hardware threads of the rank are free. The variables go too: libraries with an
        OpenMP of their own (scikit-learn) and programs that are started would do the same again.
        """
        if self.settled.pinned:
            del self._environment["OMP_PLACES"], self._environment["OMP_PROC_BIND"]
            os.sched_setaffinity(0, self._cpus)


def decide(wish: Wish, found: Topology, ranks: Ranks, environment: Mapping[str, str]) -> Settled:
    """How a rank runs, given what it may use (``found``), what is wanted, and who started it how."""
    bound, sharing, number = _who_shares(wish, found, ranks, environment)
    peers = sharing or 1
    spare = 0 if bound else wish.spare_cores
    places = plan(found, peers, wish.threads, hyperthreads=wish.hyperthreads, spare_cores=spare)
    place = places[number % len(places)]
    if sharing is None:
        return Settled(place, f"not bound: {ranks.source} does not say how many ranks are on this machine")
    pinned = _pins(wish, found, place, peers, environment)
    if bound is not None and peers == 1:
        return Settled(place, f"bound by {bound}", pinned=pinned)
    why_not = _why_not(wish, found, place, peers)
    if why_not:
        # Whatever it may use; only the number of threads is ours.
        anywhere = Place(place.local_rank, found.cores, place.threads, place.hyperthreads)
        return Settled(anywhere, f"bound by {bound}" if bound else f"not bound: {why_not}")
    by = f"bound by {bound}, and by hpctrain within that" if bound else "bound by hpctrain"
    return Settled(place, by, ours=True, pinned=pinned)


def _why_not(wish: Wish, found: Topology, place: Place, peers: int) -> str:
    if wish.bind == "none":
        return "launch.bind=none"
    if peers > len(found.cpus):
        return f"{peers} ranks on {len(found.cpus)} CPUs"
    if wish.bind == "auto" and found.quota is not None:
        # Others have the same CPUs; the kernel alone knows which are free.
        return f"a cgroup gives the time of {found.quota:g} of {len(found.cpus)} CPUs"
    if wish.bind == "auto" and place.cpus == found.cpus and len(found.cpu_nodes) == 1:
        return "all CPUs are its own, on one NUMA node"
    return ""


def _pins(wish: Wish, found: Topology, place: Place, peers: int, environment: Mapping[str, str]) -> bool:
    """Whether compute threads are kept on their cores: when there is one for each core, or it was asked for."""
    if wish.bind == "none" or any(name in environment for name in THREAD_VARIABLES):
        return False
    if wish.bind == "cores":
        return place.threads <= len(place.slots)
    return place.threads == len(place.slots) and found.quota is None and peers <= len(found.cores)


def _who_shares(
    wish: Wish, found: Topology, ranks: Ranks, environment: Mapping[str, str]
) -> tuple[str | None, int | None, int]:
    """Who has bound this rank (None: nobody), how many ranks have its CPUs together, and its number among them."""
    mask = found.cpus
    if wish.cpus is not None and parse_list(wish.cpus) == mask:
        return None, wish.ranks or 1, ranks.local_rank
    if ranks.source == "Slurm":
        masks = slurm_masks(environment)
        if masks and masks[ranks.local_rank % len(masks)] == mask:
            tasks = _local_size(ranks, environment) or len(masks)
            sharing = [i for i in range(tasks) if masks[i % len(masks)] == mask]
            return "Slurm", len(sharing), sharing.index(ranks.local_rank)
    if wish.cpus is not None:
        return ranks.source, 1, 0
    size = 1 if ranks.size == 1 else _local_size(ranks, environment)
    if size is not None and size > 1 and len(mask) * size <= found.online and ranks.source != "Slurm":
        return ranks.source, 1, 0
    return None, size, ranks.local_rank


def slurm_masks(environment: Mapping[str, str]) -> list[frozenset[int]]:
    """The CPUs that Slurm says it gave to each task of this machine; none when it left them free.

    >>> slurm_masks({"SLURM_CPU_BIND_TYPE": "mask_cpu:", "SLURM_CPU_BIND_LIST": "0x3,0xC"})
    [frozenset({0, 1}), frozenset({2, 3})]
    """
    kind = environment.get("SLURM_CPU_BIND_TYPE", "").rstrip(":")
    words = environment.get("SLURM_CPU_BIND_LIST", "").split(",")
    try:
        if kind == "map_cpu":
            return [frozenset({int(word, 0)}) for word in words]
        if kind == "mask_cpu":
            masks = [int(word, 16) for word in words]
            return [frozenset(i for i in range(m.bit_length()) if m >> i & 1) for m in masks]
    except ValueError:  # repetitions (0x3*2) and the like, as given by hand
        return []
    return []


def _local_size(ranks: Ranks, environment: Mapping[str, str]) -> int | None:
    """Ranks of this machine, as the launcher tells."""
    if ranks.source == "Slurm":
        sizes: list[int] = []
        for word in environment.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
            found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", word)
            sizes += [int(found[1])] * int(found[2] or 1) if found else []
        node = environment.get("SLURM_NODEID", "")
        return sizes[int(node)] if node.isdigit() and int(node) < len(sizes) else None
    text = environment.get(_LOCAL_SIZES.get(ranks.source, ""), "")
    return int(text) if text.isdigit() and int(text) else None


def _move_all(cpus: frozenset[int]) -> None:
    """Give every thread that there is, and so those to come, these CPUs."""
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cpus)
