"""TIFF files bare of metadata: a directory of the first page with those tags alone that decide its pixels."""

import struct
from bisect import bisect_left
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from PIL.TiffImagePlugin import OPEN_INFO

from grpo_tta.adapters.images.bare import Bare, bare_jpeg
from grpo_tta.adapters.images.blocks import blocks_of
from grpo_tta.adapters.images.ifd import Directory, read_directory
from grpo_tta.adapters.images.limits import (
    MAX_PARTS,
    CorruptImage,
    Deadline,
    ImageLimits,
    TooManyParts,
    TooManyPixels,
    UnsupportedPixels,
)
from grpo_tta.adapters.images.orientation import TAG, orientation
from grpo_tta.adapters.images.whole import OddSampling, strict_jpeg

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIPS, _SAMPLES, _ROWS, _STRIP_BYTES, _PLANAR, _COLOURS = 273, 277, 278, 279, 284, 320
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _FORMAT, _XMP = 322, 323, 324, 325, 339, 700
_FILL, _PREDICTOR, _EXTRA, _TABLES = 266, 317, 338, 347
_INKS, _DOTS, _INDEXED = 332, 336, 346
_PIXELS = frozenset({_BITS, _COMPRESSION, _PHOTOMETRIC, _FILL, 292, 293, _PREDICTOR, _COLOURS, _INKS, _EXTRA})
"""Tags of numbers that decide pixels, beside those of the layout."""
_LAYOUT = frozenset({_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES})
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_OWN = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3, _LAB: 3}
"""Samples of a pixel, without extra ones, by photometric interpretation."""
_ALPHA = 2
"""As an extra sample, not multiplied into the colours."""
_RAW, _GROUP4, _JPEG = 1, 4, 7
_LOW_FIRST = 2
_FAX_END = "000000000001" * 2
_COMPRESSIONS = frozenset({_RAW, 2, 3, 4, 5, _JPEG, 8, 32773, 32946, 34925, 50000})
_PREDICTED = frozenset({5, 8, 32946, 34925, 50000})
"""Compressions with which a predictor is one; with others some programs pass over it, and some do not."""
_PACKED = 12
"""Bits of samples that lie the same in either byte order; Pillow reads them in one."""
_UNSIGNED = frozenset({1, 4})
_NO_BOUND = 2**32 - 1
_SHORT, _LONG, _BYTES = 3, 4, 7
_MAX_NUMBERS = 3 * 2**16
"""Of a palette."""


def bare_tiff(data: bytes, limits: ImageLimits) -> Bare:
    """The first page. White is zero where it says so, at any depth: the pixels then come out inverted.

    A palette of numbers below 256 is one of 8 bits.
    """
    found = read_directory(data)
    width, height = found.number(_WIDTH) or 0, found.number(_HEIGHT) or 0
    photometric = found.number(_PHOTOMETRIC)
    if photometric is None or width < 1 or height < 1:
        raise CorruptImage("width, height or photometric interpretation is missing")
    depth, samples = _samples(found)
    parts = _parts(found, width, height, limits)
    turn = orientation(xmp=[found.raw(_XMP)]) if _XMP in found.values else 1
    turn = found.number(TAG, within=range(1, 9)) or turn
    if photometric == _YCBCR and found.number(_COMPRESSION) != _JPEG:
        return replace(_of_blocks(found, width, height, parts), turn=turn)
    unit = parts.wide * parts.high * samples * depth // 8

    def check(deadline: Deadline) -> None:
        _check_readable(found, photometric, depth, samples)
        if photometric == _PALETTE and len(found.numbers(_COLOURS, _MAX_NUMBERS)) != 3 * 2**depth:
            raise CorruptImage(f"its palette has not 3 x {2**depth} numbers")
        _check_bytes(found, parts, height, depth if parts.planar == 2 else depth * samples)
        if found.number(_COMPRESSION) == _JPEG:
            _check_jpegs(found, parts, height, limits, deadline)
        elif found.number(_COMPRESSION) == _GROUP4:
            _check_faxes(found, parts)

    changed = {_PHOTOMETRIC: (_BLACK_IS_ZERO,)} if photometric == _WHITE_IS_ZERO else {}
    bare = _written(found, parts.tags(width, height, samples) | changed)
    return Bare(bare, width, height, turn, depth, photometric == _WHITE_IS_ZERO, memory=2 * unit, check=check)


def _samples(found: Directory) -> tuple[int, int]:
    """Bits of a sample, and how many samples a pixel has."""
    depths = set(found.numbers(_BITS)) or {1}
    samples = found.number(_SAMPLES) or 1
    if set(found.numbers(_FORMAT)) - _UNSIGNED or max(depths) > 16:
        raise UnsupportedPixels(
            f"pixels of {max(depths)} bits, sample format {found.number(_FORMAT) or 1}, have no defined white; "
            "unsigned ones of 1 to 16 bits have"
        )
    if len(depths) > 1 or (samples > 1 and found.number(_PLANAR) == 2 and max(depths) != 8):
        raise UnsupportedPixels(f"samples of {sorted(depths)} bits that lie apart or differ in depth cannot be read")
    if found.number(_PHOTOMETRIC) == _YCBCR and (samples != 3 or depths != {8} or found.number(_PLANAR) == 2):
        raise UnsupportedPixels(f"YCbCr of {samples} samples of {max(depths)} bits, or in planes, cannot be read")
    return max(depths), samples


def _check_readable(found: Directory, photometric: int, depth: int, samples: int) -> None:
    """Raises `UnsupportedPixels` for what Pillow has no pixels for, and for rare compressions."""
    compression = found.number(_COMPRESSION) or _RAW
    if compression not in _COMPRESSIONS:
        raise UnsupportedPixels(f"compression {compression} cannot be read")
    predictor = found.number(_PREDICTOR) or 1
    if predictor > 1 and compression not in _PREDICTED:
        raise UnsupportedPixels(f"predictor {predictor} with compression {compression} cannot be read: some apply it")
    extra, fill = found.numbers(_EXTRA), found.number(_FILL) or 1
    if samples > _OWN.get(photometric, samples) + len(extra):
        raise UnsupportedPixels(f"{samples} samples cannot be read where nothing says what those beyond the colour are")
    plain = photometric in (_RGB, _CMYK) and (compression != _RAW or extra in ((), (_ALPHA,)))
    if found.number(_PLANAR) == 2 and samples > 1 and not plain:
        raise UnsupportedPixels(
            f"planes of photometric interpretation {photometric} and extra samples {extra} cannot be read"
        )
    inks, dots = found.number(_INKS) or 1, set(zip(*[iter(found.numbers(_DOTS))] * 2, strict=False))
    if found.number(_INDEXED) or (photometric == _CMYK and (inks != 1 or dots - {(0, 2**depth - 1)})):
        raise UnsupportedPixels(
            f"pixels of a table's colours, of ink set {inks} or of dots within {dots} cannot be read"
        )
    order = b"II" if depth == _PACKED else found.data[:2]
    mode = (order, max(photometric, _BLACK_IS_ZERO), (1,), fill, (depth,) * samples, extra)
    if mode not in OPEN_INFO:
        raise UnsupportedPixels(
            f"{samples} samples of {depth} bits, photometric interpretation {photometric}, extra samples {extra}, fill "
            f"order {fill} and byte order {found.data[:2].decode()} cannot be read"
        )


def _of_blocks(found: Directory, width: int, height: int, parts: "_Parts") -> Bare:
    """Grey pixels that are blocks of coloured ones."""
    blocks = blocks_of(found)
    if (found.number(_PREDICTOR) or 1) > 1:
        raise UnsupportedPixels("YCbCr with a predictor cannot be read")
    if (parts.tiled or len(parts.offsets) > 1) and (
        parts.wide % blocks.across * parts.tiled or parts.high % blocks.down
    ):
        raise CorruptImage(f"strips or tiles of {parts.wide} x {parts.high} pixels cut blocks of colour in two")
    across, down = -(-width // parts.wide), -(-height // parts.high)
    wide, high = blocks.grey(parts.wide, parts.high)
    size = (across * wide, down * high if parts.tiled else blocks.grey(width, height)[1])
    grey = {_BITS: (8,), _PHOTOMETRIC: (_BLACK_IS_ZERO,)}
    grey_parts = parts._replace(wide=wide, high=high)
    bare = _written(found, grey_parts.tags(*size, 1) | grey)
    memory = 2 * wide * high + size[0] * size[1]

    def check(_: Deadline) -> None:
        _check_readable(found, _BLACK_IS_ZERO, 8, 1)
        _check_bytes(found, grey_parts, size[1], 8)

    return Bare(bare, width, height, memory=memory, check=check, blocks=blocks, stored=size)


class _Parts(NamedTuple):
    """Strips or tiles, of ``wide`` x ``high`` pixels each."""

    tiled: bool
    wide: int
    high: int
    planar: int
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    """Bytes of each."""

    def tags(self, width: int, height: int, samples: int) -> dict[int, tuple[int, ...]]:
        """What a decoder is to see: tags of strips or of tiles, never of both."""
        found = {_WIDTH: (width,), _HEIGHT: (height,), _SAMPLES: (samples,), _PLANAR: (self.planar,)}
        if self.tiled:
            sizes = {_TILE_WIDTH: (self.wide,), _TILE_HEIGHT: (self.high,)}
            return found | sizes | {_TILES: self.offsets, _TILE_BYTES: self.counts}
        return found | {_ROWS: (self.high,), _STRIPS: self.offsets, _STRIP_BYTES: self.counts}


def _parts(found: Directory, width: int, height: int, limits: ImageLimits) -> _Parts:
    """All that is decoded is judged like the image, with what reaches over its edges; all parts must have a place."""
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
    planar = 2 if found.number(_PLANAR) == 2 else 1
    of_plane = -(-width // wide) * -(-height // high)
    count = of_plane * (found.number(_SAMPLES) or 1 if planar == 2 else 1)
    tag, bytes_tag = (_TILES, _TILE_BYTES) if tiled else (_STRIPS, _STRIP_BYTES)
    places = found.values.get(tag)
    if max(count, places.length if places else 0) > MAX_PARTS:
        raise TooManyParts(f"more than {MAX_PARTS} strips or tiles")
    if tiled and of_plane * wide * high > limits.max_pixels:
        raise TooManyPixels(f"{of_plane} tiles of {wide} x {high} pixels exceed the limit of {limits.max_pixels}")
    offsets = found.numbers(tag, count)
    if len(offsets) < count or not all(offsets):
        raise CorruptImage(f"{count} strips or tiles are needed, {sum(map(bool, offsets))} have a place in the file")
    counts = found.numbers(bytes_tag, count)
    if len(counts) < count:
        raise CorruptImage(f"{count} strips or tiles are needed, {len(counts)} say how many bytes they have")
    if sum(counts) > len(found.data):
        raise CorruptImage(f"its strips or tiles have {sum(counts)} bytes together, the file has {len(found.data)}")
    return _Parts(tiled, wide, high, planar, offsets, counts)


def _check_bytes(found: Directory, parts: _Parts, height: int, bits: int) -> None:
    """Strips and tiles lie in the file, each apart from the others and from all else that decides pixels; those that
    are not compressed have all of their rows, of ``bits`` a pixel."""
    what = "a tile" if parts.tiled else "a strip"
    if (found.number(_COMPRESSION) or _RAW) == _RAW:
        row = -(-parts.wide * bits // 8)
        full, last = row * parts.high, row * (parts.high if parts.tiled else (height - 1) % parts.high + 1)
        of_plane = len(parts.counts) if parts.tiled else -(-height // parts.high)
        for number, count in enumerate(parts.counts, 1):
            needed = full if number % of_plane else last
            if count < needed:
                raise CorruptImage(f"{what} has {count} bytes of {needed}")
    spans = sorted((place, place + count) for place, count in zip(parts.offsets, parts.counts, strict=True))
    if spans[-1][1] > len(found.data):
        raise CorruptImage(f"{what} ends at byte {spans[-1][1]}, the file has {len(found.data)}")
    if any(one[1] > other[0] for one, other in pairwise(spans)):
        raise CorruptImage(f"{what} lies over another")
    kept = (_PIXELS | _LAYOUT | {_TABLES}) & found.values.keys()
    for start, stop in ((0, 8), found.span, *map(found.span_of, kept)):
        before = bisect_left(spans, (stop, 0)) - 1
        if before >= 0 and spans[before][1] > start:
            raise CorruptImage(f"{what} lies over what says where it lies")


def _check_faxes(found: Directory, parts: _Parts) -> None:
    """Each strip or tile has its end mark; libtiff leaves rows white that are missing before it."""
    for place, count in zip(parts.offsets, parts.counts, strict=True):
        end = found.data[place : place + count].rstrip(b"\0")[-4:]
        if found.number(_FILL) == _LOW_FIRST:
            end = bytes(int(f"{one:08b}"[::-1], 2) for one in end)
        bits = f"{int.from_bytes(end, 'big'):032b}".rstrip("0")
        if not bits.endswith(_FAX_END):
            raise CorruptImage("fax data has no end mark")


def _check_jpegs(found: Directory, parts: _Parts, height: int, limits: ImageLimits, deadline: Deadline) -> None:
    """Each strip or tile is a JPEG, of which libtiff fills up with grey what is missing."""
    tables = found.raw(_TABLES).removesuffix(b"\xff\xd9") if _TABLES in found.values else b"\xff\xd8"
    of_plane = -(-height // parts.high)
    for number, (place, count) in enumerate(zip(parts.offsets, parts.counts, strict=True)):
        deadline.check()
        rows = parts.high if parts.tiled else min(parts.high, height - number % of_plane * parts.high)
        one = bare_jpeg(tables + found.data[place + 2 : place + count], limits)
        if one.width < parts.wide or one.height < rows:
            raise CorruptImage(f"{one.width} x {one.height} pixels of {parts.wide} x {rows} are there")
        with suppress(OddSampling):
            strict_jpeg(one.data)


def _written(found: Directory, changed: dict[int, tuple[int, ...]]) -> bytes:
    """The file with a directory of its own behind it, which is a classic one also for a BigTIFF: a decoder sees the
    numbers that were judged, whatever else a tag's kind may have told it."""
    order = "<" if found.numbers(_BITS, 1) == (_PACKED,) else found.order
    tags = {tag: numbers for tag in _PIXELS if (numbers := found.numbers(tag, _MAX_NUMBERS))}
    colours = tags.get(_COLOURS, ())
    if colours and max(colours) < 256:
        tags[_COLOURS] = tuple(colour * 257 for colour in colours)
    tags |= changed
    fields, more = {}, b""
    end = len(found.data) + len(found.data) % 2
    for tag, numbers in tags.items():
        kind, letter = (_SHORT, "H") if max(numbers) < 2**16 else (_LONG, "I")
        raw = struct.pack(f"{order}{len(numbers)}{letter}", *numbers)
        if len(raw) > 4:
            raw, more = struct.pack(order + "I", end + len(more)), more + raw
        fields[tag] = struct.pack(order + "HHI", tag, kind, len(numbers)) + raw.ljust(4, b"\0")
    if _TABLES in found.values:
        tables = found.raw(_TABLES)
        fields[_TABLES] = struct.pack(order + "HHII", _TABLES, _BYTES, len(tables), end + len(more))
        more += tables + b"\0" * (len(tables) % 2)
    head = b"II" if order == "<" else b"MM"
    header = head + struct.pack(order + "HI", 42, end + len(more))
    directory = struct.pack(order + "H", len(fields)) + b"".join(fields[tag] for tag in sorted(fields)) + bytes(4)
    return b"".join((header, found.data[8:].ljust(end - 8, b"\0"), more, directory))
