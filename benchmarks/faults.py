"""A campaign of faults: random signals to random ranks at random moments; every run must end with the same bits.

Each run is a small training that meets several faults, one after the other, and is gone on with after each by the same
command. At its end its parameters, optimiser and history are compared bit for bit with an uninterrupted run of the same
engine and number of ranks. docs/reliability.md has the tables of whole campaigns.
"""

import argparse
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine_line import machine_line
from hpctrain.data.schema import DenseField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.files import write_json
from hpctrain.track import read_metrics
from hpctrain.training.checkpoint import Checkpoints

EPOCHS, EVENTS, BATCH = 6, 192, 8
STEPS = EPOCHS * EVENTS // BATCH
SIGNALS = ("SIGKILL", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGSTOP")
MOMENTS = ("start-up", "a step", "a checkpoint", "validation")


@dataclass
class Fault:
    """One fault and what came of it."""

    engine: str
    ranks: int
    signal: str
    target: str
    moment: str
    seconds: float = float("nan")
    """From the signal to the end of hpctrain."""
    code: int = 0
    line: str = ""
    """What hpctrain said."""
    left: int = 0
    """Ranks that still lived 30 s after the signal."""
    named: bool | None = None
    """Whether that line names the rank, for those that a rank cannot survive."""
    same: bool | None = None
    """Whether the run it happened to ended with the bits of the uninterrupted one."""


class Training:
    """One run directory, driven as a user would: by the command line."""

    def __init__(self, folder: Path, name: str, data: Path, engine: str, ranks: int) -> None:
        self.path = folder / name
        self._first = [
            f"name={name}", f"output={folder}", "generate.kind=shards", f"generate.path={data}", f"launch.ranks={ranks}",
            f"launch.engine.kind={engine}", "launch.threads=1", "task.model.filters=[4, 4]", "task.model.hidden=8",
            f"training.epochs={EPOCHS}", f"training.global_batch_size={BATCH}", "training.checkpoint_steps=5",
            "training.hang_timeout_s=20", "training.keep=2", "data.window=64", "data.block=8", "data.lanes=4",
        ]  # fmt: skip
        (folder / "empty.yaml").write_text("name: faults\n")
        subprocess.run(
            [*HPCTRAIN, "generate", folder / "empty.yaml", *self._first],
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def start(self) -> subprocess.Popen[str]:
        """``hpctrain train``, begun."""
        (self.path / "logs" / "train.log").unlink(missing_ok=True)  # its ranks are those of this attempt
        return subprocess.Popen(
            [*HPCTRAIN, "train", self.path], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def pids(self) -> dict[int, int]:
        """Process of each rank that has started."""
        log = self.path / "logs" / "train.log"
        text = log.read_text(errors="replace") if log.exists() else ""
        return {int(r): int(p) for r, p in re.findall(r"rank (\d+) is process (\d+)", text)}

    def events(self, event: str) -> int:
        """How often an event stands in the metrics."""
        return sum(line["event"] == event for line in read_metrics(self.path / "metrics.jsonl"))

    def step(self) -> int:
        """The newest step in the metrics."""
        lines = read_metrics(self.path / "metrics.jsonl")
        return next((line["global_step"] for line in reversed(lines) if line["event"] == "step"), 0)

    def result(self) -> Any:
        """What the last checkpoint holds beside versions."""
        state = Checkpoints(self.path / "checkpoints").latest() or {}
        return {name: value for name, value in state.items() if name != "versions"}


HPCTRAIN = [sys.executable, "-m", "hpctrain"]


def write_data(folder: Path) -> Path:
    """Toy images (synthetic): as small as a training can be, so that a run takes seconds."""
    fields = {
        "image": DenseField(dtype="float32", shape=(3, 16, 16)),
        "label": DenseField(dtype="int64"),
        "weight": DenseField(dtype="float64"),
    }
    for number, (split, events) in enumerate({"train": EVENTS, "validation": 2000, "test": 64}.items()):
        rng = np.random.default_rng(number)
        label = rng.integers(0, 2, events)
        image = rng.exponential(1.0, (events, 3, 16, 16)) + label[:, None, None, None]
        with ShardWriter(
            folder / split, fields, provenance={"label": "synthetic toy images for a campaign of faults"},
            scale={"image_max": [12.0, 12.0, 12.0]}, events_per_shard=64,
        ) as writer:  # fmt: skip
            writer.append({"image": image.astype(np.float32), "label": label, "weight": np.ones(events)})
    return folder


def strike(training: Training, fault: Fault, dice: random.Random) -> bool:
    """Start the run, wait for the moment, send the signal; False when the run ended before the moment came."""
    process = training.start()
    wanted = 1 if fault.moment == "start-up" else fault.ranks
    checkpoints = training.path / "checkpoints"
    resumes = training.events("resume") + any(checkpoints.glob("step-*.pt"))
    step = training.step() + dice.randint(1, 30)
    delay = dice.uniform(0, 0.03) if fault.moment != "start-up" else dice.uniform(0, 3)
    names: set[str] | None = None

    def ripe() -> bool:
        nonlocal names
        if len(training.pids()) < wanted:
            return False
        if fault.moment == "start-up":
            return True
        if training.events("resume") < resumes:  # what is in the metrics is of the attempt before
            return False
        if fault.moment == "a step":
            return training.step() >= min(step, STEPS - 1)
        if fault.moment == "validation":
            return training.step() % (EVENTS // BATCH) == 0 and training.step() > 0
        now = {path.name for path in checkpoints.glob(".*.tmp")} | {p.name for p in checkpoints.glob("*.pt")}
        names = now if names is None else names
        return now != names

    while not ripe():
        if process.poll() is not None:
            _, fault.line = process.communicate()
            fault.code = process.returncode
            return False
        time.sleep(0.002)
    time.sleep(delay)
    pids = training.pids()
    rank = fault.target.removeprefix("rank ")
    victim = process.pid if fault.target == "hpctrain" else pids.get(int(rank), next(iter(pids.values())))
    if fault.target != "hpctrain":
        fault.target = f"rank {next(r for r, pid in pids.items() if pid == victim)}"
    struck = time.monotonic()
    try:
        os.kill(victim, signal.Signals[fault.signal])
    except ProcessLookupError:
        process.communicate()
        return False
    _, errors = process.communicate(timeout=180)
    fault.seconds = time.monotonic() - struck
    fault.code = process.returncode
    fault.line = (errors.strip().splitlines() or [""])[-1]
    if fault.target != "hpctrain" and fault.signal in {"SIGKILL", "SIGSTOP"}:
        fault.named = f"{fault.target} " in fault.line
    while (left := [p for p in pids.values() if _lives(p)]) and time.monotonic() - struck < 30:
        time.sleep(0.05)
    fault.left = len(left)
    return fault.code != 0


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def draw(dice: random.Random, engine: str, ranks: int, signals: list[str]) -> Fault:
    """A fault: which signal, to whom, when."""
    name = dice.choice(signals)
    targets = [f"rank {r}" for r in range(ranks)]
    # A stopped hpctrain is only paused, and a rank that is stopped before ranks meet is the engine's to notice.
    target = dice.choice(targets if name == "SIGSTOP" else [*targets, "hpctrain"])
    moment = dice.choice(MOMENTS[1:] if name == "SIGSTOP" else MOMENTS)
    return Fault(engine, ranks, name, target, moment)


def table(faults: list[Fault]) -> str:
    """Markdown: a row a signal and number of ranks."""
    rows = [
        "| signal | ranks | faults | exit codes | to the end of hpctrain, median (longest) s | rank named | ranks left | continued to the same bits |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in SIGNALS:
        for ranks in sorted({f.ranks for f in faults}):
            some = [f for f in faults if (f.signal, f.ranks) == (name, ranks)]
            if some:
                codes = ", ".join(
                    f"{c} ({sum(f.code == c for f in some)})" for c in sorted({f.code for f in some})
                )
                seconds = [f.seconds for f in some]
                rows.append(
                    f"| {name} | {ranks} | {len(some)} | {codes} | {statistics.median(seconds):.1f} ({max(seconds):.1f}) "
                    f"| {_named(some)} | {sum(f.left for f in some)} | {sum(bool(f.same) for f in some)} |"
                )
    good = sum(bool(f.same) for f in faults)
    return "\n".join([*rows, "", f"{len(faults)} faults, {good} continued to the same bits."])


def _named(faults: list[Fault]) -> str:
    asked = [f.named for f in faults if f.named is not None]
    return f"{sum(asked)} of {len(asked)}" if asked else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=50, help="faults in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--signals", nargs="+", default=list(SIGNALS), choices=SIGNALS)
    parser.add_argument("--engines", nargs="+", default=["mpi", "gloo"])
    parser.add_argument("--faults-per-run", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no new run after so long")
    parser.add_argument("--output", type=Path, help="also write every fault to this JSON file")
    options = parser.parse_args()
    line, began = machine_line(), time.monotonic()
    print(line, flush=True)
    dice = random.Random(options.seed)
    faults: list[Fault] = []
    whole: dict[tuple[str, int], Any] = {}
    kinds = [(engine, ranks) for ranks in options.ranks for engine in options.engines]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = write_data(folder / "data")
        for number in range(10**6):
            if len(faults) >= options.number or time.monotonic() - began > 60 * options.minutes:
                break
            engine, ranks = kinds[number % len(kinds)]
            if (engine, ranks) not in whole:
                reference = Training(folder, f"whole-{engine}-{ranks}", data, engine, ranks)
                if reference.start().wait():
                    sys.exit(f"the uninterrupted run failed: {reference.path}")
                whole[engine, ranks] = reference.result()
            training = Training(folder, f"run-{number}", data, engine, ranks)
            met: list[Fault] = []
            for _ in range(min(options.faults_per_run, options.number - len(faults))):
                fault = draw(dice, engine, ranks, options.signals)
                if not strike(training, fault, dice):
                    print(
                        f"    {fault.signal} at {fault.moment}: the run ended before it came (code {fault.code})"
                    )
                    break
                met.append(fault)
                print(f"    {engine} {ranks}: {fault.signal} to {fault.target} in {fault.moment}: {fault.code} after "
                      f"{fault.seconds:.1f} s: {fault.line[:110]}", flush=True)  # fmt: skip
            process = training.start()
            _, errors = process.communicate()
            equal = process.returncode == 0 and same(training.result(), whole[engine, ranks])
            print(f"run {number} on {ranks} {engine} ranks after {len(met)} faults: "
                  f"{'the same bits' if equal else f'NOT the same: {errors}'}", flush=True)  # fmt: skip
            for fault in met:
                fault.same = equal
            faults += met
            if options.output:
                write_json(
                    options.output,
                    {"machine": line, "seed": options.seed, "faults": [vars(f) for f in faults]},
                )
    print(f"\n{table(faults)}")
    sys.exit(0 if faults and all(f.same and not f.left and f.named in {None, True} for f in faults) else 1)


if __name__ == "__main__":
    main()
