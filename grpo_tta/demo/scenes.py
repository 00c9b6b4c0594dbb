"""Frames from pictures: one RGBA drawing on a background, moved, turned, scaled and coloured a little.

Every frame of every stream comes from here, and the demo model was trained on the same family of frames (with a wider
``spread``). A frame is a pure function of its picture and its seed: never of its batch, a clock or a global generator.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["FRAME_SIZE", "render_scene", "scenes"]

FRAME_SIZE = 64
_DRAWS = 48
_GRID = 4

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]


def render_scene(
    picture: UInt8, rng: np.random.Generator, size: int = FRAME_SIZE, *, spread: float = 1.0, flip: float = 0.0
) -> UInt8:
    """One frame, uint8 ``[size, size, 3]``, of one picture, uint8 RGBA ``[h, w, 4]`` with straight alpha.

    ``spread`` widens or narrows all that varies (1: the streams; 0: the picture centred and unchanged, on a random
    background); ``flip`` is the probability of mirroring. The generator advances by the same number of draws for every
    picture.
    """
    return np.ascontiguousarray(_planes(picture, rng, size, spread, flip).transpose(1, 2, 0))


def scenes(
    pictures: UInt8,
    indices: Sequence[int] | NDArray[np.int64],
    seeds: Sequence[int] | NDArray[np.int64],
    size: int = FRAME_SIZE,
    *,
    spread: float = 1.0,
    flip: float = 0.0,
) -> UInt8:
    """Frames ``[B, 3, size, size]`` uint8: frame ``i`` shows ``pictures[indices[i]]`` and depends on ``seeds[i]`` only.

    ``pictures`` is uint8 ``[N, h, w, 4]`` as ``grpo_tta.demo.pictures`` returns it; where its class indices are
    ``0..N-1``, ``indices`` are the labels.
    """
    if len(indices) != len(seeds):
        raise ValueError(f"indices and seeds must be equally many, got {len(indices)} and {len(seeds)}")
    frames = np.empty((len(indices), 3, size, size), dtype=np.uint8)
    for row, (index, seed) in enumerate(zip(indices, seeds, strict=True)):
        rng = np.random.Generator(np.random.PCG64(int(seed)))
        frames[row] = _planes(pictures[index], rng, size, spread, flip)
    return frames


def _planes(picture: UInt8, rng: np.random.Generator, size: int, spread: float, flip: float) -> UInt8:
    """One frame as ``[3, size, size]``: colour planes are several times as fast to compute with as pixels."""
    draws = rng.random(_DRAWS, dtype=np.float32)
    placed = _place(picture, draws[:6], size, spread, flip)
    frame = _background(draws[6:39], size) * (1 - placed[3])
    frame += placed[:3]
    return _colour(frame, draws[39:], spread)


def _place(picture: UInt8, draws: Float32, size: int, spread: float, flip: float) -> Float32:
    """The picture under a similarity transform: float32 ``[4, size, size]`` in [0, 1], premultiplied alpha."""
    angle, zoom, shift_x, shift_y, stretch = (2.0 * float(draw) - 1.0 for draw in draws[:5])
    height, width = picture.shape[:2]
    turn = np.deg2rad(12.0) * spread * angle
    side = size * 0.86 * np.exp(0.16 * spread * zoom)
    ratio = np.exp(0.05 * spread * stretch)
    scale_x, scale_y = width / side * ratio, height / side / ratio
    mirror = -1.0 if float(draws[5]) < flip else 1.0
    cos, sin = np.cos(turn), np.sin(turn)
    a, b, d, e = mirror * cos * scale_x, mirror * sin * scale_x, -sin * scale_y, cos * scale_y
    centre_x, centre_y = size / 2 * (1 + 0.12 * spread * shift_x), size / 2 * (1 + 0.12 * spread * shift_y)
    matrix = (a, b, width / 2 - a * centre_x - b * centre_y, d, e, height / 2 - d * centre_x - e * centre_y)
    image = Image.fromarray(picture).convert("RGBa")
    placed = image.transform((size, size), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)
    pixels = np.frombuffer(placed.tobytes(), dtype=np.uint8).reshape(size, size, 4)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) * np.float32(1 / 255)


def _background(draws: Float32, size: int) -> Float32:
    """A plain colour, a gradient or smooth patches; float32 in [0, 1], broadcastable to ``[3, size, size]``."""
    kind, angle, base = float(draws[0]), 2 * np.pi * float(draws[1]), _tint(draws[2:5])
    if kind < 0.3:
        return base[:, None, None]
    if kind < 0.65:
        other = _tint(draws[5:8])
        ramp = np.linspace(-0.5, 0.5, size, dtype=np.float32)
        across = np.float32(np.cos(angle)) * ramp[None, :] + np.float32(np.sin(angle)) * ramp[:, None]
        return _blend(base, other, np.clip(across + np.float32(0.5), 0, 1))
    cells = np.resize(draws[5:33], _GRID * _GRID)
    patches = Image.fromarray((cells * 255).astype(np.uint8).reshape(_GRID, _GRID))
    smooth = np.asarray(patches.resize((size, size), Image.Resampling.BICUBIC)) * np.float32(1 / 255)
    return _blend(base, _tint(draws[30:33]), smooth)


def _blend(first: Float32, second: Float32, share: Float32) -> Float32:
    """``[3, size, size]``: from the first colour to the second as ``share`` goes from 0 to 1."""
    return first[:, None, None] + (second - first)[:, None, None] * share


def _tint(draws: Float32) -> Float32:
    """A colour between grey and half saturated: what stands behind things is seldom vivid."""
    grey = draws.mean()
    colour: Float32 = grey + 0.6 * (draws - grey) + 0.25 * (draws[0] - 0.5)
    return np.clip(colour, 0, 1)


def _colour(frame: Float32, draws: Float32, spread: float) -> UInt8:
    """Contrast, brightness and a colour cast; rounded to uint8."""
    signed = (2 * draws[:5] - 1) * np.float32(spread)
    gain = (1 + 0.15 * signed[0]) * (1 + 0.06 * signed[1:4])
    offset = np.float32(0.5) + 0.1 * signed[4] - np.float32(0.5) * gain
    frame = frame * (gain * 255)[:, None, None]
    frame += (offset * 255 + np.float32(0.5))[:, None, None]
    return np.clip(frame, 0, 255, out=frame).astype(np.uint8)
