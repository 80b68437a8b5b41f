"""One rank of one step: the process that the launcher starts. It leaves a result or an error beside the logs."""

import os
import sys
import threading
import time
import traceback
from pathlib import Path

import torch

from hpctrain import machine
from hpctrain.errors import UserError
from hpctrain.files import write_json
from hpctrain.launch.local import RANK_LINE
from hpctrain.parallel.communicator import SingleCommunicator, connect
from hpctrain.parallel.environment import detect
from hpctrain.pipeline import STEPS
from hpctrain.run import RunDirectory


def work(name: str, path: Path) -> None:
    """Do one step as one of its ranks. Ends the process with exit code 2 (user's mistake) or 1 when it fails."""
    _watch_parent()
    # Also the first sign in the log that the ranks came up; the launcher looks a dead process up here.
    run = RunDirectory.open(path)
    try:
        print(RANK_LINE.format(rank=detect(os.environ).rank, pid=os.getpid()), flush=True)
        _work(name, run)
    except Exception as error:  # noqa: BLE001 - whatever it is, the user is told by the parent
        _fail(name, run, error)


def _work(name: str, run: RunDirectory) -> None:
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", machine.cores())))
    step = STEPS[name]
    engine = run.experiment.launch.build().engine
    communicator = connect(engine) if step.parallel else SingleCommunicator()
    owner = getattr(run.experiment, step.sections[0]).build()
    with run.tracker(name, active=communicator.rank == 0) as tracker:
        arguments = (run, tracker, communicator) if step.parallel else (run, tracker)
        summary = owner.run(*arguments)
    memory = communicator.gather(machine.peak_memory_bytes())
    if communicator.rank == 0:
        result = {"summary": summary, "peak_memory_bytes": max(memory), "peak_memory_bytes_by_rank": memory}
        write_json(run.logs / f"{name}.result.json", result)
    communicator.close()


def _fail(name: str, run: RunDirectory, error: Exception) -> None:
    traceback.print_exc()
    try:
        rank = detect(os.environ).rank
    except UserError:
        rank = 0
    user = isinstance(error, UserError)
    message = error.message if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    report = {"rank": rank, "user": user, "message": message, "hint": getattr(error, "hint", "")}
    try:
        write_json(run.logs / f"{name}.rank-{rank}.error.json", report)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Not sys.exit: a failed rank must not wait in MPI_Finalize for ranks that wait for it.
        os._exit(2 if user else 1)


def _watch_parent() -> None:
    """End with the hpctrain that started us, even when it was killed and could not stop us."""
    parent = int(os.environ.get("HPCTRAIN_PARENT", "0"))

    def watch() -> None:
        while Path(f"/proc/{parent}").exists():
            time.sleep(1)
        os._exit(1)

    if parent:
        threading.Thread(target=watch, daemon=True).start()
