"""YCbCr of a TIFF that is no JPEG: blocks of pixels that share a colour, as the file stores them.

libtiff's own way to RGB passes over data that is missing, and Pillow's takes the samples of such a file for RGB. Here a
decoder is told that each block is a few grey pixels, which it reads or refuses like any others, and their colours are
made of them afterwards.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from grpo_tta.adapters.images.ifd import Directory
from grpo_tta.adapters.images.limits import CorruptImage, UnsupportedPixels

_SUBSAMPLING, _COEFFICIENTS, _REFERENCE = 530, 529, 532
_FACTORS = (1, 2, 4)
_LUMA = (0.299, 0.587, 0.114)
_FULL = (0, 255, 128, 255, 128, 255)
_BAND = 2**19
"""Pixels that are made at a time."""


@dataclass(frozen=True)
class Blocks:
    """Of ``across`` x ``down`` pixels: their brightness, and Cb and Cr of all of them."""

    across: int
    down: int
    tables: tuple[int, ...] | None = None
    """Of the three samples, where black and white are not 0 and 255."""

    def grey(self, width: int, height: int) -> tuple[int, int]:
        """Size of what holds the blocks of so many pixels, as grey ones."""
        return -(-width // self.across) * (self.across * self.down + 2), -(-height // self.down)

    def picture(self, grey: Image.Image, width: int, height: int, check: Callable[[], None]) -> Image.Image:
        """RGB pixels of the grey ones. ``check`` is called now and then."""
        across, down = self.across, self.down
        out = Image.new("RGB", (width, height))
        step = max(1, _BAND // (grey.width * down))
        for top in range(0, grey.height, step):
            check()
            rows = np.asarray(grey.crop((0, top, grey.width, min(top + step, grey.height))))
            blocks = rows.reshape(len(rows), -1, across * down + 2)
            luma = blocks[..., :-2].reshape(len(rows), -1, down, across).swapaxes(1, 2)
            chroma = blocks[..., -2:].repeat(down, axis=0).repeat(across, axis=1)
            samples = np.dstack((luma.reshape(len(rows) * down, -1), chroma))[: height - top * down, :width]
            band = Image.fromarray(np.ascontiguousarray(samples), "YCbCr")
            out.paste((band.point(self.tables) if self.tables else band).convert("RGB"), (0, top * down))
        return out


def blocks_of(found: Directory) -> Blocks:
    """Raises `UnsupportedPixels` for colours that are made in another way."""
    across, down = found.numbers(_SUBSAMPLING, 2) or (2, 2)
    if across not in _FACTORS or down not in _FACTORS:
        raise CorruptImage(f"a colour of {across} x {down} pixels")
    coefficients = _rationals(found, _COEFFICIENTS, 3)
    if coefficients and not np.allclose(coefficients, _LUMA, atol=0.001):
        raise UnsupportedPixels(f"YCbCr with coefficients of {coefficients} cannot be read")
    reference = _rationals(found, _REFERENCE, 6)
    if not reference or reference == _FULL:
        return Blocks(across, down)
    tables = []
    for black, white, zero, most in ((*reference[:2], 0, 255), (*reference[2:4], 128, 127), (*reference[4:], 128, 127)):
        if white <= black:
            raise CorruptImage(f"black and white are {reference}")
        scaled = zero + (np.arange(256) - black) * most / (white - black)
        tables += np.rint(scaled.clip(0, 255)).astype(int).tolist()
    return Blocks(across, down, tuple(tables))


def _rationals(found: Directory, tag: int, count: int) -> tuple[float, ...]:
    value = found.values.get(tag)
    if value is None:
        return ()
    if value.kind != 5 or value.length < count:
        return tuple(map(float, found.numbers(tag, count)))
    pairs = struct.iter_unpack(found.order + "II", found.raw(tag)[: 8 * count])
    return tuple(above / below if below else 0.0 for above, below in pairs)
