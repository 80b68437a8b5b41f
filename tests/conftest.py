"""Fixtures shared by the rooms: a toy dataset (synthetic, labelled so), toy runs, a full disk, a Slurm."""

import importlib.util
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hpctrain import registry
from hpctrain.cgroups import parse_list, write_list
from hpctrain.config import Experiment
from hpctrain.data.columns import SparseRows
from hpctrain.data.schema import DenseField, SparseField
from hpctrain.data.shard_writer import ShardWriter
from hpctrain.parallel.communicator import Communicator, connect
from hpctrain.parallel.environment import detect
from hpctrain.run import RunDirectory
from hpctrain.topology import Topology, read_topology

TOY_FIELDS = {
    "image": SparseField(shape=(3, 16, 16)),
    "label": DenseField(dtype="int64"),
    "weight": DenseField(dtype="float64"),
}


def _toy_columns(events: int, seed: int, *, signal: bool = True) -> dict:
    """Noise images; signal has a brighter central patch. Weights span two orders of magnitude."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, events) if signal else np.zeros(events, dtype=np.int64)
    image = rng.exponential(1.0, (events, 3, 16, 16)) * (rng.random((events, 3, 16, 16)) < 0.1)
    image[:, :, 6:10, 6:10] += label[:, None, None, None] * rng.exponential(0.6, (events, 3, 4, 4))
    return {
        "image": SparseRows.from_dense(image.astype(np.float32)),
        "label": label,
        "weight": np.where(label == 1, 1.0, 10 ** rng.uniform(0, 2, events)),
    }


@pytest.fixture(scope="session")
def write_toy() -> Callable[..., Path]:
    """Writes a toy dataset of so many events into a directory."""

    def write(
        directory: Path, events: int, seed: int = 0, events_per_shard: int = 64, *, signal: bool = True
    ) -> Path:
        scale = {"image_max": [8.0, 8.0, 8.0]}
        provenance = {"label": "synthetic toy images for tests"}
        with ShardWriter(
            directory, TOY_FIELDS, provenance=provenance, scale=scale, events_per_shard=events_per_shard
        ) as writer:
            if events:
                writer.append(_toy_columns(events, seed, signal=signal))
        return directory

    return write


@pytest.fixture
def toy_run(tmp_path: Path, write_toy: Callable[..., Path]) -> Callable[..., RunDirectory]:
    """Makes a run directory that holds toy shards, as if generate were done."""

    def make(name: str = "toy", *overrides: str, events: int = 203) -> RunDirectory:
        experiment = Experiment.from_mapping(
            {
                "name": name,
                "output": str(tmp_path),
                "task": {"model": {"filters": [4, 4], "hidden": 8}},
                "training": {"epochs": 2, "global_batch_size": 32, "schedule": {"warmup_steps": 2}},
            },
            overrides,
        )
        run = RunDirectory.create(experiment)
        for number, (split, share) in enumerate({"train": 1.0, "validation": 0.3, "test": 0.3}.items()):
            if not (run.data / split).exists():  # the same run may be opened again with other settings
                write_toy(run.data / split, int(events * share), seed=number)
        return run

    return make


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--engine", default="mpi", help="engine of the ranks that mpiexec started")
    parser.addoption("--write-golden", action="store_true", help="store the losses as they are now")


@pytest.fixture(scope="session")
def world(request: pytest.FixtureRequest) -> Iterator[Communicator]:
    """The ranks this test run was started on: one, or those of mpiexec, with the engine of ``--engine``."""
    engine = registry.find("engines", request.config.getoption("--engine"))
    communicator = connect(engine.Config(), detect(os.environ))
    yield communicator
    communicator.close()


@pytest.fixture(scope="session")
def slurm_class() -> Any:
    """``Slurm`` of ``tests/ingest/clusters``: real daemons, for as long as a test wants them."""
    path = Path(__file__).parent / "ingest" / "clusters" / "conftest.py"
    spec = importlib.util.spec_from_file_location("slurm_of_tests", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Slurm


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB: a full disk, caused. Needs root or a user namespace, as CI and containers have."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False)
    if mounted.returncode:
        pytest.skip("this machine does not let root mount (a container without that right)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _plant(facts: dict, root: Path) -> None:
    """The files of ``sys`` and ``proc`` that a machine of ``tests/machines`` has."""
    files = {name: str(text) for name, text in facts.get("files", {}).items()}
    cores, threads = facts.get("cores", 0), facts.get("threads", 1)
    siblings = [parse_list(text) for text in facts.get("siblings", [])] or [
        frozenset(range(core, cores * threads, cores)) for core in range(cores)
    ]
    cpus = frozenset().union(*siblings)
    sys = "sys/devices/system"
    if cpus:
        files[f"{sys}/cpu/online"] = write_list(cpus)
    for number, together in enumerate(siblings):
        for cpu in together:
            files[f"{sys}/cpu/cpu{cpu}/topology/thread_siblings_list"] = write_list(together)
            socket = number * facts.get("sockets", 1) // len(siblings)
            files[f"{sys}/cpu/cpu{cpu}/topology/physical_package_id"] = str(socket)
    if facts["nodes"]:
        files[f"{sys}/node/online"] = write_list(tuple(range(len(facts["nodes"]))))
    for number, node in enumerate(facts["nodes"]):
        ours = frozenset().union(*(siblings[core] for core in parse_list(node.get("cores", ""))))
        files[f"{sys}/node/node{number}/cpulist"] = node.get("cpus", write_list(ours))
        files[f"{sys}/node/node{number}/meminfo"] = f"Node {number} MemTotal: {node['memory_gib'] * 2**20} kB"
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if text.endswith("\n") else text + "\n")


@pytest.fixture
def machine_named(tmp_path: Path) -> Callable[..., Topology]:
    """The topology of a machine of ``tests/machines``, read from files as its kernel shows them."""

    def read(name: str, allowed: frozenset[int] | None = None) -> Topology:
        facts = yaml.safe_load((Path(__file__).parent / "machines" / f"{name}.yaml").read_text())
        _plant(facts, tmp_path / name)
        return read_topology(tmp_path / name, allowed)

    return read


@pytest.fixture(scope="session")
def resolvable_slurm(slurm_class: Any) -> Iterator[Any]:
    """A Slurm of two nodes of two CPUs whose names lead to this machine, so that ranks can meet there. Fails, and does
    not skip, where Slurm cannot run."""
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
        cluster = slurm_class(Path(folder), nodes=("127.0.0.1", "127.0.0.2"))
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()
