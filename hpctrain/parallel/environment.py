"""Who am I among the ranks: read from what the launcher put into the environment.

Every launcher has its own names for the same three numbers. A launcher that is there but incomplete is an error:
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
    """Among the processes of this machine. Launchers number these as they like: rank 1 may have local rank 2."""
    source: str
    """Which launcher said so."""

    def __post_init__(self) -> None:
        if not (0 <= self.rank < self.size and 0 <= self.local_rank < self.size):
            raise UserError(
                f"{self.source} says rank {self.rank} of {self.size}, number {self.local_rank} on its machine: "
                "that cannot be",
                hint=f"Start all ranks with one {self.source}, and set none of its variables by hand",
            )


@dataclass(frozen=True)
class Launcher:
    """The variables of one launcher: any of ``signs`` tells that it runs, the others give the numbers."""

    name: str
    signs: tuple[str, ...]
    rank: str
    size: str
    local_rank: str

    def sign(self, environment: Mapping[str, str]) -> str | None:
        """The variable that tells that this launcher started the process."""
        return next((name for name in self.signs if name in environment), None)


_SPECIAL_STEPS = 0xFFFFFFFA
"""Slurm numbers an interactive step, a batch script and the like from here on (slurm.h): each is one process."""


class SlurmStep(Launcher):
    """Slurm speaks for the tasks of a step. A batch script is one process, although it too is told SLURM_PROCID=0."""

    def sign(self, environment: Mapping[str, str]) -> str | None:
        step = environment.get("SLURM_STEP_ID", "")
        if step.isdigit() and int(step) >= _SPECIAL_STEPS:
            return None
        if environment.get("SLURM_PROCID", "0") != "0":
            return "SLURM_PROCID"
        return super().sign(environment)


LAUNCHERS = (
    Launcher("hpctrain", ("HPCTRAIN_RANK", "HPCTRAIN_WORLD_SIZE", "HPCTRAIN_LOCAL_RANK"), "HPCTRAIN_RANK", "HPCTRAIN_WORLD_SIZE", "HPCTRAIN_LOCAL_RANK"),
    Launcher("torchrun", ("TORCHELASTIC_RUN_ID",), "RANK", "WORLD_SIZE", "LOCAL_RANK"),
    Launcher("Open MPI", ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"), "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    # Hydra, the mpiexec of MPICH, Intel MPI and MVAPICH.
    Launcher("MPICH", ("MPI_LOCALNRANKS", "MPI_LOCALRANKID"), "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    # Whatever --mpi=… (none, pmi2, pmix, cray_shasta) adds to a step, Slurm itself has all three numbers.
    SlurmStep("Slurm", ("SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS"), "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    # HPE Cray's mpiexec and aprun under PBS (PALS).
    Launcher("PALS", ("PALS_RANKID", "PALS_LOCAL_RANKID"), "PALS_RANKID", "PMI_SIZE", "PALS_LOCAL_RANKID"),
    # Any other launcher of MPI that speaks PMI.
    Launcher("PMI", ("PMI_RANK", "PMI_SIZE"), "PMI_RANK", "PMI_SIZE", "PMI_LOCAL_RANK"),
    # Set by a script, by hand, in the words of torch.distributed.
    Launcher("a script", ("RANK", "WORLD_SIZE", "LOCAL_RANK"), "RANK", "WORLD_SIZE", "LOCAL_RANK"),
)  # fmt: skip
"""Asked in this order: an MPI or torchrun started inside a Slurm step speaks for its own processes."""


def detect(environment: Mapping[str, str]) -> Ranks:
    """The ranks that the environment describes; a single one when no launcher is there. Raises ``UserError``."""
    for launcher in LAUNCHERS:
        sign = launcher.sign(environment)
        if sign is not None:
            return _read(launcher, sign, environment)
    if "PMIX_RANK" in environment:
        raise UserError(
            "this process was started by a PMIx launcher (PMIX_RANK is set) that does not say how many ranks there are",
            hint="Start with Open MPI's mpiexec or `srun --mpi=pmix`, or export RANK, WORLD_SIZE and LOCAL_RANK; "
            "unset PMIX_RANK for a single process",
        )
    return Ranks(0, 1, 0, "a single process")


def _read(launcher: Launcher, sign: str, environment: Mapping[str, str]) -> Ranks:
    numbers = []
    for name in (launcher.rank, launcher.size, launcher.local_rank):
        text = environment.get(name)
        if text is None or not (text.isascii() and text.isdigit()):
            state = "is not set" if text is None else f"is {text!r}"
            raise UserError(
                f"this process was started by {launcher.name} ({sign} is set) but {name} {state}",
                hint=f"Start all ranks with {launcher.name}, or unset {sign} for a single process",
            )
        numbers.append(int(text))
    return Ranks(numbers[0], numbers[1], numbers[2], launcher.name)
