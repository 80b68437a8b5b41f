import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hpctrain.data.augment import symmetries, uniform

ROWS = torch.arange(20000)


def test_numbers_are_uniform_and_independent():
    streams = [
        uniform(ROWS, seed=s, epoch=e, stream=k) for s, e, k in [(1, 0, 0), (1, 1, 0), (1, 0, 1), (2, 0, 0)]
    ]
    for numbers in streams:
        assert stats.kstest(numbers.numpy(), "uniform").pvalue > 1e-4
        # neighbouring rows are not alike
        assert abs(torch.corrcoef(torch.stack([numbers[1:], numbers[:-1]]))[0, 1]) < 0.04
    correlation = torch.corrcoef(torch.stack(streams)) - torch.eye(4)
    assert correlation.abs().max() < 0.04


def test_numbers_follow_the_sample_not_its_place():
    mixed = ROWS[torch.randperm(len(ROWS), generator=torch.Generator().manual_seed(0))]
    assert torch.equal(
        uniform(mixed, seed=1, epoch=2, stream=0), uniform(ROWS, seed=1, epoch=2, stream=0)[mixed]
    )


@given(st.integers(0, 2**31 - 1), st.integers(0, 1000))
def test_an_image_is_rolled_in_phi_and_mirrored_in_eta_only(seed, epoch):
    image = torch.arange(4 * 2 * 6 * 8, dtype=torch.float32).reshape(4, 2, 6, 8)
    rows = torch.tensor([5, 0, 17, 3])
    moved = symmetries(image, rows, seed=seed, epoch=epoch, phi_roll=True, eta_flip=True)
    for before, after in zip(image, moved, strict=True):
        versions = [torch.roll(x, s, dims=2) for x in (before, before.flip(1)) for s in range(8)]
        assert sum(torch.equal(after, v) for v in versions) == 1


def test_every_shift_and_both_mirrors_happen():
    image = torch.zeros(2000, 1, 2, 8)
    image[:, 0, 0, 0] = 1
    moved = symmetries(image, torch.arange(2000), seed=0, epoch=0, phi_roll=True, eta_flip=True)
    counts = moved.sum(dim=0)[0]
    assert stats.chisquare(counts.flatten().numpy()).pvalue > 1e-4


def test_off_means_off():
    image = torch.rand(3, 2, 4, 4)
    assert torch.equal(
        symmetries(image, torch.arange(3), seed=0, epoch=0, phi_roll=False, eta_flip=False), image
    )
