"""What a kind of corruption is, and the planes and filters that several kinds are made of.

Lengths are given at 224 pixels and scaled to the shorter side. Beyond its edges an image goes on mirrored, unless said
otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Rng = np.random.Generator
Level = tuple[float, ...]

_REFERENCE_SIZE = 224


@dataclass(frozen=True)
class Corruption:
    """One kind: what it does to a frame, and its constants at severities 1 to 5.

    ``apply(image, rng, *level)`` takes a frame float32 ``[3, H, W]`` in [0, 1], the frame's generator and the constants
    of a severity; its result is clipped to [0, 1] by the caller. ``provenance`` says where the levels come from.
    """

    name: str
    family: str
    """``noise``, ``blur``, ``weather`` or ``digital``."""
    levels: tuple[Level, ...]
    apply: Callable[..., Float32]
    provenance: str
    extra: bool = False
    """One of the four that ImageNet-C keeps beside its fifteen."""


def each(*numbers: float) -> tuple[Level, ...]:
    """Levels of a kind with one constant."""
    return tuple((number,) for number in numbers)


def scale_of(image: Float32) -> float:
    """Pixels of this image for one pixel of a picture of 224."""
    return min(image.shape[1:]) / _REFERENCE_SIZE


def separable(image: Float32, vector: tuple[float, ...]) -> Float32:
    """``[..., H, W]`` filtered with ``vector``, of odd length, along both axes."""
    height, width = image.shape[-2:]
    return np.asarray(convolution(vector, height) @ image @ convolution(vector, width).T, dtype=np.float32)


def gaussian(image: Float32, sigma: float) -> Float32:
    """``[..., H, W]`` blurred; ``sigma`` in its own pixels, 0 leaves it unchanged."""
    return separable(image, _bell(sigma)) if sigma > 0 else image


@lru_cache(maxsize=256)
def _bell(sigma: float, finer: int = 8) -> tuple[float, ...]:
    """A Gaussian integrated over pixels, so that widths under a pixel are told apart too."""
    reach = int(np.ceil(3.5 * sigma + 0.5))
    places = (np.arange((2 * reach + 1) * finer) + 0.5) / finer - reach - 0.5
    weights = np.exp(-0.5 * (places / sigma) ** 2).reshape(-1, finer).sum(1)
    return tuple((weights / weights.sum()).tolist())


@lru_cache(maxsize=256)
def convolution(vector: tuple[float, ...], size: int) -> Float32:
    """``[size, size]``: convolution of a row with ``vector``; the row goes on mirrored beyond its ends."""
    reach = len(vector) // 2
    matrix = np.zeros((size, size))
    for pixel in range(size):
        for place, weight in enumerate(vector, pixel - reach):
            source = place % (2 * size)
            matrix[pixel, min(source, 2 * size - 1 - source)] += weight
    return matrix.astype(np.float32)


@lru_cache(maxsize=64)
def upsampling(size: int, cells: int) -> Float32:
    """``[size, cells + 1]``: linear interpolation of ``cells + 1`` equidistant values at ``size`` pixel centres."""
    places = (np.arange(size) + 0.5) / size * cells
    distance = np.abs(places[:, None] - np.arange(cells + 1)[None, :])
    return np.clip(1 - distance, 0, None).astype(np.float32)


def clouds(rng: Rng, height: int, width: int, decay: float) -> Float32:
    """Value noise of doubling frequency, each octave weaker by ``decay``: float32 ``[height, width]``, 0 to 1."""
    plasma = np.zeros((height, width), dtype=np.float32)
    cells, weight = 2, 1.0
    while cells <= max(height, width):
        grid = rng.random((cells + 1, cells + 1), dtype=np.float32) - np.float32(0.5)
        plasma += np.float32(weight) * (upsampling(height, cells) @ grid @ upsampling(width, cells).T)
        cells, weight = 2 * cells, weight / decay
    plasma -= plasma.min()
    plasma /= plasma.max()
    return plasma


def sampled(image: Float32, rows: Float32, columns: Float32) -> Float32:
    """``[C, H, W]`` at places ``[H', W']`` each, by bilinear interpolation; outside, the edge goes on."""
    height, width = image.shape[-2:]
    rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    top, left = rows.astype(np.int64), columns.astype(np.int64)
    down, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    y, x = (rows - top).astype(np.float32), (columns - left).astype(np.float32)
    upper = image[..., top, left] * (1 - x) + image[..., top, right] * x
    lower = image[..., down, left] * (1 - x) + image[..., down, right] * x
    return np.asarray(upper * (1 - y) + lower * y, dtype=np.float32)


def grid_of(image: Float32) -> tuple[Float32, Float32]:
    """Rows and columns of all pixels, float32 ``[H, W]`` each."""
    height, width = image.shape[-2:]
    rows = np.repeat(np.arange(height, dtype=np.float32)[:, None], width, axis=1)
    return rows, np.repeat(np.arange(width, dtype=np.float32)[None], height, axis=0)


def smeared(image: Float32, reach: float, sigma: float, angle: float) -> Float32:
    """``[C, H, W]`` moved along a line of ``reach`` pixels at ``angle`` radians while it was exposed, ever fainter:
    half a Gaussian of ``sigma``."""
    steps = np.linspace(0, reach, max(2, int(np.ceil(reach)) + 1))
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    middle = int(np.ceil(reach))
    kernel = np.zeros((2 * middle + 2, 2 * middle + 2))
    y, x = middle + steps * np.sin(angle), middle + steps * np.cos(angle)
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    for down in (0, 1):
        for right in (0, 1):
            part = np.abs(1 - down - (y - top)) * np.abs(1 - right - (x - left))
            np.add.at(kernel, (top + down, left + right), weights * part)
    kernel /= kernel.sum()
    height, width = image.shape[-2:]
    padded = np.pad(image, ((0, 0), (middle, middle + 1), (middle, middle + 1)), mode="symmetric")
    total = np.zeros_like(image)
    for row, column in np.argwhere(kernel > 1e-6):
        total += np.float32(kernel[row, column]) * padded[:, row : row + height, column : column + width]
    return total
