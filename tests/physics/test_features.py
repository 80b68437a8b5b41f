import numpy as np
import pytest

from hpctrain.physics.features import FEATURE_NAMES, shallow_features


def test_columns_are_what_their_names_say() -> None:
    rng = np.random.default_rng(1)
    jets = rng.random((6, 5, 4)).astype(np.float32)
    n_jets, sum_mass, delta_eta = rng.integers(3, 8, 6), rng.random(6), rng.random(6)
    features = shallow_features(jets, n_jets, sum_mass, delta_eta)
    assert features.shape == (6, 23)
    assert features.dtype == np.float32
    table = dict(zip(FEATURE_NAMES, features.T, strict=True))
    assert np.array_equal(table["jet1_pt"], jets[:, 0, 0])
    assert np.array_equal(table["jet3_phi"], jets[:, 2, 2])
    assert np.array_equal(table["jet5_mass"], jets[:, 4, 3])
    assert np.array_equal(table["n_jets"], n_jets)
    assert table["sum_mass"] == pytest.approx(sum_mass)
    assert table["delta_eta"] == pytest.approx(delta_eta)


def test_wrong_shapes_are_named() -> None:
    four, six = np.zeros(4), np.zeros(6)
    with pytest.raises(ValueError, match=r"jets must be \(n, 5, 4\)"):
        shallow_features(np.zeros((6, 4, 4)), six, six, six)
    with pytest.raises(ValueError, match="sum_mass"):
        shallow_features(np.zeros((6, 5, 4)), six, four, six)
