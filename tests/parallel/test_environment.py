"""Rank discovery from the environments that real launchers made (``environments/*.env`` say which and how)."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hpctrain.errors import UserError
from hpctrain.launch.local import mpiexec
from hpctrain.parallel.environment import LAUNCHERS, Ranks, detect

RECORDED = sorted((Path(__file__).parent / "environments").glob("*.env"))
PROGRAM = "import os; from hpctrain.parallel.environment import detect; print(detect(os.environ), flush=True)"


def read(path: Path) -> tuple[dict[str, str], Ranks]:
    """The variables, and what they mean."""
    text = path.read_text()
    rank, size, local_rank, source = re.search(r"# expected: (\d+) (\d+) (\d+) (.+)", text).groups()
    lines = [line.partition("=") for line in text.splitlines() if not line.startswith("#")]
    return {name: value for name, _, value in lines}, Ranks(int(rank), int(size), int(local_rank), source)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_environments(path):
    environment, expected = read(path)
    assert detect(environment) == expected


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_half_set_environment_is_never_a_silent_single_rank(path):
    """Take one variable away: the ranks are known all the same, or an error names what is missing."""
    environment, expected = read(path)
    if expected.source == "a single process":
        return
    needed = 0
    for name in environment:
        try:
            got = detect({k: v for k, v in environment.items() if k != name})
        except UserError as error:
            assert f"but {name} is not set" in str(error)  # noqa: PT017 - most of them must not raise
            needed += 1
        else:
            assert (got.rank, got.size, got.local_rank) == (expected.rank, expected.size, expected.local_rank)
    assert needed >= (2 if "PMI_RANK" in environment else 3)


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=lambda launcher: launcher.name)
def test_one_variable_alone_is_an_error(launcher):
    for name in launcher.signs:
        with pytest.raises(UserError, match=f"{name} is set.*but .* is not set"):
            detect({name: "1"})


@pytest.mark.parametrize("value", ["two", "-1", "4", "²", ""])
@pytest.mark.parametrize("name", ["PMI_RANK", "MPI_LOCALRANKID"])
def test_senseless_numbers(name, value):
    environment = {"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALNRANKS": "4", "MPI_LOCALRANKID": "2"}
    with pytest.raises(UserError):
        detect({**environment, name: value})


def test_a_pmix_launcher_that_does_not_say_how_many():
    # prterun of PRRTE 3 (Open MPI 5.0.11) without Open MPI's personality.
    with pytest.raises(UserError, match="does not say how many ranks"):
        detect({"PMIX_NAMESPACE": "prterun-host-24242@1", "PMIX_RANK": "1", "PRTE_LAUNCHED": "1"})


@pytest.mark.parametrize("step", [0xFFFFFFFA, 0xFFFFFFFB])
def test_interactive_and_batch_steps_of_slurm_are_one_process(step):
    environment = {"SLURM_STEP_ID": str(step), "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}
    assert detect(environment) == Ranks(0, 1, 0, "a single process")


def said(text: str) -> set[str]:
    """What the ranks printed; two of them may share a line."""
    return set(re.findall(r"Ranks\([^)]*\)", text))


def test_really_started_by_mpiexec():
    command = [mpiexec(), "-n", "3", sys.executable, "-c", PROGRAM]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said(out.stdout) == {str(Ranks(rank, 3, rank, "MPICH")) for rank in range(3)}


def test_really_started_by_torchrun(tmp_path):
    (tmp_path / "p.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    out = subprocess.run(
        [*command, tmp_path / "p.py"], capture_output=True, text=True, check=True, timeout=120
    )
    assert said(out.stdout) == {str(Ranks(rank, 2, rank, "torchrun")) for rank in range(2)}


def test_really_started_by_srun(resolvable_slurm):
    tasks = ["srun", "-N2", "-n4"]
    for mpi in ("none", "pmi2", "cray_shasta"):
        out = resolvable_slurm(*tasks, f"--mpi={mpi}", sys.executable, "-c", PROGRAM)
        assert said(out) == {str(Ranks(rank, 4, rank % 2, "Slurm")) for rank in range(4)}


def test_really_a_batch_script_with_steps(resolvable_slurm, tmp_path):
    """The script is one process; srun in it starts ranks, and so does mpiexec, through srun."""
    script, out = tmp_path / "job.sh", tmp_path / "out"
    python = f"{sys.executable} -c '{PROGRAM}'"
    script.write_text(f"#!/bin/bash\n{python}\nsrun {python}\n{mpiexec()} -n 4 {python}\n")
    resolvable_slurm("sbatch", "--wait", "-N2", "--ntasks-per-node=2", f"--output={out}", str(script))
    expected = {Ranks(rank, 4, rank % 2, name) for rank in range(4) for name in ("Slurm", "MPICH")}
    assert said(out.read_text()) == {str(r) for r in expected | {Ranks(0, 1, 0, "a single process")}}
