"""Image files written by hand, byte by byte, so that their right pixels are known without a decoder."""

import struct
import zlib

import numpy as np


def samples(depth, shape=(20, 24), seed=0):
    """Random samples of a depth, black and white among them."""
    drawn = np.random.default_rng(seed).integers(0, 2**depth, shape)
    drawn[0, 0], drawn[0, 1] = 0, 2**depth - 1
    return drawn


def eight_bits(values, depth):
    return np.rint(values * 255 / (2**depth - 1)).astype(np.uint8)


def packed(values, depth, order=">"):
    """Rows of samples ``[H, n]``, padded to whole bytes."""
    if depth == 16:
        return values.astype(f"{order}u2").tobytes()
    bits = (values[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


def chunk(kind, body, crc=None):
    return (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) if crc is None else crc)
    )


def png(values, depth, colour, before=b"", after=b"", adam7=False, lacks=0):
    """``values``: ``[H, W]`` or ``[H, W, n]``; ``before`` and ``after``: chunks around the pixels; ``lacks``: bytes of
    the rows that are not there, or ``-lacks`` more."""
    height, width = values.shape[:2]
    passes = [(0, 0, 1, 1)]
    if adam7:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    raw = b""
    for left, top, across, down in passes:
        for row in values[top::down, left::across]:
            raw += b"\0" + packed(row.reshape(1, -1), depth) if row.size else b""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(adam7))
    raw = raw[: len(raw) - lacks] + bytes(max(0, -lacks))
    pixels = chunk(b"IDAT", zlib.compress(raw))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + pixels + after + chunk(b"IEND", b"")


def tiff(values, depth, photometric, order="<", *, big=False, deflate=False, planar=1, rows=7, tile=None, extra=()):
    """``values``: ``[H, W]`` or ``[H, W, n]``; ``extra``: ``(tag, kind, count, bytes)``."""
    height, width = values.shape[:2]
    values = values.reshape(height, width, -1)
    planes = [values] if planar == 1 else [values[..., [i]] for i in range(values.shape[2])]
    parts = []
    for plane in planes:
        if tile is None:
            parts += [plane[top : top + rows] for top in range(0, height, rows)]
        else:
            wide, high = tile if isinstance(tile, tuple) else (tile, tile)
            padded = np.pad(plane, ((0, -height % high), (0, -width % wide), (0, 0)))
            parts += [
                padded[top : top + high, left : left + wide]
                for top in range(0, height, high)
                for left in range(0, width, wide)
            ]
    data = [packed(part.reshape(len(part), -1), depth, order) for part in parts]
    data = [zlib.compress(part) for part in data] if deflate else data
    head = 16 if big else 8
    offsets = np.cumsum([head] + [len(part) for part in data])
    long = lambda *numbers: (4, len(numbers), struct.pack(f"{order}{len(numbers)}I", *numbers))  # noqa: E731
    short = lambda *numbers: (3, len(numbers), struct.pack(f"{order}{len(numbers)}H", *numbers))  # noqa: E731
    count = values.shape[2]
    tags = {256: long(width), 257: long(height), 258: short(*[depth] * count), 259: short(8 if deflate else 1)}
    tags |= {262: short(photometric), 277: short(count), 284: short(planar)}
    if tile is None:
        tags |= {273: long(*offsets[:-1]), 278: long(rows), 279: long(*map(len, data))}
    else:
        tags |= {322: long(wide), 323: long(high), 324: long(*offsets[:-1]), 325: long(*map(len, data))}
    tags |= {tag: value for tag, *value in extra}
    return _tiff_file(order, b"".join(data), tags, big)


def ycbcr(luma, chroma, factors, order="<", *, rows=None, tile=None, extra=(), **options):
    """A TIFF of blocks of ``factors`` pixels across and down: ``luma`` of each pixel, ``chroma`` ``[..., 2]`` of each
    block; ``rows`` and ``tile`` in pixels."""
    across, down = factors
    height, width = luma.shape
    padded = np.pad(luma, ((0, -height % down), (0, -width % across)), constant_values=77)
    units = padded.reshape(len(chroma), down, -1, across).swapaxes(1, 2).reshape(*chroma.shape[:2], -1)
    grey = np.concatenate((units, chroma), axis=2).reshape(len(chroma), -1)
    numbers = {256: (width,), 257: (height,), 258: (8, 8, 8), 277: (3,), 530: factors}
    if tile:
        numbers |= {322: (tile,), 323: (tile,)}
        tile = (tile // across * (across * down + 2), tile // down)
    else:
        rows = rows or height
        numbers[278] = (rows,)
    tags = [(tag, 3, len(given), struct.pack(f"{order}{len(given)}H", *given)) for tag, given in numbers.items()]
    return tiff(grey, 8, 6, order, rows=-(-(rows or 1) // down), tile=tile, extra=[*tags, *extra], **options)


def rgb_of(luma, chroma, factors):
    """By the formula, of samples from black to white; ``[H, W, 3]``."""
    height, width = luma.shape
    blue, red = np.moveaxis(chroma.repeat(factors[1], 0).repeat(factors[0], 1)[:height, :width] - 128.0, 2, 0)
    colours = (luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue)
    return np.rint(np.stack(colours, axis=2)).clip(0, 255)


def _tiff_file(order, body, tags, big=False):
    inline, offset = (8, "Q") if big else (4, "I")
    head = 16 if big else 8
    at = head + len(body)
    more, entries = b"", b""
    for tag in sorted(tags):
        kind, count, raw = tags[tag]
        entries += struct.pack(order + ("HHQ" if big else "HHI"), tag, kind, count)
        if len(raw) <= inline:
            entries += raw.ljust(inline, b"\0")
        else:
            entries += struct.pack(order + offset, at + len(more))
            more += raw + b"\0" * (len(raw) % 2)
    start = b"II" if order == "<" else b"MM"
    start += (
        struct.pack(order + "HHHQ", 43, 8, 0, at + len(more)) if big else struct.pack(order + "HI", 42, at + len(more))
    )
    return start + body + more + struct.pack(order + ("Q" if big else "H"), len(tags)) + entries + b"\0" * inline


def exif(orientation, order="<", kind=3):
    """An EXIF block that says the orientation."""
    value = struct.pack(order + ("H" if kind == 3 else "I"), orientation)
    return _tiff_file(order, b"", {0x0112: (kind, 1, value), 0x010F: (2, 6, b"Maker\0")})


def xmp(orientation):
    return b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>' % orientation


def raw_profile(data, name):
    """ImageMagick's: name, length and hexadecimal lines."""
    text = data.hex()
    lines = "\n".join(text[i : i + 72] for i in range(0, len(text), 72))
    return f"\n{name}\n{len(data):8d}\n{lines}\n".encode()


def stored(upright, orientation):
    """The picture ``[H, W, ...]`` as a file of that orientation stores it."""
    if orientation >= 5:
        upright = upright.swapaxes(0, 1)
    if orientation in (3, 4, 6, 7):
        upright = upright[::-1]
    if orientation in (2, 3, 7, 8):
        upright = upright[:, ::-1]
    return upright


def segment(marker, body):
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def riff(*chunks):
    body = b"".join(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def bmp(values, depth, palette=b"", top_down=False, masks=(), runs=None):
    """``values``: ``[H, W]`` indices, or ``[H, W, n]`` of 8 bits, in the file's order; ``masks`` of the colours and of
    alpha; ``runs``: the bytes of pixels in runs."""
    height, width = values.shape[:2]
    rows = [packed(row.reshape(1, -1), 8 if depth > 8 else depth) for row in (values if top_down else values[::-1])]
    body = b"".join(row + b"\0" * (-len(row) % 4) for row in rows) if runs is None else runs
    more = struct.pack(f"<{len(masks)}I", *masks)
    start = 54 + len(palette) + len(more)
    kind = 3 if masks else 0 if runs is None else {8: 1, 4: 2}[depth]
    info = struct.pack(
        "<IiiHHIIiiII", 40 + len(more), width, -height if top_down else height, 1, depth, kind, len(body), 0, 0,
        len(palette) // 4, 0,
    )  # fmt: skip
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + info + more + palette + body


def runs(values, depth, draw):
    """Rows from below, in runs of one colour and of many, each row and then the picture ended."""
    out = b""
    for row in values[::-1].tolist():
        at = 0
        while at < len(row):
            count = min(draw.choice((1, 2, 3, 5, 9)), len(row) - at)
            part = row[at : at + count]
            if count < 3 or len(set(part)) == 1:
                same = next((i for i, one in enumerate(part) if one != part[0]), count)
                out += bytes([same, part[0] * (17 if depth == 4 else 1)])
                at += same
                continue
            raw = bytes(part) if depth == 8 else packed(np.array([part]), 4)
            out += bytes([0, count]) + raw + b"\0" * (len(raw) % 2)
            at += count
        out += b"\0\0"
    return out[:-2] + b"\0\1"


def gif(values, palette, screen, at=(0, 0), key=None):
    """Of up to four colours: a first frame of ``values`` ``[H, W]`` at a place of a screen, width and height."""
    codes = [f"{value:03b}"[::-1] for value in values.flatten().tolist()]
    bits = "".join("001" * (i % 2 == 0) + code for i, code in enumerate(codes))  # cleared before codes grow longer
    bits += "101"
    body = bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))
    blocks = b"".join(bytes([len(part)]) + part for i in range(0, len(body), 255) if (part := body[i : i + 255]))
    control = b"" if key is None else b"!\xf9\4\1\0\0" + bytes([key]) + b"\0"
    frame = struct.pack("<HHHHB", *at, values.shape[1], values.shape[0], 0)
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x81, 1, 0) + bytes(palette)
    return head + control + b"," + frame + b"\2" + blocks + b"\0;"
