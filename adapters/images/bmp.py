"""BMP files: as they are, but for those with a palette, which are written anew.

Pillow takes some palettes for none, reads colours where the pixels are, makes up pixels that runs leave out, and takes
an odd number of half bytes for one less.
"""

import struct
from dataclasses import replace
from functools import partial

from grpo_tta.adapters.images.bare import Bare
from grpo_tta.adapters.images.limits import CorruptImage, Deadline, ImageLimits, UnsupportedPixels

_HEADER = 14
_OLD = 12
"""Size of the information in the first version, which has palettes of three bytes a colour and no masks."""
_SIZES = (_OLD, 40, 52, 56, 64, 108, 124)
_PALETTES = (1, 4, 8)
"""Bits of a pixel that is an index."""
_ALL = 256
"""Colours of the palette that Pillow sees: of two, or of fewer than there are bits for, it might take it for none."""
_RUNS = {8: 1, 4: 2}
"""Kinds of compression by the bits of a pixel."""
_BITFIELDS = (3, 6)
_LOOKS = 2**12
"""Runs between two looks at the deadline."""


def bare_bmp(data: bytes, limits: ImageLimits) -> Bare:
    """Nothing in it is metadata that a decoder reads; its pixels begin behind its headers."""
    start, size = struct.unpack_from("<II", data, 10)
    width, height = struct.unpack_from("<HH" if size == _OLD else "<ii", data, 18)
    bits, compression, colours = struct.unpack_from("<H", data, 24 if size == _OLD else 28)[0], 0, 0
    if size != _OLD:
        compression, colours = struct.unpack_from("<I", data, 30)[0], struct.unpack_from("<I", data, 46)[0]
    masks = 12 if size == 40 and compression in _BITFIELDS else 0
    if size not in _SIZES or (start and start < _HEADER + size + masks):
        raise CorruptImage("its pixels begin within its headers, or those are of no known size")
    if bits not in _PALETTES and (not compression or compression in _BITFIELDS):
        return Bare(data, abs(width), abs(height), may_be_all_clear=False)
    if compression and (compression != _RUNS.get(bits) or height < 0):
        raise UnsupportedPixels(f"compression {compression} of {bits} bits a pixel cannot be read")
    step = 3 if size == _OLD else 4
    end = _HEADER + size + step * min(colours or 2**bits, _ALL)
    palette = data[_HEADER + size : min(end, start or end)]
    found = [palette[at : at + 3] + b"\0" for at in range(0, len(palette) - 2, step)]
    info = (40, width, height, 1, 8 if compression else bits, 0, 0, 0, 0, _ALL, 0)
    head = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, _HEADER + 40 + 4 * _ALL, *info)
    head += b"".join(found).ljust(4 * _ALL, b"\0")
    bare = Bare(head + data[start or end :], abs(width), abs(height), colours=len(found))
    if not compression:
        return bare
    runs = partial(_written_out, data, start or end, abs(width), abs(height), bits == 4, head)
    return replace(bare, data=data, memory=3 * abs(width) * abs(height), written_out=runs)


def _written_out(data: bytes, at: int, width: int, height: int, halves: bool, head: bytes, deadline: Deadline) -> bytes:
    """The file without runs. Raises `CorruptImage` unless they give each pixel, IndexError where they are cut off."""
    rows, row, looks = bytearray(head), bytearray(), 0
    padding = bytes(-width % 4)
    full = len(head) + (width + len(padding)) * height
    while len(rows) < full:
        looks += 1
        if looks % _LOOKS == 0:
            deadline.check()
        count, value = data[at], data[at + 1]
        at += 2
        ended = False
        if count:
            row += (bytes((value >> 4, value & 15)) * (count // 2 + 1))[:count] if halves else bytes((value,)) * count
        elif value > 2:
            size = -(-value // 2) if halves else value
            taken = data[at : at + size]
            row += bytes(half for one in taken for half in (one >> 4, one & 15))[:value] if halves else taken
            at += size + size % 2
        elif value == 0 and len(row) == width:
            ended = True
        else:
            raise CorruptImage("its runs leave pixels out")
        if len(row) > width:
            raise CorruptImage(f"a row has more than {width} pixels")
        if ended or (len(row) == width and len(rows) + width + len(padding) == full):
            rows += row + padding
            row.clear()
    return bytes(rows)
