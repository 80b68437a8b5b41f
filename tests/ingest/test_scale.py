import numpy as np
import pytest

from hpctrain.data.columns import SparseRows
from hpctrain.ingest.scale import ImageScale


def _images(events: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    shape = (events, 3, 4, 4)
    return (rng.exponential(1.0, shape) * (rng.random(shape) < 0.2)).astype(np.float32)


def test_it_is_the_largest_and_the_mean_of_what_is_not_zero() -> None:
    images = _images(50)
    scale = ImageScale((3, 4, 4))
    scale.add({"image": SparseRows.from_dense(images)})
    found = scale.constants()
    assert found["image_max"] == pytest.approx(images.max(axis=(0, 2, 3)))
    means = [images[:, c][images[:, c] > 0].mean(dtype=np.float64) for c in range(3)]
    assert found["image_mean_nonzero"] == pytest.approx(means, rel=1e-12)


def test_pieces_give_the_same_bits_as_the_whole() -> None:
    rows = SparseRows.from_dense(_images(200))
    whole, pieces = ImageScale((3, 4, 4)), ImageScale((3, 4, 4))
    whole.add({"image": rows})
    for start, stop in ((0, 1), (1, 64), (64, 64), (64, 199), (199, 200)):
        pieces.add({"image": rows.part(start, stop)})
    assert pieces.constants() == whole.constants()


def test_a_channel_without_cells_is_one() -> None:
    images = np.zeros((4, 3, 2, 2), dtype=np.float32)
    images[0, 1, 0, 0] = 6.0
    images[2, 1, 1, 0] = 2.0
    scale = ImageScale((3, 2, 2))
    scale.add({"image": SparseRows.from_dense(images)})
    assert scale.constants() == {"image_max": [1.0, 6.0, 1.0], "image_mean_nonzero": [1.0, 4.0, 1.0]}


def test_images_that_are_not_sparse_are_refused() -> None:
    with pytest.raises(TypeError, match="'image' is not sparse"):
        ImageScale((3, 4, 4)).add({"image": _images(2)})
