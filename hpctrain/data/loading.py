"""How a run reads its shards: the order of samples, the loader, and where the bytes come from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, PositiveInt

from hpctrain.config import ComponentConfig
from hpctrain.data.balance import Balance
from hpctrain.data.loader import Loader
from hpctrain.data.memory.store import MemoryStore
from hpctrain.data.order import Order
from hpctrain.data.shards import ShardDataset
from hpctrain.data.sizes import order_for
from hpctrain.data.windows import Source
from hpctrain.parallel.communicator import Communicator
from hpctrain.registry import register


@register("data")
class ShardLoading:
    """Shuffled batches of a shard directory, from disk or from the memory of all ranks."""

    class Config(ComponentConfig):
        speed_keys: ClassVar[frozenset[str]] = frozenset({"prefetch", "store", "replica_ranks", "stage"})
        kind: Literal["shards"] = "shards"
        window: PositiveInt | None = None
        """Events within which samples mix, over all ranks together; None takes as many as 256 MiB hold, 65,536 at
        most, and more for batches of thousands. A dataset no larger than this is simply permuted."""
        block: PositiveInt | None = None
        """Neighbouring events that are read in one piece; None takes 256, or less of events larger than 4 kB."""
        lanes: PositiveInt | None = None
        """Streams that a batch is drawn from: so many ranks read nothing twice. None takes as many as divide the batch
        and leave each lane four blocks of the window: 64 for a batch of 512."""
        prefetch: PositiveInt = 2
        """Batches made ready before they are asked for."""
        store: Literal["disk", "memory"] = "disk"
        """``memory`` reads each event once, keeps it in the memory of one rank and fetches it from there (needs MPI)."""
        replica_ranks: PositiveInt | None = None
        """Ranks that hold one copy of the dataset together when ``store`` is ``memory``; None: all of them."""
        stage: Annotated[tuple[str, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)] = ()
        """Node-local folders to copy the shards to before training, the first that is there; may name environment
        variables, as in ``$SLURM_TMPDIR``. The word ``site`` stands for those of the experiment's ``site``. Empty
        reads them where they are."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def open(self, directory: Path, names: Sequence[str], communicator: Communicator) -> Source:
        """The fields named of a shard directory's events. Every rank calls it. Raises ``UserError``."""
        dataset = ShardDataset.open(directory)
        if self.config.store == "disk" or communicator.size == 1:
            return dataset
        return MemoryStore.fill(dataset, communicator, replica_ranks=self.config.replica_ranks, names=names)

    def order(self, dataset: ShardDataset, global_batch_size: int, seed: int) -> Order:
        """The order of a dataset's events; it follows from the dataset and the configuration alone."""
        return order_for(
            dataset.events,
            dataset.row_bytes,
            global_batch_size,
            seed,
            block=self.config.block,
            window=self.config.window,
            lanes=self.config.lanes,
        )

    def loader(
        self,
        directory: Path,
        names: Sequence[str],
        communicator: Communicator,
        balance: Balance | None = None,
    ) -> Loader:
        """This rank's batches of a shard directory's events. Every rank calls it."""
        return Loader(
            self.open(directory, names, communicator),
            rank=communicator.rank,
            size=communicator.size,
            names=names,
            device=communicator.device,
            prefetch=self.config.prefetch,
            balance=balance,
        )
