"""Who am I among the ranks: read from what the launcher put into the environment.

Every launcher has its own names for the same four numbers. A launcher that is there but incomplete is an error:
a job that silently becomes N single ranks wastes an allocation.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from hpctrain.errors import UserError


@dataclass(frozen=True)
class Ranks:
    """This process among the processes of the job."""

    rank: int
    size: int
    local_rank: int
    source: str
    """Which launcher said so."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size or self.local_rank < 0:
            raise UserError(f"{self.source} says rank {self.rank} of {self.size}: that cannot be")


@dataclass(frozen=True)
class Launcher:
    """The variables of one launcher: ``marker`` tells that it runs, the others give the numbers."""

    name: str
    marker: str
    rank: str
    size: str
    local_rank: str


LAUNCHERS = (
    Launcher("torchrun", "TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK"),
    Launcher("hpctrain", "HPCTRAIN_WORLD_SIZE", "HPCTRAIN_RANK", "HPCTRAIN_WORLD_SIZE", "HPCTRAIN_LOCAL_RANK"),
    Launcher("OpenMPI", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    Launcher("MPICH", "MPI_LOCALNRANKS", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    # Inside `srun` only: a batch script itself also has SLURM_PROCID=0, but is one process.
    Launcher("Slurm", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)  # fmt: skip
"""Asked in this order: an MPI or torchrun started inside a Slurm step speaks for its own processes."""


def detect(environment: Mapping[str, str]) -> Ranks:
    """The ranks that the environment describes; a single one when no launcher is there. Raises ``UserError``."""
    for launcher in LAUNCHERS:
        if launcher.marker in environment and not _batch_script(launcher, environment):
            return _read(launcher, environment)
    return Ranks(0, 1, 0, "a single process")


def _batch_script(launcher: Launcher, environment: Mapping[str, str]) -> bool:
    return launcher.name == "Slurm" and not environment.get("SLURM_STEP_ID", "").isdigit()


def _read(launcher: Launcher, environment: Mapping[str, str]) -> Ranks:
    numbers = []
    for name in (launcher.rank, launcher.size, launcher.local_rank):
        text = environment.get(name)
        if text is None or not text.isdigit():
            state = "is not set" if text is None else f"is {text!r}"
            raise UserError(
                f"this process was started by {launcher.name} ({launcher.marker} is set) but {name} {state}",
                hint=f"Start all ranks with {launcher.name}, or unset {launcher.marker} for a single process",
            )
        numbers.append(int(text))
    return Ranks(numbers[0], numbers[1], numbers[2], launcher.name)
