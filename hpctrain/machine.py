"""What this machine has and which versions run: facts for the record of a run, the doctor and defaults."""

import contextlib
import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import hpctrain
from hpctrain.cgroups import read_limits

PACKAGES = (
    "torch", "numpy", "h5py", "pydantic", "scikit-learn", "matplotlib", "mpi4py", "mpich", "pythia8mc", "fastjet",
    "awkward", "dask", "hls4ml", "torch-geometric", "alkaid", "optuna", "wandb", "tensorflow", "horovod",
)  # fmt: skip


def cores() -> int:
    """CPUs this process may use at a time: the affinity mask, cut down by a cgroup's quota (containers, batch jobs)."""
    available, quota = len(os.sched_getaffinity(0)), read_limits().cpus
    return available if quota is None else min(available, max(1, int(quota)))


def memory_bytes() -> int:
    """Memory of this machine, or of this cgroup where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(total, read_limits().memory_bytes or total)


def peak_memory_bytes() -> int:
    """Largest resident size that this process, or one child it has waited for, ever had."""
    return max(own_peak_bytes(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)


def own_peak_bytes() -> int:
    """Largest resident size of this process since it began to run its program."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    # The kernel's other count starts with the size of the process that started this one.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cpu_model() -> str:
    """The processor's name, from /proc/cpuinfo."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def package_version(name: str) -> str | None:
    """Installed version of a distribution, None when it is absent."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of a source checkout of hpctrain, ``+`` appended when files differ; None when installed."""
    root = Path(hpctrain.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(
            ["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            ["git", "-C", root, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def describe() -> dict[str, Any]:
    """Everything a reader of a report needs to know of the machine (JSON types)."""
    return {
        "hpctrain": hpctrain.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cores": cores(),
        "memory_bytes": memory_bytes(),
        "load_average": list(os.getloadavg()),
        "packages": {name: v for name in PACKAGES if (v := package_version(name))},
    }
