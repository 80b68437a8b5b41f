"""Where ranks meet: the host and port of rank 0, the same on every rank without asking anyone."""

import re
from collections.abc import Mapping

from hpctrain.errors import UserError

_FIRST_PORT, _PORTS = 20_000, 12_000
"""Ports below those that Linux hands out by itself (32768 on), so that nobody else got one by chance."""


def meeting_point(environment: Mapping[str, str]) -> tuple[str, int]:
    """Host and port of rank 0: MASTER_ADDR and MASTER_PORT, or what Slurm says of the step.

    In a Slurm step rank 0 runs on the first host of the step, and the port follows from the numbers of job and
    step, so that two jobs that share a node do not meet each other. Raises ``UserError``.
    """
    given = {name: environment[name] for name in ("MASTER_ADDR", "MASTER_PORT") if environment.get(name)}
    hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    if not given and hosts and "SLURM_STEP_ID" in environment:
        return expand_hosts(hosts)[0], _step_port(environment)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name not in given:
            raise UserError(
                f"{name} is not set, so ranks cannot find rank 0",
                hint="export MASTER_ADDR (host of rank 0) and MASTER_PORT (a free port there) on every rank; "
                "hpctrain's own launcher, torchrun and srun need nothing",
            )
    port = given["MASTER_PORT"]
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UserError(f"MASTER_PORT is {port!r}", hint="Give the number of a free port, such as 29500")
    return given["MASTER_ADDR"], int(port)


def _step_port(environment: Mapping[str, str]) -> int:
    numbers = []
    for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"):
        text = environment.get(name, "")
        if not (text.isascii() and text.isdigit()):
            state = f"is {text!r}" if text else "is not set"
            raise UserError(f"this is a Slurm step but {name} {state}", hint="Start all ranks with one srun")
        numbers.append(int(text))
    return _FIRST_PORT + (numbers[0] + 7919 * numbers[1]) % _PORTS  # steps of one job are far apart


def expand_hosts(text: str) -> list[str]:
    """Names in a host list as Slurm writes them. Raises ``UserError``.

    >>> expand_hosts("login1,nid[0008-0010,0012]")
    ['login1', 'nid0008', 'nid0009', 'nid0010', 'nid0012']
    """
    # Commas inside brackets are followed by a "]" that no "[" precedes.
    hosts = [host for item in re.split(r",(?![^\[]*\])", text) for host in _expand(item, text)]
    if not all(hosts):
        raise _not_a_list(text)
    return hosts


def _expand(item: str, text: str) -> list[str]:
    """One item, which may have several brackets: ``rack[1-2]n[01-02]``; the last one counts fastest."""
    before, bracket, rest = item.partition("[")
    if not bracket:
        if "]" in before:
            raise _not_a_list(text)
        return [before]
    inside, bracket, after = rest.partition("]")
    if not bracket:
        raise _not_a_list(text)
    return [f"{before}{number}{tail}" for number in _numbers(inside, text) for tail in _expand(after, text)]


def _numbers(ranges: str, text: str) -> list[str]:
    numbers: list[str] = []
    for part in ranges.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part, re.ASCII)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise _not_a_list(text)
        first, last = match[1], match[2] or match[1]
        numbers += [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    return numbers


def _not_a_list(text: str) -> UserError:
    return UserError(
        f"{text!r} is not a list of hosts as Slurm writes them",
        hint="For example: nid[0001-0004,0010],login1",
    )
