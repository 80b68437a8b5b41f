"""A sweep as a Slurm array: one task a trial, each the same command with its own number."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template

WARN_S = 120
"""Seconds before the end of its time that a task is warned, to write a checkpoint and ask for more."""


def script(
    name: str,
    sweep: Path,
    numbers: Sequence[int],
    at_once: int | None,
    folder: Path,
    *,
    cpus: int = 1,
    retry_failed: bool = False,
) -> str:
    """The text for ``sbatch``: ``array.sbatch`` with its words filled in.

    ``numbers`` are the trials, at most ``at_once`` of them at work together, with ``cpus`` cores each; ``sweep`` is the directory of the sweep
    and ``folder`` where hpctrain was started (paths of the experiment are relative to it). What sbatch is given on
    its command line (account, time, cores) wins over what stands here.
    """
    template = resources.files("hpctrain.sweep").joinpath("array.sbatch").read_text(encoding="utf-8")
    return Template(template).substitute(
        name=name,
        array=ranges(numbers) + (f"%{at_once}" if at_once else ""),
        folder=shlex.quote(str(folder)),
        log=shlex.quote(str(sweep).replace("%", "%%") + "/logs/array-%a.log"),
        cpus=cpus,
        warn=WARN_S,
        command=shlex.join(
            [
                sys.executable,
                "-m",
                "hpctrain",
                "sweep",
                str(sweep),
                *(["--retry-failed"] if retry_failed else []),
            ]
        ),
    )


def ranges(numbers: Sequence[int]) -> str:
    """Numbers as Slurm writes them.

    >>> ranges([0, 1, 2, 5, 7, 8])
    '0-2,5,7-8'
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)
