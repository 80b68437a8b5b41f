"""Augmentation of detector images by their symmetries; random numbers follow the sample, not the rank."""

import torch
from torch import Tensor


def _int64(word: int) -> int:
    """The 64 low bits as a signed number."""
    return (word + 2**63) % 2**64 - 2**63


_GOLDEN = _int64(0x9E3779B97F4A7C15)
_MIX = (_int64(0xBF58476D1CE4E5B9), _int64(0x94D049BB133111EB))


def uniform(rows: Tensor, *, seed: int, epoch: int, stream: int) -> Tensor:
    """Uniform float64 in [0, 1), one per row: a hash of (seed, epoch, stream, row), the same on any rank.

    splitmix64 (Steele, Lea, Flood 2014) on int64 tensors, whose wrap-around is that of uint64.
    """
    z = rows.to(torch.int64) * _GOLDEN
    for word in (seed, epoch, stream):
        z = _mix(z + _int64((word + 1) * 0x632BE59BD9B4E019))
    return _shift(z, 11).to(torch.float64) * 2.0**-53


def symmetries(
    image: Tensor, rows: Tensor, *, seed: int, epoch: int, phi_roll: bool, eta_flip: bool
) -> Tensor:
    """Roll each (C, eta, phi) image by a random number of φ cells, and mirror half of them in η."""
    n, _, _, cells = image.shape
    if phi_roll and n:
        shift = (uniform(rows, seed=seed, epoch=epoch, stream=0) * cells).to(torch.int64)
        phi = (torch.arange(cells, device=image.device) - shift[:, None]) % cells
        image = image.gather(3, phi[:, None, None, :].expand_as(image))
    if eta_flip and n:
        flip = uniform(rows, seed=seed, epoch=epoch, stream=1) < 0.5
        image = torch.where(flip[:, None, None, None], image.flip(2), image)
    return image


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _MIX[0]
    z = (z ^ _shift(z, 27)) * _MIX[1]
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical shift right (torch's own keeps the sign)."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
