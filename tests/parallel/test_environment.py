"""Rank discovery from the environments that real launchers made."""

import re
import subprocess
import sys

import pytest

from hpctrain.errors import UserError
from hpctrain.launch.local import mpiexec
from hpctrain.parallel.environment import Ranks, detect

# Recorded with `env` inside the launcher named; only what bears on ranks is kept.
MPICH = {  # mpich 5.0.2, mpiexec -n 4, rank 2
    "PMI_RANK": "2", "PMI_SIZE": "4", "PMI_FD": "8", "MPI_LOCALNRANKS": "4", "MPI_LOCALRANKID": "2",
}  # fmt: skip
OPENMPI = {  # Open MPI 4.1.4, mpirun -n 2, rank 1
    "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "PMIX_RANK": "1",
}  # fmt: skip
TORCHRUN = {  # torch 2.13, torchrun --nproc-per-node 2, rank 0
    "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none",
    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
}  # fmt: skip
SLURM_STEP = {  # Slurm 22.05, srun -N2 -n4, rank 3 on the second node
    "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4", "SLURM_NODEID": "1",
}  # fmt: skip
SLURM_BATCH = {  # the batch script itself: one process, although the job has four tasks
    "SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4", "SLURM_NODEID": "0",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (MPICH, Ranks(2, 4, 2, "MPICH")),
        (OPENMPI, Ranks(1, 2, 1, "OpenMPI")),
        (TORCHRUN, Ranks(0, 2, 0, "torchrun")),
        (SLURM_STEP, Ranks(3, 4, 1, "Slurm")),
        (SLURM_BATCH, Ranks(0, 1, 0, "a single process")),
        ({**SLURM_BATCH, **MPICH}, Ranks(2, 4, 2, "MPICH")),
        ({}, Ranks(0, 1, 0, "a single process")),
    ],
)
def test_recorded_environments(environment, expected):
    assert detect(environment) == expected


@pytest.mark.parametrize("environment", [MPICH, OPENMPI, TORCHRUN, SLURM_STEP])
def test_a_half_set_environment_is_an_error_not_a_single_rank(environment):
    whole = detect(environment)
    markers = {"MPI_LOCALNRANKS", "OMPI_COMM_WORLD_SIZE", "TORCHELASTIC_RUN_ID", "SLURM_STEP_ID"}
    needed = 0
    for name in environment:
        partial = {k: v for k, v in environment.items() if k != name}
        if name in markers:  # without it that launcher is not there at all
            assert detect(partial) == Ranks(0, 1, 0, "a single process")
        elif _understood(partial) is None:
            needed += 1
            with pytest.raises(UserError, match=f"{name} is not set"):
                detect(partial)
        else:
            assert detect(partial) == whole
    assert needed >= 2


def _understood(environment):
    try:
        return detect(environment)
    except UserError:
        return None


@pytest.mark.parametrize("value", ["two", "-1", "4"])
def test_senseless_numbers(value):
    with pytest.raises(UserError):
        detect({**MPICH, "PMI_RANK": value})


def said(text: str) -> set[str]:
    """What the ranks printed; two of them may share a line."""
    return set(re.findall(r"Ranks\([^)]*\)", text))


def test_really_started_by_mpiexec():
    program = "import os; from hpctrain.parallel.environment import detect; print(detect(os.environ))"
    out = subprocess.run(
        [mpiexec(), "-n", "3", sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert said(out.stdout) == {str(Ranks(rank, 3, rank, "MPICH")) for rank in range(3)}


def test_really_started_by_torchrun(tmp_path):
    (tmp_path / "p.py").write_text(
        "import os\nfrom hpctrain.parallel.environment import detect\nprint(detect(os.environ), flush=True)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    out = subprocess.run(
        [*command, tmp_path / "p.py"], capture_output=True, text=True, check=True, timeout=120
    )
    assert said(out.stdout) == {str(Ranks(rank, 2, rank, "torchrun")) for rank in range(2)}
