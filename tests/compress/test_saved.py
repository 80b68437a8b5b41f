"""A saved network comes back as the same function, or with an error that says what to do."""

from pathlib import Path

import pytest
import torch
from torch import nn

from hpctrain.compress.prune import MagnitudePruning, with_masks
from hpctrain.compress.quantise import Calibration, exact, quantise_network
from hpctrain.compress.saved import load_compressed, load_network, save_network
from hpctrain.errors import UserError
from hpctrain.run import RunDirectory


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(2)
    chain = with_masks(
        nn.Sequential(
            nn.Conv1d(2, 3, 3, padding=1), nn.ReLU(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(12, 2)
        )
    ).eval()
    pruning = MagnitudePruning(MagnitudePruning.Config())
    pruning.apply(chain, pruning.prune(chain, 0.4))
    calibration = Calibration(chain)
    calibration.add(torch.randn(50, 2, 8))
    return quantise_network(chain, calibration.types(8, 8, 0.01), 6)


def test_same_function_after_loading(network: nn.Sequential, tmp_path: Path) -> None:
    save_network(tmp_path, network, (2, 8))
    loaded, shape = load_network(tmp_path)
    x = torch.randn(20, 2, 8, dtype=torch.float64)
    assert shape == (2, 8)
    assert torch.equal(exact(loaded)(x), exact(network)(x))
    assert all(
        torch.equal(a, b)
        for a, b in zip(loaded.state_dict().values(), network.state_dict().values(), strict=True)
    )


def test_damaged_files_are_refused(network: nn.Sequential, tmp_path: Path) -> None:
    save_network(tmp_path, network, (2, 8))
    content = (tmp_path / "network.pt").read_bytes()
    (tmp_path / "network.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"cannot be read.*--force"):
        load_network(tmp_path)


def test_weights_of_another_network_are_refused(network: nn.Sequential, tmp_path: Path) -> None:
    save_network(tmp_path, network, (2, 8))
    torch.save({"other": torch.zeros(1)}, tmp_path / "network.pt")
    with pytest.raises(UserError, match="cannot be read"):
        load_network(tmp_path)


def test_code_in_a_file_is_never_run(network: nn.Sequential, tmp_path: Path) -> None:
    save_network(tmp_path, network, (2, 8))
    torch.save({"0.weight": Path("/")}, tmp_path / "network.pt")  # any object that is no tensor
    with pytest.raises(UserError, match="cannot be read"):
        load_network(tmp_path)


def test_no_compressed_network_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no compressed network.*hpctrain compress"):
        load_compressed(RunDirectory(tmp_path))
