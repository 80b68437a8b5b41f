"""Where training is, and what it draws there: all that going on exactly needs beside model and optimisers."""

import random
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import torch


@dataclass
class Position:
    """Where training is: all that the order needs, whatever the number of ranks."""

    epoch: int = 0
    samples_seen: int = 0
    """Of this epoch."""
    best_metric: float = -np.inf
    best_epoch: int = -1
    loss_sum: float = 0.0
    """Weighted loss of this epoch so far, and its weight: a resumed epoch reports its whole loss."""
    weight_sum: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def next_batch(self, global_batch_size: int) -> int:
        """Number of the next global batch of this epoch; the last batch of an epoch may be a small one."""
        return -(-self.samples_seen // global_batch_size)

    def end_epoch(self, record: dict[str, float]) -> None:
        """On to the next epoch; ``record`` joins the history."""
        self.history.append(record)
        self.epoch += 1
        self.samples_seen, self.loss_sum, self.weight_sum = 0, 0.0, 0.0


class Drawn(IntEnum):
    """What random numbers are drawn for."""

    STEP = 0
    VALIDATION = 1
    EPOCH = 2


def seed_generators(seed: int, number: int, rank: int, purpose: Drawn = Drawn.STEP) -> None:
    """Seed torch, numpy and python for step (or epoch) ``number``: the same after a resume, another on every rank.

    So a checkpoint needs no states of generators, and can be gone on from at any number of ranks.
    """
    words = [seed, number, rank] if purpose is Drawn.STEP else [seed, number, rank, purpose]
    drawn = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))
    # torch.manual_seed also asks for every kind of accelerator: 0.4 ms, a whole step of a small network.
    torch.default_generator.manual_seed(drawn)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(drawn)
    np.random.seed(drawn % 2**32)  # noqa: NPY002 - a task's code may draw from it
    random.seed(drawn)
