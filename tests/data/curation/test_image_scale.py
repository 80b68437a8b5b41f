"""Scale constants: what numpy says of the dense images, to the last bit in whatever pieces they come."""

import numpy as np
import pytest

from hpctrain.data.columns import SparseRows, part
from hpctrain.data.curation.image_scale import ImageScale
from hpctrain.data.schema import DenseField, RaggedField, SparseField


def images(events, shape=(3, 8, 8)):
    rng = np.random.default_rng(0)
    image = (rng.exponential(5, (events, *shape)) * (rng.random((events, *shape)) < 0.1)).astype(np.float32)
    image[:, 1] = 0
    return image


@pytest.mark.parametrize("dense", [True, False])
def test_constants_are_those_of_the_dense_images(dense):
    image = images(500)
    wanted = np.flatnonzero(np.arange(500) % 3 == 0)
    field = DenseField(shape=(3, 8, 8)) if dense else SparseField(shape=(3, 8, 8))
    scale = ImageScale({"image": field})
    scale.add({"image": image if dense else SparseRows.from_dense(image)}, wanted)
    mine = image[wanted].astype(np.float64)
    expected = mine.sum(axis=(0, 2, 3)) / np.maximum((mine > 0).sum(axis=(0, 2, 3)), 1)
    expected[1] = 1.0  # a channel without any cell
    found = scale.constants()
    assert found["image_max"] == [mine[:, 0].max(), 1.0, mine[:, 2].max()]
    np.testing.assert_allclose(found["image_mean_nonzero"], expected, rtol=1e-12)


@pytest.mark.parametrize("piece", [1, 50, 1024])
def test_pieces_make_no_difference_at_all(piece):
    columns = {"image": SparseRows.from_dense(images(1000))}
    wanted = np.random.default_rng(1).random(1000) < 0.5
    whole, pieces = (ImageScale({"image": SparseField(shape=(3, 8, 8))}) for _ in range(2))
    whole.add(columns, np.flatnonzero(wanted))
    for start in range(0, 1000, piece):
        stop = min(start + piece, 1000)
        pieces.add(part(columns, start, stop), np.flatnonzero(wanted[start:stop]))
    assert pieces.constants() == whole.constants()


def test_one_plane_is_one_channel_and_others_have_no_constants():
    scale = ImageScale({"image": DenseField(shape=(8, 8))})
    scale.add({"image": images(10, (8, 8))})
    assert len(scale.constants()["image_max"]) == 1
    for fields in ({"image": RaggedField()}, {"image": DenseField()}, {"x": DenseField(shape=(3, 8, 8))}):
        other = ImageScale(fields)
        other.add({})
        assert other.constants() == {}
