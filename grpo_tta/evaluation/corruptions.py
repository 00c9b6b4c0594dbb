"""Image corruptions of five severities, scaled to the size of the image.

Kinds and severities follow ImageNet-C (Hendrycks and Dietterich, 2019), whose constants are meant for 224 pixels, and
its sibling for 64 pixels, Tiny-ImageNet-C. Each kind says what was kept and what is ours; the code is ours, and no
number of another benchmark can be compared with one obtained here. A frame is corrupted by its own seed alone: its
result does not depend on the batch it comes in.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["CORRUPTIONS", "Corruption", "CorruptionError", "corrupt"]

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]
_REFERENCE_SIZE = 224
_SEVEREST = 5


class CorruptionError(ValueError):
    """A kind, severity or batch that cannot be corrupted."""


@dataclass(frozen=True)
class Corruption:
    """One kind: what it does to a frame, and its constant at severities 1 to 5.

    ``apply`` takes a frame float32 ``[3, H, W]`` in [0, 1], the level and the frame's generator; its result is
    clipped to [0, 1]. ``provenance`` says where the levels come from.
    """

    name: str
    levels: tuple[float, ...] | tuple[tuple[float, float], ...]
    apply: Callable[[Float32, "float | tuple[float, float]", np.random.Generator], Float32]
    provenance: str


def corrupt(images: UInt8, kind: str, severity: int, seeds: Sequence[int] | NDArray[np.int64]) -> UInt8:
    """Corrupted frames, uint8 ``[B, 3, H, W]`` like ``images``; severity 0 returns a copy.

    Frame ``i`` depends on ``images[i]``, the kind, the severity and ``seeds[i]`` (not negative), and on nothing else.
    Raises ``CorruptionError``.
    """
    corruption = CORRUPTIONS.get(kind)
    if corruption is None:
        raise CorruptionError(f"kind must be one of {', '.join(CORRUPTIONS)}, got {kind!r}")
    if severity not in range(_SEVEREST + 1):
        raise CorruptionError(f"severity must be 0 (unchanged) to {_SEVEREST}, got {severity}")
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8:
        raise CorruptionError(f"images must be uint8 [B, 3, H, W], got {images.dtype} {list(images.shape)}")
    if len(seeds) != len(images):
        raise CorruptionError(f"one seed an image: got {len(seeds)} seeds for {len(images)} images")
    if severity == 0:
        return images.copy()
    level = corruption.levels[severity - 1]
    corrupted = np.empty_like(images)
    for row, (image, seed) in enumerate(zip(images, seeds, strict=True)):
        rng = np.random.Generator(np.random.PCG64(int(seed)))
        changed = corruption.apply(image * np.float32(1 / 255), level, rng)
        corrupted[row] = np.clip(changed * 255 + np.float32(0.5), 0, 255)
    return corrupted


def _single(level: float | tuple[float, float]) -> float:
    if isinstance(level, tuple):
        raise TypeError(f"level must be one number, got {level}")
    return level


def _pair(level: float | tuple[float, float]) -> tuple[float, float]:
    if not isinstance(level, tuple):
        raise TypeError(f"level must be two numbers, got {level}")
    return level


def _gaussian_noise(image: Float32, level: float | tuple[float, float], rng: np.random.Generator) -> Float32:
    return image + np.float32(_single(level)) * rng.standard_normal(image.shape, dtype=np.float32)


def _contrast(image: Float32, level: float | tuple[float, float], rng: np.random.Generator) -> Float32:
    mean = image.mean(axis=(1, 2), keepdims=True)
    return mean + (image - mean) * np.float32(_single(level))


def _jpeg(image: Float32, level: float | tuple[float, float], rng: np.random.Generator) -> Float32:
    pixels = (image * 255 + np.float32(0.5)).astype(np.uint8).transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=int(_single(level)))
    return np.asarray(Image.open(buffer)).transpose(2, 0, 1) * np.float32(1 / 255)


def _defocus(image: Float32, level: float | tuple[float, float], rng: np.random.Generator) -> Float32:
    height, width = image.shape[1:]
    radius = _single(level) * min(height, width) / _REFERENCE_SIZE
    blurred = np.zeros_like(image)
    for weight, vector in _disk(radius):
        blurred += np.float32(weight) * (_convolution(vector, height) @ image @ _convolution(vector, width).T)
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


@lru_cache(maxsize=256)
def _convolution(vector: tuple[float, ...], size: int) -> Float32:
    """``[size, size]``: convolution of a row with ``vector``; the row goes on mirrored beyond its ends."""
    reach = len(vector) // 2
    matrix = np.zeros((size, size))
    for pixel in range(size):
        for place, weight in enumerate(vector, pixel - reach):
            source = place % (2 * size)
            matrix[pixel, min(source, 2 * size - 1 - source)] += weight
    return matrix.astype(np.float32)


def _fog(image: Float32, level: float | tuple[float, float], rng: np.random.Generator) -> Float32:
    amount, decay = _pair(level)
    height, width = image.shape[1:]
    plasma = np.zeros((height, width), dtype=np.float32)
    cells, weight = 2, 1.0
    while cells <= max(height, width):
        grid = rng.random((cells + 1, cells + 1), dtype=np.float32) - np.float32(0.5)
        plasma += np.float32(weight) * (_upsampling(height, cells) @ grid @ _upsampling(width, cells).T)
        cells, weight = 2 * cells, weight / decay
    plasma -= plasma.min()
    plasma /= plasma.max()
    brightest = image.max()
    return (image + amount * plasma) * (brightest / (brightest + amount))


@lru_cache(maxsize=64)
def _upsampling(size: int, cells: int) -> Float32:
    """``[size, cells + 1]``: linear interpolation of ``cells + 1`` equidistant values at ``size`` pixel centres."""
    places = (np.arange(size) + 0.5) / size * cells
    distance = np.abs(places[:, None] - np.arange(cells + 1)[None, :])
    return np.clip(1 - distance, 0, None).astype(np.float32)


CORRUPTIONS: dict[str, Corruption] = {
    corruption.name: corruption
    for corruption in (
        Corruption(
            "gaussian_noise",
            (0.04, 0.08, 0.12, 0.18, 0.26),
            _gaussian_noise,
            "standard deviations of values in [0, 1]; Tiny-ImageNet-C: 1 to 3; ImageNet-C: its 3 and 4 as our 4 and 5",
        ),
        Corruption(
            "defocus_blur",
            (3, 4, 6, 8, 10),
            _defocus,
            "ImageNet-C: radii at 224 pixels; ours: scaled to the shorter side, disk anti-aliased by area",
        ),
        Corruption(
            "fog",
            ((0.4, 3.0), (0.7, 3.0), (1.0, 2.5), (1.5, 2.0), (2.0, 1.75)),
            _fog,
            "Tiny-ImageNet-C: amount and decay, unchanged; ours: value noise of doubling frequency in place of "
            "diamond-square, so that the clouds scale with the image",
        ),
        Corruption(
            "contrast",
            (0.4, 0.3, 0.22, 0.17, 0.1),
            _contrast,
            "factors about each channel's mean; ImageNet-C: 1, 2 and its 4 as our 5; ours: 3 and 4, between them",
        ),
        Corruption(
            "jpeg_compression",
            (25, 18, 15, 10, 7),
            _jpeg,
            "ImageNet-C: quality, unchanged; ours: its 8-pixel blocks are not scaled and weigh more in small images",
        ),
    )
}
