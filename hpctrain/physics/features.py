"""The 23 inputs of the shallow baselines: five leading jets and three event variables (Bhimji et al., 2.1)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hpctrain.physics.selection import LEADING_JETS

FEATURE_NAMES = (
    *(f"jet{i + 1}_{v}" for i in range(LEADING_JETS) for v in ("pt", "eta", "phi", "mass")),
    "sum_mass",
    "n_jets",
    "delta_eta",
)
"""Names of the columns of ``shallow_features``, in their order."""


def shallow_features(
    jets: npt.NDArray[Any],
    n_jets: npt.NDArray[Any],
    sum_mass: npt.NDArray[Any],
    delta_eta: npt.NDArray[Any],
) -> npt.NDArray[np.float32]:
    """The (n, 23) inputs named by ``FEATURE_NAMES``; masses and momenta in GeV, not standardised.

    ``jets`` is (n, 5, 4) with pT, η, φ, m of the leading jets, zero where an event has fewer; the others
    are (n,). All as they stand in the shards.
    """
    n = len(jets)
    if jets.shape != (n, LEADING_JETS, 4):
        raise ValueError(f"jets must be (n, {LEADING_JETS}, 4), got {jets.shape}")
    for name, values in (("n_jets", n_jets), ("sum_mass", sum_mass), ("delta_eta", delta_eta)):
        if values.shape != (n,):
            raise ValueError(f"{name} must be ({n},) like jets, got {values.shape}")
    columns = [jets.reshape(n, -1), sum_mass[:, None], n_jets[:, None], delta_eta[:, None]]
    return np.concatenate([np.asarray(c, dtype=np.float32) for c in columns], axis=1)
