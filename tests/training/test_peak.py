import time

import pytest
import torch

from hpctrain.parallel.communicator import SingleCommunicator
from hpctrain.training import peak as peaks
from hpctrain.training.peak import matmul_rate, matrix_side, measure_peak

CPU = torch.device("cpu")


def test_the_rate_is_products_over_seconds(monkeypatch):
    readings = iter([100.0, 100.0, 100.1, 100.2, 100.4])  # the start, then a look before each product
    monkeypatch.setattr(time, "perf_counter", lambda: next(readings))
    assert matmul_rate(CPU, torch.float32, 16, seconds=0.3) == pytest.approx(3 * 2 * 16**3 / 0.4)


def test_a_slow_machine_does_one_product(monkeypatch):
    readings = iter([100.0, 107.0, 108.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(readings))
    assert matmul_rate(CPU, torch.float64, 16, seconds=0.3) == pytest.approx(2 * 16**3 / 8.0)


def test_no_generator_is_touched():
    state = torch.get_rng_state()
    matmul_rate(CPU, torch.bfloat16, 16, seconds=0.0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.mpi
def test_the_peak_is_that_of_all_ranks_together(world, monkeypatch):
    monkeypatch.setattr(peaks, "matmul_rate", lambda device, dtype, side: 1e9 * (world.rank + 1))
    peak = measure_peak(world, torch.float64)
    assert peak.flops_per_second == 1e9 * world.size * (world.size + 1) / 2
    assert peak.measured_with.startswith("float64 matrix products 1024×1024 on")


def test_what_it_was_measured_with_is_said(monkeypatch):
    monkeypatch.setattr(peaks, "matmul_rate", lambda device, dtype, side: 1.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    peak = measure_peak(SingleCommunicator(), torch.float32)
    assert peak.measured_with == "float32 matrix products 1024×1024 on one rank, 3 threads"


def test_more_threads_and_gpus_get_larger_matrices():
    assert matrix_side(CPU, 1) < matrix_side(CPU, 64) < matrix_side(torch.device("cuda"), 1)
