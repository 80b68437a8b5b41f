"""Images of the whole detector: three channels over (η, φ), made sparse and kept sparse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hpctrain.physics.calorimeter import Towers
from hpctrain.physics.detector import Tracks
from hpctrain.physics.particles import Floats, Ints, sum_by

CHANNELS = ("ECAL energy [GeV]", "HCAL energy [GeV]", "tracks")
ETA_MAX = 2.5


@dataclass(frozen=True)
class SparseImages:
    """Non-zero cells of a number of images, row after row."""

    shape: tuple[int, int, int]
    """Channels, η bins, φ bins."""
    offsets: Ints
    """(images + 1,): cells of image i are offsets[i] to offsets[i + 1]."""
    indices: npt.NDArray[np.uint32]
    """Flat index into ``shape`` (C order), rising within an image."""
    values: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: Ints) -> SparseImages:
        """The images with the given numbers, in that order."""
        counts = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        cells = np.repeat(self.offsets[rows] - offsets[:-1], counts) + np.arange(offsets[-1])
        return SparseImages(self.shape, offsets, self.indices[cells], self.values[cells])

    def dense(self) -> npt.NDArray[np.float32]:
        """All images as (images, channels, η, φ)."""
        size = int(np.prod(self.shape))
        out = np.zeros((len(self), size), dtype=np.float32)
        out[np.repeat(np.arange(len(self)), np.diff(self.offsets)), self.indices] = self.values
        return out.reshape(len(self), *self.shape)


def detector_images(
    towers: Towers, tracks: Tracks, *, bins: int = 64, eta_max: float = ETA_MAX
) -> SparseImages:
    """Images of ``bins`` × ``bins`` uniform cells over |η| < eta_max and the whole circle in φ.

    Channels: ECAL energy, HCAL energy (GeV, summed over the towers in a cell), number of tracks.
    Axis 1 is η from −eta_max, axis 2 is φ from −π.
    """
    shape = (len(CHANNELS), bins, bins)
    layers = [
        (towers.event, towers.eta, towers.phi, towers.ecal),
        (towers.event, towers.eta, towers.phi, towers.hcal),
        (tracks.event, tracks.eta, tracks.phi, np.ones(len(tracks))),
    ]
    keys, values = [], []
    for channel, (event, eta, phi, value) in enumerate(layers):
        seen = (np.abs(eta) < eta_max) & (value > 0.0)
        cell = _cell(eta[seen], phi[seen], bins, eta_max)
        keys.append((event[seen] * len(CHANNELS) + channel) * bins**2 + cell)
        values.append(value[seen])
    key, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    total = sum_by(inverse, np.concatenate(values), len(key))
    size = len(CHANNELS) * bins**2
    offsets = np.searchsorted(key, np.arange(towers.n_events + 1, dtype=np.int64) * size)
    return SparseImages(
        shape, offsets.astype(np.int64), (key % size).astype(np.uint32), total.astype(np.float32)
    )


def _cell(eta: Floats, phi: Floats, bins: int, eta_max: float) -> Ints:
    """Flat index of the (η, φ) cell; φ is periodic, so −π and π share one."""
    row = np.minimum(((eta + eta_max) / (2.0 * eta_max) * bins).astype(np.int64), bins - 1)
    column = np.floor((phi + np.pi) / (2.0 * np.pi) * bins).astype(np.int64) % bins
    return row * bins + column
