"""The emulation runs in processes of its own: results in order, and an abort inside becomes an error."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from hpctrain.errors import UserError
from hpctrain.firmware.emulate import CHUNK, emulate

SOURCE = """
#include <stdlib.h>
void sum_double(double *in, double *out) { out[0] = in[0] + in[1]; out[1] = in[0] - in[1]; }
void fail_double(double *in, double *out) { if (in[0] > 2) abort(); }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    (folder / "code.c").write_text(SOURCE)
    subprocess.run(["gcc", "-shared", "-fPIC", "code.c", "-o", "code.so"], cwd=folder, check=True)
    return folder / "code.so"


def test_results_come_in_the_order_of_the_events(library: Path) -> None:
    inputs = np.random.default_rng(0).normal(size=(3 * CHUNK + 5, 2))
    done: list[int] = []
    outputs = emulate(library, "sum", inputs, 2, processes=2, progress=done.append)
    assert np.array_equal(outputs, np.stack([inputs.sum(1), inputs[:, 0] - inputs[:, 1]], axis=1))
    assert done[-1] == len(inputs)
    assert done == sorted(done)


def test_abort_inside_is_an_error_outside(library: Path) -> None:
    with pytest.raises(UserError, match=r"stopped with an error of its own.*test bench"):
        emulate(library, "fail", np.arange(40.0).reshape(20, 2), 1, processes=1)
