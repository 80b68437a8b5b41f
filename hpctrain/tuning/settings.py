"""What can be set for speed, and which settings fill a machine."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from hpctrain.config import Experiment
from hpctrain.launch.placement import plan
from hpctrain.topology import Topology


@dataclass(frozen=True)
class Setting:
    """One way to run a training."""

    ranks: int
    threads: int
    hyperthreads: bool = False
    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False

    @classmethod
    def of(cls, experiment: Experiment, topology: Topology) -> "Setting":
        """The one that a configuration has; threads as its ranks would take them here."""
        launch, training = experiment.launch.model_dump(), experiment.training.model_dump()
        place = plan(
            topology, launch["ranks"], launch["threads"],
            hyperthreads=launch["hyperthreads"], spare_cores=launch["spare_cores"],
        )[0]  # fmt: skip
        return cls(
            launch["ranks"], place.threads, launch["hyperthreads"],
            training["precision"], training["channels_last"], training["compile"],
        )  # fmt: skip

    def keys(self) -> dict[str, Any]:
        """The keys of the configuration that make it."""
        training = {"precision", "channels_last", "compile"}
        return {f"{'training' if k in training else 'launch'}.{k}": v for k, v in asdict(self).items()}

    def __str__(self) -> str:
        words = [f"{self.ranks} × {self.threads} threads", self.precision]
        named = ("channels_last", "compile", "hyperthreads")
        return ", ".join(words + [name for name in named if getattr(self, name)])


def layouts(current: Setting, topology: Topology, *, most_ranks: int, spare_cores: int = 0) -> list[Setting]:
    """``current`` on other numbers of ranks, each with as many threads as fill the machine; fewest ranks first.

    Powers of two, the NUMA nodes and their doubles, and every core; no more than ``most_ranks`` (samples of a batch).
    """
    cores, nodes = len(topology.cores) - spare_cores, len(topology.cpu_nodes)
    numbers = {cores} | {base * 2**k for base in (1, nodes) for k in range(cores.bit_length())}
    found = []
    for ranks in sorted(number for number in numbers if number <= min(cores, most_ranks)):
        place = plan(topology, ranks, hyperthreads=current.hyperthreads, spare_cores=spare_cores)[0]
        found.append(replace(current, ranks=ranks, threads=place.threads))
    return found


def variants(setting: Setting, topology: Topology, *, bf16: bool) -> Iterator[Setting]:
    """The same ranks with one thing changed, the most promising first; ``bf16`` where the processor may gain by it."""
    yield replace(setting, channels_last=not setting.channels_last)
    yield replace(setting, compile=not setting.compile)
    if setting.threads > 2:  # a core for the reader and the checkpoint writer
        yield replace(setting, threads=setting.threads - 1)
    if topology.hyperthreads > 1:
        factor = topology.hyperthreads
        threads = max(1, setting.threads // factor) if setting.hyperthreads else setting.threads * factor
        yield replace(setting, hyperthreads=not setting.hyperthreads, threads=threads)
    if bf16 and setting.precision == "float32":
        yield replace(setting, precision="bf16")
