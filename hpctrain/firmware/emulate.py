"""Run the compiled emulation of a firmware project: events in, exact outputs back, in processes of their own."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpctrain.errors import UserError

Array = NDArray[np.float64]


def emulate(
    library: Path, project: str, inputs: Array, outputs: int, *, processes: int | None = None
) -> Array:
    """Outputs (events, ``outputs``) float64 of the emulation for ``inputs`` (events, …), channels last.

    Float64 holds every fixed-point number of up to 53 bits exactly. The library runs in ``processes`` other
    processes (default: the cores this one may use, 4 at most), because a failed check inside it aborts.
    Raises ``UserError`` if that happens.
    """
    processes = processes or min(len(os.sched_getaffinity(0)), 4)
    parts = np.array_split(np.ascontiguousarray(inputs, dtype=np.float64), min(processes, len(inputs)))
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(len(parts), mp_context=context) as pool:
            calls = [pool.submit(_emulate, str(library), project, part, outputs) for part in parts]
            return np.concatenate([call.result() for call in calls])
    except BrokenProcessPool as error:
        raise UserError(
            "the firmware's emulation stopped with an error of its own", hint="run the test bench"
        ) from error


def _emulate(library: str, project: str, inputs: Array, outputs: int) -> Array:
    function = getattr(ctypes.CDLL(library), f"{project}_double")
    pointer = np.ctypeslib.ndpointer(np.float64, flags="C_CONTIGUOUS")
    function.argtypes, function.restype = [pointer, pointer], None
    results = np.zeros((len(inputs), outputs))
    for event, result in zip(inputs, results, strict=True):
        function(event, result)
    return results
