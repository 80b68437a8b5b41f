"""Every engine on several ranks: the tests marked ``mpi``, started by mpiexec, and each launcher that runs here."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hpctrain.launch.local import mpiexec

TESTS = Path(__file__).parents[1]
FILES = [
    TESTS / name
    for name in (
        "parallel/test_communicator.py",
        "parallel/test_gradients.py",
        "parallel/test_mpi_torch.py",
        "training/test_equivalence.py",
    )
]


@pytest.fixture
def meeting() -> dict[str, str]:
    """A free port of this machine, as torch wants it told."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(listener.getsockname()[1])}


def run(command, **environment) -> str:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [str(word) for word in command],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "ranks"), [("mpi", 3), ("mpi", 4), ("gloo", 2), ("gloo", 3), ("gloo", 4)])
def test_every_engine_at_every_size(engine, ranks, meeting):
    pytest_ = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "mpi",
        "-p",
        "no:cacheprovider",
        f"--engine={engine}",
    ]
    out = run([mpiexec(), "-n", ranks, *pytest_, *FILES], **meeting)
    assert out.count(" passed") == ranks


PROGRAM = """
import torch
from hpctrain.parallel.communicator import connect
from hpctrain import registry
import sys
world = connect(registry.find("engines", sys.argv[1]).Config())
total = int(world.all_reduce(torch.tensor([world.rank + 1])).item())
print(f"sum {total}\\n", end="", flush=True)  # one write: torchrun's ranks share an unbuffered pipe
world.close()
"""


@pytest.mark.parametrize("engine", ["gloo", "mpi"])
def test_ranks_of_srun_find_each_other(resolvable_slurm, engine):
    """Nothing is exported: for Gloo the meeting point follows from the step, MPI asks Slurm's PMI."""
    out = resolvable_slurm("srun", "-N2", "-n4", "--mpi=pmi2", sys.executable, "-c", PROGRAM, engine)
    assert out.split() == ["sum", "10"] * 4


def test_ranks_of_torchrun_find_each_other(tmp_path):
    (tmp_path / "p.py").write_text(PROGRAM)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    assert run([*torchrun, tmp_path / "p.py", "gloo"]).split() == ["sum", "3"] * 2
