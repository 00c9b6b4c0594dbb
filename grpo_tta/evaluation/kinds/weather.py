"""Weather and what it leaves on a lens: snow, frost, fog, glare, splashes. All textures are drawn, none is a photo."""

import numpy as np

from grpo_tta.evaluation.kinds.base import (
    Corruption,
    Float32,
    Rng,
    clouds,
    each,
    gaussian,
    scale_of,
    smeared,
    upsampling,
)

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_ICE = np.array([0.86, 0.94, 1.0], dtype=np.float32)[:, None, None]
_WATER = np.array([0.69, 0.93, 0.93], dtype=np.float32)[:, None, None]
_MUD = np.array([0.25, 0.16, 0.08], dtype=np.float32)[:, None, None]


def _snow(
    image: Float32, rng: Rng, mean: float, spread: float, flake: float, least: float, reach: float, keep: float
) -> Float32:
    scale = scale_of(image)
    height, width = image.shape[1:]
    down, across = (max(1, round(side / max(1.0, flake * scale))) for side in (height, width))
    grid = np.float32(mean) + np.float32(spread) * rng.standard_normal((down + 1, across + 1), dtype=np.float32)
    flakes = upsampling(height, down) @ grid @ upsampling(width, across).T
    flakes = np.where(flakes < least, np.float32(0), np.clip(flakes, 0, 1))[None]
    falling = smeared(flakes, reach * scale, reach * scale / 2, np.deg2rad(rng.uniform(45, 135)))
    grey = np.tensordot(_LUMA, image, axes=1)[None] * np.float32(1.5) + np.float32(0.5)
    whitened = np.float32(keep) * image + np.float32(1 - keep) * np.maximum(image, grey)
    return whitened + falling + falling[:, ::-1, ::-1]


def _frost(image: Float32, rng: Rng, keep: float, amount: float) -> Float32:
    height, width = image.shape[1:]
    sheet = clouds(rng, height, width, 2.0)
    ridges = 1 - np.abs(2 * clouds(rng, height, width, 1.4) - 1)
    ice = np.clip(np.float32(0.45) * sheet + np.float32(0.75) * ridges**4, 0, 1)
    return np.asarray(np.float32(keep) * image + np.float32(amount) * ice * _ICE, dtype=np.float32)


def _fog(image: Float32, rng: Rng, amount: float, decay: float) -> Float32:
    plasma = clouds(rng, image.shape[1], image.shape[2], decay)
    brightest = image.max()
    return (image + amount * plasma) * (brightest / (brightest + amount))


def _brightness(image: Float32, rng: Rng, more: float) -> Float32:
    value = image.max(axis=0)
    brighter = np.minimum(value + np.float32(more), 1)
    return np.where(value > 0, image * (brighter / np.maximum(value, 1e-6)), brighter)


def _spatter(image: Float32, rng: Rng, share: float, drop: float, opacity: float, mud: float) -> Float32:
    height, width = image.shape[1:]
    sigma = max(0.7, drop * scale_of(image))
    splashes = gaussian(rng.standard_normal((height, width), dtype=np.float32), sigma)
    edge = np.quantile(splashes, 1 - share)
    covered = np.clip((splashes - edge) / (np.float32(0.25) * splashes.std()), 0, 1) * np.float32(opacity)
    return image * (1 - covered) + covered * (_MUD if mud else _WATER)


KINDS = (
    Corruption(
        "snow",
        "weather",
        (
            (0.1, 0.3, 3, 0.5, 10, 0.8),
            (0.2, 0.3, 3, 0.5, 12, 0.75),
            (0.3, 0.3, 3.5, 0.55, 12, 0.7),
            (0.4, 0.3, 4, 0.6, 12, 0.65),
            (0.5, 0.3, 4, 0.6, 14, 0.55),
        ),
        _snow,
        "ImageNet-C: 1, and the last constant (how much of the image is not whitened); ours: flakes that grow more "
        "numerous evenly, their size and fall scaled to the shorter side",
    ),
    Corruption(
        "frost",
        "weather",
        ((1, 0.3), (0.9, 0.45), (0.8, 0.6), (0.7, 0.7), (0.6, 0.85)),
        _frost,
        "ours: what is kept of the image and how much ice lies on it, in ImageNet-C's range; ice is drawn (ridged "
        "noise), not photographed",
    ),
    Corruption(
        "fog",
        "weather",
        ((0.4, 3.0), (0.7, 3.0), (1.0, 2.5), (1.5, 2.0), (2.0, 1.75)),
        _fog,
        "Tiny-ImageNet-C: amount and decay, unchanged; ours: value noise of doubling frequency in place of "
        "diamond-square, so that the clouds scale with the image",
    ),
    Corruption(
        "brightness",
        "weather",
        each(0.1, 0.2, 0.3, 0.4, 0.5),
        _brightness,
        "ImageNet-C, unchanged: added to the brightest channel, hue and saturation kept",
    ),
    Corruption(
        "spatter",
        "weather",
        ((0.08, 4, 0.6, 0), (0.14, 4, 0.6, 0), (0.2, 4, 0.7, 0), (0.25, 4, 1, 1), (0.35, 4, 1, 1)),
        _spatter,
        "ours: share covered, size of a drop at 224 pixels, opacity; water at 1 to 3 and mud at 4 and 5 as in "
        "ImageNet-C",
        extra=True,
    ),
)
