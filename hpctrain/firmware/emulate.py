"""Run the compiled emulation of a firmware project: events in, exact outputs back, in processes of their own."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpctrain.errors import UserError

Array = NDArray[np.float64]
CHUNK = 16
"""Events given to a process at a time."""


def emulate(
    library: Path,
    project: str,
    inputs: Array,
    outputs: int,
    *,
    processes: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Array:
    """Outputs (events, ``outputs``) float64 of the emulation for ``inputs`` (events, …), channels last.

    Float64 holds every fixed-point number of up to 53 bits exactly. The library runs in ``processes`` other
    processes (default: the cores this one may use, 4 at most), because a failed check inside it aborts.
    ``progress`` hears how many events are done. Raises ``UserError`` if the emulation aborts.
    """
    processes = processes or min(len(os.sched_getaffinity(0)), 4)
    starts = range(0, len(inputs), CHUNK)
    results = np.zeros((len(inputs), outputs))
    done = 0
    try:
        # Spawned, not forked: threads of torch and MPI do not survive a fork.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(processes, len(starts)), mp_context=context) as pool:
            calls = {
                pool.submit(
                    _emulate, str(library), project, np.ascontiguousarray(inputs[i : i + CHUNK]), outputs
                ): i
                for i in starts
            }
            for call in as_completed(calls):
                part = call.result()
                results[calls[call] : calls[call] + len(part)] = part
                done += len(part)
                if progress is not None:
                    progress(done)
    except BrokenProcessPool as error:
        raise UserError(
            "the firmware's emulation stopped with an error of its own",
            hint="compile and run the project's test bench (myproject_test.cpp) to see it",
        ) from error
    return results


def _emulate(library: str, project: str, inputs: Array, outputs: int) -> Array:
    function = getattr(ctypes.CDLL(library), f"{project}_double")
    pointer = np.ctypeslib.ndpointer(np.float64, flags="C_CONTIGUOUS")
    function.argtypes, function.restype = [pointer, pointer], None
    results = np.zeros((len(inputs), outputs))
    for event, result in zip(inputs, results, strict=True):
        function(event, result)
    return results
