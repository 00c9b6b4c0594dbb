"""Noise, pixel by pixel: not scaled to the image's size."""

import numpy as np

from grpo_tta.evaluation.kinds.base import Corruption, Float32, Rng, each


def _gaussian(image: Float32, rng: Rng, deviation: float) -> Float32:
    return image + np.float32(deviation) * rng.standard_normal(image.shape, dtype=np.float32)


def _shot(image: Float32, rng: Rng, photons: float) -> Float32:
    return (rng.poisson(image * photons) / photons).astype(np.float32)


def _impulse(image: Float32, rng: Rng, share: float) -> Float32:
    draws = rng.random(image.shape, dtype=np.float32)
    changed = np.where(draws < share / 2, np.float32(0), image)
    return np.where(draws > 1 - share / 2, np.float32(1), changed)


def _speckle(image: Float32, rng: Rng, deviation: float) -> Float32:
    return image + image * np.float32(deviation) * rng.standard_normal(image.shape, dtype=np.float32)


KINDS = (
    Corruption(
        "gaussian_noise",
        "noise",
        each(0.04, 0.08, 0.12, 0.18, 0.26),
        _gaussian,
        "standard deviations of values in [0, 1]; Tiny-ImageNet-C: 1 to 3; ImageNet-C: its 3 and 4 as our 4 and 5",
    ),
    Corruption(
        "shot_noise",
        "noise",
        each(250, 100, 50, 25, 12),
        _shot,
        "photons of a white pixel; Tiny-ImageNet-C: 1 to 3; ImageNet-C: its 2 and 3 as our 4 and 5",
    ),
    Corruption(
        "impulse_noise",
        "noise",
        each(0.03, 0.06, 0.09, 0.17, 0.27),
        _impulse,
        "share of values that become 0 or 1; ImageNet-C, unchanged",
    ),
    Corruption(
        "speckle_noise",
        "noise",
        each(0.15, 0.2, 0.35, 0.45, 0.6),
        _speckle,
        "standard deviations relative to the value; ImageNet-C, unchanged",
        extra=True,
    ),
)
