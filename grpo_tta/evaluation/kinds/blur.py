"""Blur: out of focus, through glass, moved, zoomed, smoothed."""

from functools import lru_cache

import numpy as np

from grpo_tta.evaluation.kinds.base import (
    Corruption,
    Float32,
    Rng,
    convolution,
    each,
    gaussian,
    grid_of,
    sampled,
    scale_of,
    smeared,
)

_ZOOM_STEPS = 16


def _defocus(image: Float32, rng: Rng, radius: float) -> Float32:
    height, width = image.shape[1:]
    blurred = np.zeros_like(image)
    for weight, vector in _disk(radius * scale_of(image)):
        blurred += np.float32(weight) * (convolution(vector, height) @ image @ convolution(vector, width).T)
    return blurred


@lru_cache(maxsize=64)
def _disk(radius: float, finer: int = 8) -> tuple[tuple[float, tuple[float, ...]], ...]:
    """Eigenvalues and eigenvectors of the kernel of a uniform disk: it is symmetric, so they are its separable parts.

    A pixel weighs as much as of it lies inside the disk.
    """
    side = 2 * int(np.ceil(radius + 0.5)) + 1
    places = (np.arange(side * finer) + 0.5) / finer - side / 2
    inside = (places[:, None] ** 2 + places[None, :] ** 2 <= radius**2).astype(np.float64)
    kernel = inside.reshape(side, finer, side, finer).mean(axis=(1, 3))
    values, vectors = np.linalg.eigh(kernel / kernel.sum())
    return tuple(
        (float(value), tuple(vector.tolist()))
        for value, vector in zip(values, vectors.T, strict=True)
        if abs(value) > 1e-6
    )


def _glass(image: Float32, rng: Rng, sigma: float, reach: float, times: float) -> Float32:
    scale = scale_of(image)
    softened = gaussian(image, sigma * scale)
    rows, columns = grid_of(image)
    away = np.float32(reach * np.sqrt(times) * scale)
    shifts = (2 * rng.random((2, *rows.shape), dtype=np.float32) - 1) * away
    return gaussian(sampled(softened, rows + shifts[0], columns + shifts[1]), sigma * scale)


def _motion(image: Float32, rng: Rng, reach: float, sigma: float) -> Float32:
    scale = scale_of(image)
    return smeared(image, 2 * reach * scale, sigma * scale, np.deg2rad(rng.uniform(-45, 45)))


def _zoom(image: Float32, rng: Rng, most: float) -> Float32:
    height, width = image.shape[1:]
    factors = np.linspace(1, most, _ZOOM_STEPS)
    zoomed = [_enlarging(height, float(factor)) @ image @ _enlarging(width, float(factor)).T for factor in factors]
    mean: Float32 = np.mean(zoomed, axis=0, dtype=np.float32)
    return mean


@lru_cache(maxsize=256)
def _enlarging(size: int, factor: float) -> Float32:
    """``[size, size]``: a row enlarged about its middle, by linear interpolation."""
    middle = (size - 1) / 2
    places = middle + (np.arange(size) - middle) / factor
    return np.clip(1 - np.abs(places[:, None] - np.arange(size)[None, :]), 0, None).astype(np.float32)


def _gaussian(image: Float32, rng: Rng, sigma: float) -> Float32:
    return gaussian(image, sigma * scale_of(image))


KINDS = (
    Corruption(
        "defocus_blur",
        "blur",
        each(3, 4, 6, 8, 10),
        _defocus,
        "ImageNet-C: radii at 224 pixels; ours: scaled to the shorter side, disk anti-aliased by area",
    ),
    Corruption(
        "glass_blur",
        "blur",
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        _glass,
        "ImageNet-C: sigma, reach and rounds at 224 pixels; ours: scaled, and every pixel looks once at a random place "
        "within reach times the root of rounds, in place of swaps one after another",
    ),
    Corruption(
        "motion_blur",
        "blur",
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        _motion,
        "ImageNet-C: radius and sigma at 224 pixels; ours: scaled, a line of twice the radius",
    ),
    Corruption(
        "zoom_blur",
        "blur",
        each(1.11, 1.16, 1.21, 1.26, 1.33),
        _zoom,
        "ImageNet-C: largest factor; ours: sixteen even steps at every severity",
    ),
    Corruption(
        "gaussian_blur",
        "blur",
        each(1, 2, 3, 4, 6),
        _gaussian,
        "ImageNet-C: sigma at 224 pixels; ours: scaled to the shorter side",
        extra=True,
    ),
)
