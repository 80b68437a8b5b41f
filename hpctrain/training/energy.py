"""Energy that a node takes, where it can be read: processors by RAPL, GPUs by NVML."""

import contextlib
import importlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from hpctrain.parallel.communicator import Communicator

POWERCAP = Path("/sys/class/powercap")
"""Where Linux shows the counters of RAPL, of Intel's processors and AMD's alike."""
LOOK_S = 20.0
"""Seconds between two looks at counters: a RAPL counter may go round within minutes."""


class Counter(Protocol):
    """One counter of energy that only grows."""

    kind: str
    """What it counts, in words."""
    wraps_at: float
    """Joules at which it begins anew; infinity when it never does."""

    def joules(self) -> float:
        """Energy since some moment in the past; may begin anew at zero. Raises ``OSError`` when it cannot be read."""
        ...


class RaplZone:
    """A zone of the powercap tree: a processor package, or its memory."""

    def __init__(self, folder: Path) -> None:
        self.name = (folder / "name").read_text().strip()
        self.kind = "memory (RAPL)" if self.name == "dram" else "processors (RAPL)"
        self.wraps_at = int((folder / "max_energy_range_uj").read_text()) / 1e6
        self._file = folder / "energy_uj"
        self.joules()

    def joules(self) -> float:
        try:
            return int(self._file.read_text()) / 1e6
        except ValueError as error:
            raise OSError(f"{self._file} holds no number") from error


class NvmlGpu:
    """A GPU, by the counter of its driver (Volta and later)."""

    kind = "GPUs (NVML)"
    wraps_at = float("inf")

    def __init__(self, nvml: Any, uuid: str) -> None:
        self._nvml = nvml
        nvml.nvmlInit()
        self._handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        self.joules()

    def joules(self) -> float:
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
        except self._nvml.NVMLError as error:
            raise OSError(f"NVML: {error}") from error


def rapl_zones(powercap: Path = POWERCAP) -> list[Counter]:
    """Every package of this node and the memory beside it, as far as they may be read (often by root alone).

    Parts of a package (``core``, ``uncore``) are in its own count, and ``psys`` has the packages in it: those are
    left out.
    """
    found: list[Counter] = []
    for folder in sorted(powercap.glob("intel-rapl:*")):
        with contextlib.suppress(OSError, ValueError):
            zone = RaplZone(folder)
            if zone.name == "dram" or zone.name.startswith("package"):
                found.append(zone)
    return found


def gpu_uuid(device: torch.device) -> str | None:
    """The name that NVML knows a rank's GPU by; None without one."""
    if device.type != "cuda":
        return None
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def nvml_gpus(uuids: Sequence[str], module: str = "pynvml") -> list[Counter]:
    """The GPUs named, as far as NVML is installed (nvidia-ml-py) and counts their energy."""
    try:
        nvml = importlib.import_module(module)
    except ImportError:
        return []
    found: list[Counter] = []
    for uuid in uuids:
        with contextlib.suppress(OSError, nvml.NVMLError):
            found.append(NvmlGpu(nvml, uuid))
    return found


class EnergyMeter:
    """Adds up what counters count, also when they begin anew."""

    def __init__(self, counters: Sequence[Counter]) -> None:
        self.counters = list(counters)
        self._last = [counter.joules() for counter in self.counters]
        self._sum = 0.0
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def joules(self) -> float:
        """Energy since the meter was made. A counter that cannot be read any more stands still."""
        with self._lock:
            for place, counter in enumerate(self.counters):
                with contextlib.suppress(OSError):
                    now = counter.joules()
                    self._sum += since(self._last[place], now, counter.wraps_at)
                    self._last[place] = now
            return self._sum

    def start(self) -> None:
        """Look at the counters now and then, until ``end``."""
        if self.counters:
            threading.Thread(target=self._look, daemon=True, name="energy").start()

    def end(self) -> None:
        """Look no more."""
        self._ended.set()

    def _look(self) -> None:
        while not self._ended.wait(LOOK_S):
            self.joules()


def since(before: float, now: float, wraps_at: float) -> float:
    """How much a counter counted, which began anew at ``wraps_at`` when it is now less than before.

    >>> since(10.0, 25.0, 100.0), since(90.0, 5.0, 100.0)
    (15.0, 15.0)
    """
    return now - before if now >= before else now - before + wraps_at


def meter_of(communicator: Communicator, powercap: Path = POWERCAP) -> tuple[EnergyMeter, list[str]]:
    """This rank's meter, and what all of them together count: a kind counts only where every node (or GPU) tells it.

    The first rank of a node reads its processors, the first rank on a GPU that GPU. Every rank calls it.
    """
    uuid = gpu_uuid(communicator.device)
    uuids = communicator.gather(uuid)
    zones = rapl_zones(powercap) if communicator.local_rank == 0 else None
    gpus = nvml_gpus([uuid]) if uuid is not None and uuids.index(uuid) == communicator.rank else None
    told = communicator.gather([None if part is None else {c.kind for c in part} for part in (zones, gpus)])
    kinds: set[str] = set()
    for part in zip(*told, strict=True):
        answers = [answer for answer in part if answer is not None]
        kinds |= set.intersection(*answers) if answers else set()
    counters = [counter for counter in (*(zones or []), *(gpus or [])) if counter.kind in kinds]
    return EnergyMeter(counters), sorted(kinds)
