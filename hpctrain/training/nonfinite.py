"""Which samples made a loss or a gradient NaN or infinite: written down before training ends."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpctrain.data.batches import Batch, rows_of
from hpctrain.data.shards import ShardDataset
from hpctrain.files import write_json
from hpctrain.tasks.base import Phase
from hpctrain.training.trainer import NotFinite

if TYPE_CHECKING:
    from hpctrain.training.session import Session


def with_samples(error: NotFinite, session: "Session", k: int, batch: Batch) -> NotFinite:
    """``error``, which also says where the samples of global batch ``k`` are written down. Every rank calls it."""
    path = session.run.path / "nonfinite.json"
    session.task.model.eval()
    mine = odd_rows(session.trainer.phases, batch)
    session.task.model.train()
    odd = sorted(row for rank in session.communicator.gather(mine) for row in rank)
    rows = session.order.global_batch(session.position.epoch, k)
    dataset = ShardDataset.open(session.run.data / "train")
    if session.communicator.rank == 0:
        write_json(
            path,
            {
                "problem": error.message,
                "epoch": session.position.epoch,
                "global_step": session.trainer.steps,
                "samples": places(dataset, np.sort(rows)),
                "samples_whose_own_loss_is_not_finite": places(dataset, np.array(odd, dtype=np.int64)),
            },
        )
    what = f"{error.message}; its {len(rows)} samples are in {path}"
    if odd:
        first = places(dataset, np.array(odd[:1]))[0]
        what += f", {len(odd)} of them are not finite alone, first event {first['event']} of {first['shard']}"
    return NotFinite(what, hint=error.hint if not odd else "Look at these events: `hpctrain data verify`")


@torch.no_grad()
def odd_rows(phases: Sequence[Phase], batch: Batch) -> list[int]:
    """Rows of the dataset whose loss, computed alone and in evaluation mode, is NaN or infinite in any phase."""
    odd = []
    for number, row in enumerate(batch["row"].tolist()):
        one = rows_of(batch, number, number + 1)
        if not all(bool(torch.isfinite(phase.loss(one).total)) for phase in phases):
            odd.append(int(row))
    return odd


def places(dataset: ShardDataset, rows: Any) -> list[dict[str, Any]]:
    """Shard and number within it of each row of a dataset."""
    starts = np.cumsum([0, *(shard.events for shard in dataset.info.shards)])
    which = np.searchsorted(starts, rows, side="right") - 1
    return [
        {"row": int(row), "shard": dataset.info.shards[shard].file, "event": int(row - starts[shard])}
        for row, shard in zip(rows, which, strict=True)
    ]
