"""One rank of one step: the process that the launcher starts. It leaves a result or an error beside the logs."""

import contextlib
import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path

import torch

from hpctrain import machine, stopping
from hpctrain.errors import InternalError, Stopped, UserError
from hpctrain.files import as_user_error, write_json
from hpctrain.launch.local import RANK_LINE, STARTED_RANKS
from hpctrain.parallel.communicator import SingleCommunicator, connect
from hpctrain.parallel.environment import detect
from hpctrain.run import RunDirectory
from hpctrain.steps import STEPS
from hpctrain.tuning.timing import TUNE, Timing

_KNOWN = {**STEPS, TUNE.name: TUNE}


def work(name: str, path: Path, seat: str, *, profile: bool = False) -> None:
    """Do one step as one of its ranks; ``seat`` says in a line which cores and threads this one has, ``profile``:
    training leaves a trace of a few steps.

    Ends the process with exit code 2 (user's mistake) or 1 when it fails, ``stopping.GO_ON_LATER`` when it stopped
    because it was asked to.
    """
    _watch_parent()
    run = RunDirectory.open(path)
    run.profile = profile
    note = run.logs / f"{name}.rank-{_rank()}.error.json"
    try:
        run.hold_as_rank()
        # Room for a last word is taken now: when the disk is full there is none.
        note.write_bytes(b" " * 4096)
        # One write: lines of ranks that share the log do not run into each other.
        line = RANK_LINE.format(rank=_rank(), pid=os.getpid()) + "\n"
        sys.stdout.write(line + (seat + "\n" if _KNOWN[name].parallel else ""))
        sys.stdout.flush()
        stopping.watch(run.stop_path(name), f"rank {_rank()}")
        if not _KNOWN[name].stops_when_asked(run.experiment):
            stopping.end_at_once()
        _work(name, run)
        note.unlink()
    except Stopped:
        note.unlink()
        sys.exit(stopping.GO_ON_LATER)
    except Exception as error:  # noqa: BLE001 - whatever it is, the user is told by the parent
        _fail(note, error)


def _rank() -> int:
    try:
        return detect(os.environ).rank
    except UserError:
        return 0  # what is wrong with the environment is said where ranks meet


def _work(name: str, run: RunDirectory) -> None:
    torch.use_deterministic_algorithms(True)
    # It would also fill all fresh memory with NaN, some hundred times a step, for code that reads what nobody wrote.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # which took its seat's number
    step = _KNOWN[name]
    engine = run.experiment.launch.build().engine
    communicator = connect(engine) if step.parallel else SingleCommunicator()
    started = int(os.environ.get(STARTED_RANKS, communicator.size))
    if step.parallel and communicator.size != started:
        raise UserError(
            f"{started} ranks were started, but each sees {communicator.size}: this mpiexec is not understood",
            hint="Use the mpiexec of `pip install 'hpctrain[mpi]'`, or set launch.engine=gloo",
        )
    owner = Timing() if step is TUNE else getattr(run.experiment, step.sections[0]).build()
    with run.tracker(name, active=communicator.rank == 0) as tracker:
        arguments = (run, tracker, communicator) if step.parallel else (run, tracker)
        try:
            summary = owner.run(*arguments)
        except Stopped:
            communicator.close()
            raise
    memory = communicator.gather(machine.peak_memory_bytes())
    if communicator.rank == 0:
        result = {"summary": summary, "peak_memory_bytes": max(memory), "peak_memory_bytes_by_rank": memory}
        write_json(run.logs / f"{name}.result.json", result)
    communicator.close()


def _fail(note: Path, error: Exception) -> None:
    traceback.print_exc()
    user = isinstance(error, UserError) and not isinstance(error, InternalError)
    message = error.message if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    if isinstance(error, OSError):
        cured = as_user_error(error, Path(error.filename or note))
        user, message, error = True, cured.message, cured
    word = {
        "rank": _rank(),
        "user": user,
        "message": message[:1500],
        "hint": getattr(error, "hint", "")[:1500],
    }
    with contextlib.suppress(OSError), note.open("r+b") as stream:
        stream.write(json.dumps(word, ensure_ascii=True).encode().ljust(4096))
    for stream_ in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream_.flush()
    # Not sys.exit: a failed rank must not wait in MPI_Finalize for ranks that wait for it.
    os._exit(2 if user else 1)


def _watch_parent() -> None:
    """End with the hpctrain that started us, even when it was killed and could not stop us."""
    parent = int(os.environ.get("HPCTRAIN_PARENT", "0"))

    def watch() -> None:
        while lives(parent):
            time.sleep(0.5)
        os._exit(1)

    if parent:
        threading.Thread(target=watch, daemon=True).start()


def lives(process: int) -> bool:
    """Whether a process of this machine is still at work; one that ended and was not asked how is not."""
    try:
        # "pid (name) state …"; a zombie has ended, only nobody asked how.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (OSError, IndexError):
        return False
