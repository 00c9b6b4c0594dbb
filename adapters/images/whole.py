"""Whether all pixels are there, where a decoder would make up what is missing and say nothing."""

import struct
import zlib
from collections.abc import Iterator

import simplejpeg

from grpo_tta.adapters.images.canvas import Canvas
from grpo_tta.adapters.images.limits import CorruptImage, Deadline

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Of a pixel of a PNG, by its colour type."""
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PIECE, _OUT = 2**16, 2**20
_SPACES = {"Gray": "GRAY", "CMYK": "CMYK", "YCCK": "CMYK"}


class OddSampling(ValueError):
    """A JPEG of a sampling that the strict decoder does not take."""


def strict_jpeg(data: bytes, width: int = 1, height: int = 1) -> tuple[Canvas, str]:
    """Pixels, and their colours: RGB, CMYK as it is stored, or GRAY. At least of that size, and as small as decoding
    makes them. Raises ValueError where anything is damaged or missing, `OddSampling` where that cannot be told."""
    try:
        space = _SPACES.get(simplejpeg.decode_jpeg_header(data)[2], "RGB")
        return simplejpeg.decode_jpeg(data, space, min_height=height, min_width=width), space
    except KeyError as error:  # of a sampling that has no name there
        raise OddSampling(str(error)) from None
    except ValueError as error:
        if "subsampling" in str(error):
            raise OddSampling(str(error)) from None
        raise


def check_png(header: bytes, pixels: bytes, deadline: Deadline) -> None:
    """Raise `CorruptImage` unless the stream has as many bytes as the rows that the header says."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header[:13])
    missing = 0
    for left, top, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        wide, high = -((left - width) // across), -((top - height) // down)
        missing += high * (1 + -(-wide * depth * _SAMPLES[colour] // 8)) if wide > 0 else 0
    stream = zlib.decompressobj()
    for size in _inflated(stream, pixels):
        deadline.check()
        missing -= size
        if missing <= 0:
            return
    raise CorruptImage(f"its rows lack {missing} bytes")


def _inflated(stream: "zlib._Decompress", data: bytes) -> Iterator[int]:
    """Sizes of what comes out, little at a time."""
    for at in range(0, len(data), _PIECE):
        piece = data[at : at + _PIECE]
        while piece or stream.unconsumed_tail:
            yield len(stream.decompress(piece, _OUT))
            piece = stream.unconsumed_tail
            if stream.eof:
                return
