"""TIFF files bare of metadata: a directory of the first page with those tags alone that decide its pixels."""

import struct

from grpo_tta.adapters.images.bare import Bare
from grpo_tta.adapters.images.ifd import Directory, read_directory
from grpo_tta.adapters.images.limits import (
    MAX_PARTS,
    CorruptImage,
    ImageLimits,
    TooManyParts,
    TooManyPixels,
    UnsupportedPixels,
)
from grpo_tta.adapters.images.orientation import TAG, orientation

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIPS, _SAMPLES, _ROWS, _PLANAR, _COLOURS = 273, 277, 278, 284, 320
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _FORMAT, _XMP = 322, 323, 324, 339, 700
_PIXELS = frozenset(
    {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, 266, _STRIPS, _SAMPLES, _ROWS, 279, _PLANAR, 292, 293, 317}
    | {_COLOURS, _TILE_WIDTH, _TILE_HEIGHT, _TILES, 325, 332, 338, 347, *range(512, 522), 529, 530, 531, 532}
)
_WHITE_IS_ZERO, _BLACK_IS_ZERO = 0, 1
_UNSIGNED = frozenset({1, 4})
_NO_BOUND = 2**32 - 1
_SHORT, _LONG, _LONG8 = 3, 4, 16


def bare_tiff(data: bytes, limits: ImageLimits) -> Bare:
    """The first page. White is zero where it says so, at any depth: the pixels then come out inverted.

    A palette of numbers below 256 is one of 8 bits.
    """
    found = read_directory(data)
    width, height = found.number(_WIDTH) or 0, found.number(_HEIGHT) or 0
    photometric = found.number(_PHOTOMETRIC)
    depths = set(found.numbers(_BITS)) or {1}
    samples = found.number(_SAMPLES) or 1
    if photometric is None or width < 1 or height < 1:
        raise CorruptImage("width, height or photometric interpretation is missing")
    if set(found.numbers(_FORMAT)) - _UNSIGNED or max(depths) > 16:
        raise UnsupportedPixels(
            f"pixels of {max(depths)} bits, sample format {found.number(_FORMAT) or 1}, have no defined white; "
            "unsigned ones of 1 to 16 bits have"
        )
    if len(depths) > 1 or (samples > 1 and found.number(_PLANAR) == 2 and max(depths) != 8):
        raise UnsupportedPixels(f"samples of {sorted(depths)} bits that lie apart or differ in depth cannot be read")
    unit = _check_parts(found, width, height, limits) * samples * max(depths) // 8
    changed = {_PHOTOMETRIC: _BLACK_IS_ZERO} if photometric == _WHITE_IS_ZERO else {}
    bare = _written(found, changed)
    turn = orientation(xmp=[found.raw(_XMP)]) if _XMP in found.values else 1
    turn = found.number(TAG, within=range(1, 9)) or turn
    return Bare(bare, width, height, turn, max(depths), photometric == _WHITE_IS_ZERO, memory=2 * unit)


def _check_parts(found: Directory, width: int, height: int, limits: ImageLimits) -> int:
    """Pixels of a strip or tile, judged like those of an image; all parts must have a place."""
    tiled = _TILES in found.values
    wide = found.number(_TILE_WIDTH) or 0 if tiled else width
    high = found.number(_TILE_HEIGHT) or 0 if tiled else min(found.number(_ROWS) or _NO_BOUND, height)
    what = "a tile" if tiled else "a strip"
    if wide < 1 or high < 1:
        raise CorruptImage(f"{what} has {wide} x {high} pixels")
    if width * height > limits.max_pixels:
        raise TooManyPixels(f"{width} x {height} pixels exceed the limit of {limits.max_pixels}")
    if wide * high > limits.max_pixels:
        raise TooManyPixels(f"{what} of {wide} x {high} pixels exceeds the limit of {limits.max_pixels}")
    planes = found.number(_SAMPLES) or 1 if found.number(_PLANAR) == 2 else 1
    count = -(-width // wide) * -(-height // high) * planes
    places = found.values.get(_TILES if tiled else _STRIPS)
    if max(count, places.length if places else 0) > MAX_PARTS:
        raise TooManyParts(f"more than {MAX_PARTS} strips or tiles")
    offsets = found.numbers(_TILES if tiled else _STRIPS, MAX_PARTS)
    if len(offsets) < count or not all(offsets[:count]):
        raise CorruptImage(f"{count} strips or tiles are needed, {sum(map(bool, offsets))} have a place in the file")
    return wide * high


def _written(found: Directory, changed: dict[int, int]) -> bytes:
    """The file with a directory of its own behind it, which is a classic one also for a BigTIFF; values stay where they
    lie."""
    order = found.order
    entries, more = [], b""
    end = len(found.data) + len(found.data) % 2
    for tag in sorted(_PIXELS & found.values.keys()):
        kind, count, place = found.values[tag]
        raw, moved = found.raw(tag), b""
        if tag in changed:
            kind, count, raw = _SHORT, 1, struct.pack(order + "H", changed[tag])
        elif kind == _LONG8:
            kind, raw = _LONG, struct.pack(f"{order}{count}I", *found.numbers(tag, count))
            moved = raw
        elif tag == _COLOURS and (colours := found.numbers(tag, 3 * 2**16)) and max(colours) < 256:
            moved = raw = struct.pack(f"{order}{len(colours)}H", *(colour * 257 for colour in colours))
            kind, count = _SHORT, len(colours)
        if moved:
            place, more = end + len(more), more + moved
        field = raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack(order + "I", place)
        entries.append(struct.pack(order + "HHI", tag, kind, count) + field)
    header = found.data[:2] + struct.pack(order + "HI", 42, end + len(more))
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    return b"".join((header, found.data[8:].ljust(end - 8, b"\0"), more, directory))
