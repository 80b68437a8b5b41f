import pytest
import torch

from hpctrain.errors import UserError
from hpctrain.models.cnn import WholeDetectorCNN


def build(shape=(3, 64, 64), **config):
    return WholeDetectorCNN.Config(**config).build(shape=shape, classes=2)


def test_the_network_of_the_paper_has_its_parameters():
    model = build((1, 64, 64), filters=(128, 128, 128), hidden=512, normalisation="batch")
    # NERSC's count includes the running means and variances of BatchNorm.
    running = [b for name, b in model.named_buffers() if not name.endswith("num_batches_tracked")]
    assert sum(t.numel() for t in (*model.parameters(), *running)) == 4_493_442


@pytest.mark.parametrize("normalisation", ["none", "batch"])
def test_shapes_and_gradients(normalisation):
    model = build((3, 16, 16), filters=(4, 6), hidden=5, normalisation=normalisation)
    out = model(torch.rand(7, 3, 16, 16))
    assert out.shape == (7, 2)
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_moves_with_the_image():
    """A convolution network on a shifted image (by whole pools, away from edges) gives the shifted features."""
    model = build((1, 64, 64), filters=(3, 3)).layers[:6]
    image = torch.zeros(1, 1, 64, 64)
    image[..., 26:30, 26:30] = torch.rand(4, 4)
    moved = torch.roll(image, (4, 8), dims=(2, 3))
    a, b = model(image), model(moved)
    assert torch.allclose(torch.roll(a, (1, 2), dims=(2, 3))[..., 4:-4, 4:-4], b[..., 4:-4, 4:-4])


def test_an_image_that_cannot_be_halved():
    with pytest.raises(UserError, match="unit 2 cannot halve an image of 9×9"):
        build((3, 18, 18), filters=(4, 4, 4))
