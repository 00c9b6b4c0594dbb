"""Augmented views of a whole batch by tensor operations: random resized crops with flips, seeded by each image.

[peer: TPT, RLCF use random resized crops and flips; the size of the crops is ours] View ``i`` of an image depends on
the image's seed alone, never on the batch around it.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta.noise import uniforms

_STREAM = 2
_NUMBERS = 5
_LOG_RATIO = math.log(4 / 3)


def make_views(pixels: Tensor, seeds: Tensor, count: int, *, min_area: float, seed: int = 0) -> Tensor:
    """Views float32 ``[B, count, 3, H, W]`` of pixels ``[B, 3, H, W]``; view 0 is the image itself.

    A crop has an area share uniform in ``[min_area, 1]``, an aspect ratio log-uniform in [3/4, 4/3], a uniform place
    inside the image, and is flipped with probability one half. ``seeds`` int64 ``[B]``; ``seed`` is the caller's own.
    """
    if count == 1:
        return pixels[:, None]
    views = [pixels]
    transforms = crop_transforms(seeds.to(pixels.device), count - 1, min_area=min_area, seed=seed)
    for index in range(count - 1):
        grid = F.affine_grid(transforms[:, index], list(pixels.shape), align_corners=False)
        views.append(F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False))
    return torch.stack(views, dim=1)


def crop_transforms(seeds: Tensor, count: int, *, min_area: float, seed: int = 0) -> Tensor:
    """Affine transforms float32 ``[B, count, 2, 3]`` from output to input coordinates, both in [-1, 1], as
    ``affine_grid`` takes."""
    stream = _STREAM + (seed << 8)
    area, ratio, across, down, flip = uniforms(seeds, count * _NUMBERS, stream).view(-1, count, _NUMBERS).unbind(-1)
    side = torch.sqrt(min_area + (1 - min_area) * area)
    stretch = torch.exp((2 * ratio - 1) * (_LOG_RATIO / 2))
    width, height = (side * stretch).clamp_max(1.0), (side / stretch).clamp_max(1.0)
    zero = torch.zeros_like(side)
    mirrored = torch.where(flip < 0.5, -width, width)
    rows = [mirrored, zero, (1 - width) * (2 * across - 1), zero, height, (1 - height) * (2 * down - 1)]
    return torch.stack(rows, dim=-1).view(-1, count, 2, 3)
