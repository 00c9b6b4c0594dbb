"""From a decoded picture to the canvas a model takes.

What is not grey or RGB as it lies is converted in bands of rows, one colour at a time, so that beside the decoded
picture there is never more than one byte for each of its pixels; resizing treats the colours apart anyway.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from grpo_tta.adapters.images.orientation import UPRIGHT

Canvas = np.ndarray[Any, np.dtype[np.uint8]]
"""uint8 ``[3, H, W]``, RGB, contiguous."""
Plain = Callable[[Image.Image, int], Image.Image]
"""Rows of a picture, and the first one's number, to the same as RGB or, where that is all they have, L."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = range(5, 9)
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_MODES = ("shortest", "longest", "squash")
_BAND = 2**20
"""Pixels that are converted at a time; a row counts for some more."""
_ROW = 8


@dataclass(frozen=True)
class CanvasSpec:
    """What the model takes, as in open_clip's ``preprocess_cfg``.

    ``resize_mode``: ``shortest`` edge to the canvas, then centre crop; ``longest`` edge, then pad with ``fill``;
    ``squash``.
    """

    height: int
    width: int
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill: int = 0

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"canvas height and width must be >= 1, got {self.height} x {self.width}")
        if self.interpolation not in _FILTERS:
            raise ValueError(f"interpolation must be one of {', '.join(_FILTERS)}, got {self.interpolation!r}")
        if self.resize_mode not in _MODES:
            raise ValueError(f"resize_mode must be one of {', '.join(_MODES)}, got {self.resize_mode!r}")
        if not 0 <= self.fill <= 255:
            raise ValueError(f"fill must be within 0..255, got {self.fill}")

    @property
    def resample(self) -> Image.Resampling:
        """Pillow's filter; as in open_clip, ``shortest`` onto a canvas that is not square is always bicubic."""
        square = self.height == self.width
        return _FILTERS[self.interpolation if square or self.resize_mode != "shortest" else "bicubic"]

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of a whole image resized for this canvas, before crop or padding."""
        if self.resize_mode == "squash":
            return self.width, self.height
        if self.resize_mode == "shortest" and self.height == self.width:
            short = self.width
            return (short, short * height // width) if width <= height else (short * width // height, short)
        ratios = (width / self.width, height / self.height)
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        return max(1, round(width / ratio)), max(1, round(height / ratio))


def needed_size(width: int, height: int, turn: int, spec: CanvasSpec) -> tuple[int, int]:
    """Width and height that a stored picture is resized to, before crop or padding and before it is turned."""
    if turn in _SIDEWAYS:
        wide, high = spec.resized(height, width)
        return high, wide
    return spec.resized(width, height)


def to_canvas(image: Image.Image, plain: Plain | None, turn: int, spec: CanvasSpec) -> Canvas:
    """uint8 ``[3, H, W]``. ``plain``: None for a picture that is RGB or L; ``turn``: its orientation."""
    if plain is None:
        return _to_array(_fit(image, spec, turn))
    first = plain(image.crop((0, 0, image.width, 1)), 0)
    if first.mode == "L":
        return _to_array(_fit(_plane(image, plain, None), spec, turn))
    fitted = [_fit(_plane(image, plain, channel), spec, turn) for channel in range(3)]
    return np.stack([np.asarray(one) for one in fitted])


def _plane(image: Image.Image, plain: Plain, channel: int | None) -> Image.Image:
    width, height = image.size
    out = Image.new("L", image.size)
    rows = max(1, _BAND // (width + _ROW))
    for top in range(0, height, rows):
        band = plain(image.crop((0, top, width, min(top + rows, height))), top)
        out.paste(band if channel is None else band.getchannel(channel), (0, top))
    return out


def _fit(image: Image.Image, spec: CanvasSpec, turn: int) -> Image.Image:
    """Resize, crop and turn: what the crop drops is never computed, and only the small picture is turned."""
    upright = image.size if turn not in _SIDEWAYS else image.size[::-1]
    wide, high = spec.resized(*upright)
    left, top = _crop_start(wide, spec.width), _crop_start(high, spec.height)
    out = (min(wide, spec.width), min(high, spec.height))
    across, down = upright[0] / wide, upright[1] / high
    box = _stored(
        (left * across, top * down, min((left + out[0]) * across, upright[0]), min((top + out[1]) * down, upright[1])),
        turn,
        *upright,
    )
    stored = out if turn not in _SIDEWAYS else out[::-1]
    if (wide, high) != upright:
        image = image.resize(stored, spec.resample, box=box)
    elif out != upright:
        image = image.crop((round(box[0]), round(box[1]), round(box[2]), round(box[3])))
    if turn != UPRIGHT:
        image = image.transpose(_TURNS[turn])
    if out == (spec.width, spec.height):
        return image
    padded = Image.new(image.mode, (spec.width, spec.height), spec.fill if image.mode == "L" else (spec.fill,) * 3)
    padded.paste(image, ((spec.width - out[0]) // 2, (spec.height - out[1]) // 2))
    return padded


def _stored(
    box: tuple[float, float, float, float], turn: int, width: int, height: int
) -> tuple[float, float, float, float]:
    """Where a box of the upright picture, which is ``width`` x ``height``, lies in the stored one."""
    left, top, right, bottom = box
    if turn in (2, 3, 6, 7):
        left, right = width - right, width - left
    if turn in (3, 4, 7, 8):
        top, bottom = height - bottom, height - top
    return (top, left, bottom, right) if turn in _SIDEWAYS else (left, top, right, bottom)


def _crop_start(size: int, wanted: int) -> int:
    return round((size - wanted) / 2) if size > wanted else 0


def _to_array(image: Image.Image) -> Canvas:
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        return np.repeat(pixels[None], 3, axis=0)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
