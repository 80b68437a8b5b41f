"""What a control group leaves of a machine: CPU time and memory of containers and batch jobs, versions 1 and 2."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Limits:
    """What the kernel gives the processes of this group at most; None: no limit."""

    cpus: float | None = None
    """CPU time a second (2.5: that of two and a half CPUs), of the tightest group on the way to the root."""
    memory_bytes: int | None = None
    cpuset: frozenset[int] | None = None
    """CPUs that processes of the group may run on."""


def read_limits(root: Path = Path("/")) -> Limits:
    """Limits of this process's groups, from ``proc/self`` and the mounts under ``root``.

    A group's limits bind all groups below it, so the tightest of all ancestors that can be seen counts. What cannot
    be read limits nothing. Source: the kernel's ``admin-guide/cgroup-v1`` and ``cgroup-v2.rst``.
    """
    cpus: list[float] = []
    memory: list[int] = []
    cpusets: list[frozenset[int]] = []
    for folder in _folders(root):
        quota = _words(folder / "cpu.max")
        if not quota:
            quota = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit() and int(quota[1]):
            cpus.append(int(quota[0]) / int(quota[1]))
        for name in ("memory.max", "memory.limit_in_bytes"):
            # Version 1 says "no limit" with the largest number of pages there is.
            memory += [int(word) for word in _words(folder / name) if word.isdigit() and int(word) < 2**62]
        for name in ("cpuset.cpus.effective", "cpuset.effective_cpus"):
            cpusets += [parse_list(word) for word in _words(folder / name)]
    return Limits(
        min(cpus, default=None),
        min(memory, default=None),
        frozenset.intersection(*cpusets) if cpusets else None,
    )


def parse_list(text: str) -> frozenset[int]:
    """The kernel's lists of numbers.

    >>> sorted(parse_list("0-2,8"))
    [0, 1, 2, 8]
    """
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def write_list(numbers: frozenset[int] | tuple[int, ...]) -> str:
    """As the kernel writes them.

    >>> write_list((8, 0, 1, 2))
    '0-2,8'
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _folders(root: Path) -> Iterator[Path]:
    """Every group this process is in, each with its ancestors, as far as they are mounted here."""
    for controllers, group in _groups(root):
        mount, top = _mount(root, controllers)
        # In a container the mount may begin at our own group, which is then not below it by name.
        below = group[len(top) :] if top != "/" and group.startswith(top) else ("" if top != "/" else group)
        folder = mount
        yield folder
        for part in below.split("/"):
            if part in {"", ".", ".."}:
                continue
            folder = folder / part
            yield folder


def _groups(root: Path) -> list[tuple[frozenset[str], str]]:
    """(controllers, path) of every line of ``proc/self/cgroup``; no controllers: version 2."""
    groups = []
    for line in _lines(root / "proc/self/cgroup"):
        parts = line.split(":", 2)
        if len(parts) == 3:
            groups.append((frozenset(parts[1].split(",")) - {""}, parts[2]))
    return groups or [(frozenset(), "/")]


def _mount(root: Path, controllers: frozenset[str]) -> tuple[Path, str]:
    """Where the hierarchy of these controllers is mounted, and which group the mount shows at its top."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, separator, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if not separator or len(fields) < 5 or len(kind) < 3:
            continue
        if (kind[0] == "cgroup2") if not controllers else (
            kind[0] == "cgroup" and bool(controllers & set(kind[2].split(",")))
        ):  # fmt: skip
            return root / fields[4].lstrip("/"), fields[3]
    return root / "sys/fs/cgroup" / ",".join(sorted(controllers)), "/"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
