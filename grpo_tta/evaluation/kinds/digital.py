"""What processing does to an image: contrast, distortion, coarse pixels, compression, colours too strong."""

import io

import numpy as np
from PIL import Image

from grpo_tta.evaluation.kinds.base import Corruption, Float32, Rng, each, gaussian, grid_of, sampled

_PLANES = (Image.Resampling.BOX, Image.Resampling.NEAREST)


def _contrast(image: Float32, rng: Rng, factor: float) -> Float32:
    mean = image.mean(axis=(1, 2), keepdims=True)
    return mean + (image - mean) * np.float32(factor)


def _elastic(image: Float32, rng: Rng, away: float, smooth: float) -> Float32:
    rows, columns = grid_of(image)
    side = min(rows.shape)
    fields = gaussian(rng.standard_normal((2, *rows.shape), dtype=np.float32), smooth * side)
    fields *= np.float32(away * side) / np.sqrt(np.mean(fields**2, axis=(1, 2), keepdims=True))
    return sampled(image, rows + fields[0], columns + fields[1])


def _pixelate(image: Float32, rng: Rng, share: float) -> Float32:
    height, width = image.shape[1:]
    coarse = (max(1, round(width * share)), max(1, round(height * share)))
    fewer, back = _PLANES
    planes = [Image.fromarray(plane).resize(coarse, fewer).resize((width, height), back) for plane in image]
    return np.stack([np.asarray(plane) for plane in planes])


def _jpeg(image: Float32, rng: Rng, quality: float) -> Float32:
    pixels = (image * 255 + np.float32(0.5)).astype(np.uint8).transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=int(quality))
    return np.asarray(Image.open(buffer)).transpose(2, 0, 1) * np.float32(1 / 255)


def _saturate(image: Float32, rng: Rng, factor: float, more: float) -> Float32:
    value = image.max(axis=0)
    chroma = value - image.min(axis=0)
    saturation = chroma / np.maximum(value, np.float32(1e-6))
    wanted = np.clip(saturation * np.float32(factor) + np.float32(more), 0, 1)
    stretch = wanted / np.maximum(saturation, np.float32(1e-6))
    return np.where(chroma > 0, value - (value - image) * stretch, image)


KINDS = (
    Corruption(
        "contrast",
        "digital",
        each(0.4, 0.3, 0.22, 0.17, 0.1),
        _contrast,
        "factors about each channel's mean; ImageNet-C: 1, 2 and its 4 as our 5; ours: 3 and 4, between them",
    ),
    Corruption(
        "elastic_transform",
        "digital",
        ((0.008, 0.05), (0.012, 0.05), (0.018, 0.045), (0.025, 0.04), (0.035, 0.04)),
        _elastic,
        "ours: root mean square of the displacement and its smoothness, as shares of the shorter side; ImageNet-C's "
        "levels turn from wide to narrow fields midway",
    ),
    Corruption(
        "pixelate",
        "digital",
        each(0.8, 0.65, 0.5, 0.4, 0.3),
        _pixelate,
        "ours: share of the side's pixels that is left, between ImageNet-C's (224 pixels) and CIFAR-10-C's (32)",
    ),
    Corruption(
        "jpeg_compression",
        "digital",
        each(25, 18, 15, 10, 7),
        _jpeg,
        "ImageNet-C: quality, unchanged; ours: its 8-pixel blocks are not scaled and weigh more in small images",
    ),
    Corruption(
        "saturate",
        "digital",
        ((1.5, 0), (2, 0), (3, 0.05), (5, 0.1), (20, 0.2)),
        _saturate,
        "factor and addition of HSV's saturation; ImageNet-C: its 3, 4 and 5 as our 2, 4 and 5; ours: 1 and 3, so that "
        "severity grows one way; a grey pixel stays grey",
        extra=True,
    ),
)
