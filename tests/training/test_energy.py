"""Counters are files of a made-up powercap tree and a made-up NVML, and those of this machine where it has some."""

import sys
import time
from types import ModuleType

import pytest
import torch

from hpctrain.parallel.communicator import SingleCommunicator
from hpctrain.training import energy
from hpctrain.training.energy import POWERCAP, EnergyMeter, meter_of, nvml_gpus, rapl_zones


def zone(folder, name, microjoules, wraps_at=262_143_328_850):
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{wraps_at}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder / "energy_uj"


@pytest.fixture
def powercap(tmp_path):
    """Two packages with parts, the memory of one, the whole platform, and the same package once more by MMIO."""
    for name, kind, value in (
        ("intel-rapl:0", "package-0", 5_000_000),
        ("intel-rapl:0:0", "core", 3_000_000),
        ("intel-rapl:0:1", "dram", 1_000_000),
        ("intel-rapl:1", "package-1", 7_000_000),
        ("intel-rapl:2", "psys", 90_000_000),
        ("intel-rapl-mmio:0", "package-0", 5_000_000),
    ):
        zone(tmp_path / name, kind, value)
    return tmp_path


def test_packages_and_memory_count_once(powercap):
    zones = rapl_zones(powercap)
    assert [z.name for z in zones] == ["package-0", "dram", "package-1"]
    assert sum(z.joules() for z in zones) == 13.0
    assert {z.kind for z in zones} == {"processors (RAPL)", "memory (RAPL)"}


@pytest.mark.parametrize("fault", ["absent", "no number", "no range"])
def test_a_zone_that_cannot_be_read_is_none(powercap, fault):
    folder = powercap / "intel-rapl:0"
    (folder / ("max_energy_range_uj" if fault == "no range" else "energy_uj")).unlink()
    if fault == "no number":
        (folder / "energy_uj").write_text("")
    assert "package-0" not in [z.name for z in rapl_zones(powercap)]


def test_a_machine_without_counters_has_none(tmp_path):
    meter, kinds = meter_of(SingleCommunicator(), tmp_path / "nosuch")
    assert kinds == []
    assert meter.joules() == 0.0


def test_a_counter_that_goes_round_goes_on(tmp_path):
    file = zone(tmp_path / "intel-rapl:0", "package-0", 90_000_000, wraps_at=100_000_000)
    meter = EnergyMeter(rapl_zones(tmp_path))
    for value, sum_ in ((95_000_000, 5.0), (3_000_000, 13.0), (3_000_000, 13.0), (50_000_000, 60.0)):
        file.write_text(str(value))
        assert meter.joules() == pytest.approx(sum_)


def test_a_counter_lost_on_the_way_stands_still(tmp_path):
    file = zone(tmp_path / "intel-rapl:0", "package-0", 1_000_000)
    meter = EnergyMeter(rapl_zones(tmp_path))
    file.write_text("4000000")
    assert meter.joules() == 3.0
    file.write_text("gone")
    assert meter.joules() == 3.0


def test_a_counter_is_looked_at_before_it_has_gone_round_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "LOOK_S", 0.01)
    file = zone(tmp_path / "intel-rapl:0", "package-0", 0, wraps_at=100_000_000)
    meter = EnergyMeter(rapl_zones(tmp_path))
    looked = []
    monkeypatch.setattr(meter, "joules", lambda: looked.append(file.read_text()))
    meter.start()
    deadline = time.monotonic() + 20
    while len(looked) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    meter.end()
    assert len(looked) >= 3


class Node(SingleCommunicator):
    """Rank 0 of several, whose others answer ``gather`` as they are told to."""

    def __init__(self, *others, local_rank=0, device=None):
        super().__init__(device)
        self.others, self.local_rank, self.size = list(others), local_rank, 1 + len(others)

    def gather(self, value):
        return [value, *(other.pop(0) for other in self.others)]


def test_a_kind_counts_only_where_every_node_tells_it(powercap):
    """Another node that may read its processors, yet has no counter of its memory; and a second rank of this one."""
    other = [None, [{"processors (RAPL)"}, None]]
    meter, kinds = meter_of(Node(other, [None, [None, None]]), powercap)
    assert kinds == ["processors (RAPL)"]
    assert [counter.name for counter in meter.counters] == ["package-0", "package-1"]


def test_a_node_that_tells_nothing_makes_the_sum_none(powercap):
    meter, kinds = meter_of(Node([None, [set(), None]]), powercap)
    assert kinds == []
    assert meter.counters == []


def test_only_the_first_rank_of_a_node_reads_it(powercap):
    meter, kinds = meter_of(Node([None, [{"processors (RAPL)"}, None]], local_rank=1), powercap)
    assert kinds == ["processors (RAPL)"]
    assert meter.counters == []


@pytest.fixture
def nvml(monkeypatch):
    """NVML with one GPU that counts and one that is too old to."""
    module = ModuleType("pynvml")
    module.NVMLError = type("NVMLError", (Exception,), {})
    module.millijoules = 2_000
    module.nvmlInit = lambda: None

    def handle(uuid):
        if uuid not in {"GPU-new", "GPU-old"}:
            raise module.NVMLError("not found")
        return uuid

    def energy_of(gpu):
        if gpu == "GPU-old":
            raise module.NVMLError("not supported")
        return module.millijoules

    module.nvmlDeviceGetHandleByUUID = handle
    module.nvmlDeviceGetTotalEnergyConsumption = energy_of
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


def test_gpus_count_where_their_driver_does(nvml):
    gpus = nvml_gpus(["GPU-new", "GPU-old", "GPU-nosuch"])
    meter = EnergyMeter(gpus)
    nvml.millijoules = 5_500
    assert len(gpus) == 1
    assert meter.joules() == pytest.approx(3.5)


def test_without_nvml_there_are_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml_gpus(["GPU-new"]) == []


def test_ranks_on_one_gpu_count_it_once(nvml, monkeypatch, tmp_path):
    monkeypatch.setattr(energy, "gpu_uuid", lambda device: "GPU-new")
    meter, kinds = meter_of(Node(["GPU-new", [None, None]], device=torch.device("cpu")), tmp_path)
    assert kinds == ["GPUs (NVML)"]
    assert len(meter.counters) == 1
    second = Node(local_rank=1)
    second.rank = 1
    second.gather = lambda value: (
        ["GPU-new", value] if isinstance(value, str) else [[set(), {"GPUs (NVML)"}], value]
    )
    meter, kinds = meter_of(second, tmp_path)
    assert kinds == ["GPUs (NVML)"]
    assert meter.counters == []


def test_the_counters_of_this_machine_grow():
    zones = rapl_zones(POWERCAP)
    if not zones:
        pytest.skip("this machine has no RAPL counter that may be read")
    meter = EnergyMeter(zones)
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        pass
    assert 0 < meter.joules() < 5_000
