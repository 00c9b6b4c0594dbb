"""Random numbers and views belong to an image's seed: not to its batch, not to a global generator."""

import torch

from grpo_tta.noise import uniforms
from grpo_tta.views import crop_transforms, make_views


def test_uniforms_are_open_even_and_uncorrelated() -> None:
    values = uniforms(torch.arange(4000), 16, 0)
    assert values.dtype == torch.float32
    assert 0 < values.min() < 0.001
    assert 0.999 < values.max() < 1
    shares = torch.histc(values, bins=10, min=0, max=1) / values.numel()
    torch.testing.assert_close(shares, torch.full((10,), 0.1), atol=0.005, rtol=0)
    correlations = torch.corrcoef(values.T) - torch.eye(16)
    assert correlations.abs().max() < 0.07


def test_uniforms_of_a_row_are_its_own_and_streams_differ() -> None:
    seeds = torch.tensor([-(2**63), -1, 0, 1, 2**63 - 1])
    values = uniforms(seeds, 8, 3)
    assert torch.equal(uniforms(seeds[3:4], 8, 3)[0], values[3])
    assert torch.equal(uniforms(seeds, 4, 3), values[:, :4])
    assert not torch.equal(uniforms(seeds, 8, 4), values)
    assert len({tuple(row.tolist()) for row in values}) == 5


def test_first_view_is_the_image_and_others_do_not_depend_on_the_batch() -> None:
    pixels = torch.rand(5, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    seeds = torch.arange(5) * 31
    views = make_views(pixels, seeds, 4, min_area=0.3)
    assert views.shape == (5, 4, 3, 16, 24)
    assert torch.equal(views[:, 0], pixels)
    alone = make_views(pixels[2:3], seeds[2:3], 4, min_area=0.3)
    torch.testing.assert_close(alone[0], views[2])
    again = make_views(pixels, seeds, 4, min_area=0.3)
    assert torch.equal(again, views)
    assert not torch.equal(make_views(pixels, seeds, 4, min_area=0.3, seed=1), views)


def test_one_view_is_no_copy() -> None:
    pixels = torch.rand(2, 3, 8, 8)
    assert make_views(pixels, torch.arange(2), 1, min_area=0.5).data_ptr() == pixels.data_ptr()


def test_crops_lie_inside_the_image_with_the_area_asked_for() -> None:
    transforms = crop_transforms(torch.arange(500), 3, min_area=0.4)
    width, height = transforms[..., 0, 0].abs(), transforms[..., 1, 1]
    assert (transforms[..., 0, 2].abs() + width <= 1 + 1e-6).all()
    assert (transforms[..., 1, 2].abs() + height <= 1 + 1e-6).all()
    area = width * height
    assert area.max() <= 1 + 1e-6
    assert area.min() > 0.33
    flipped = (transforms[..., 0, 0] < 0).float().mean()
    assert 0.4 < flipped < 0.6


def test_a_flip_mirrors_the_crop() -> None:
    ramp = torch.linspace(-1, 1, 32).expand(64, 3, 32, 32)
    seeds = torch.arange(64)
    mirrored = crop_transforms(seeds, 1, min_area=0.5)[:, 0, 0, 0] < 0
    views = make_views(ramp, seeds, 2, min_area=0.5)[:, 1]
    rising = views[:, 0, 16, -1] > views[:, 0, 16, 0]
    assert torch.equal(rising, ~mirrored)
