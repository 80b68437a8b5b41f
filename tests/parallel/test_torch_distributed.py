"""What of torch's engines one process can show; ``test_engines.py`` runs Gloo on several ranks."""

import socket

import pytest
import torch

from hpctrain.errors import UserError
from hpctrain.parallel.environment import Ranks
from hpctrain.parallel.torch_distributed import GlooCommunicator, NcclCommunicator, gpu_of

TWO = Ranks(0, 2, 0, "torchrun")


def test_gloo_says_what_it_needs(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match="MASTER_ADDR is not set"):
        GlooCommunicator(GlooCommunicator.Config(), TWO)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_nobody_meets_says_so(monkeypatch, rank):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    with pytest.raises(UserError, match=rf"rank {rank} of 2 did not meet the others at 127\.0\.0\.1:{port}"):
        GlooCommunicator(GlooCommunicator.Config(timeout_s=1), Ranks(rank, 2, rank, "torchrun"))


def test_every_rank_of_a_machine_has_its_gpu():
    assert [gpu_of(rank, 4) for rank in range(4)] == [torch.device("cuda", rank) for rank in range(4)]


def test_a_rank_that_sees_one_gpu_takes_it():
    assert gpu_of(3, 1) == torch.device("cuda", 0)


@pytest.mark.parametrize("visible", [0, 2])
def test_a_rank_without_a_gpu_says_so(visible, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    with pytest.raises(UserError, match=f"rank 2 of this machine has no GPU: torch sees {visible}"):
        NcclCommunicator(NcclCommunicator.Config(), Ranks(2, 4, 2, "Slurm"))
