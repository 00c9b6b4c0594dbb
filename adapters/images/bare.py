"""Image files bare of metadata: what decides the pixels, rewritten so that a decoder sees nothing else.

Comments, profiles, EXIF, XMP, thumbnails, further pictures and whatever lies behind the first one are left out, damaged
or not; what they say of the orientation is kept. A part that decides pixels must be there and, where the format has
checksums, be sound.
"""

import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from grpo_tta.adapters.images.blocks import Blocks
from grpo_tta.adapters.images.limits import (
    MAX_GONE_THROUGH,
    MAX_PARTS,
    MAX_SCANS,
    CorruptImage,
    Deadline,
    ImageLimits,
    TooManyParts,
)
from grpo_tta.adapters.images.orientation import UPRIGHT, Metadata
from grpo_tta.adapters.images.whole import check_png


@dataclass(frozen=True)
class Bare:
    """A file without metadata."""

    data: bytes
    width: int
    height: int
    """Of the picture as it is stored, before it is turned."""
    turn: int = UPRIGHT
    depth: int = 8
    """Bits of a sample."""
    white_is_zero: bool = False
    key: tuple[int, ...] | None = None
    """The samples that stand for transparent, in the file's own depth."""
    memory: int = 0
    """Bytes that the decoder takes beside the picture."""
    closed: bool = True
    """Whether its end mark was there."""
    check: Callable[[Deadline], None] | None = None
    """Raises `CorruptImage` where pixels are missing that the decoder would not miss."""
    frame: tuple[int, int, int, int] | None = None
    """Left, top, right and bottom of what the file has pixels for; the rest of it is transparent."""
    may_be_all_clear: bool = True
    """Whether a picture that is transparent everywhere is so; else nobody has filled in how opaque it is."""
    written_out: Callable[[Deadline], bytes] | None = None
    """The file that the decoder sees, made within the budget."""
    last_pixel_tells: bool = False
    """Whether the check may be left out where the last pixel is other than an empty picture's."""
    blocks: Blocks | None = None
    """What the grey pixels are that the decoder sees."""
    stored: tuple[int, int] | None = None
    """Width and height that the decoder sees, where they are others."""
    colours: int = 256
    """Of its palette; a pixel of another one is damage, unless it is the transparent one."""


def _parts() -> Iterator[int]:
    """Counts the parts of a file; raises `TooManyParts` rather than end."""
    yield from range(MAX_PARTS)
    raise TooManyParts(f"more than {MAX_PARTS} parts")


_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_PNG_ONCE = (b"IHDR", b"PLTE")
_PALETTE = 3
_KEY_BYTES = {0: 2, 2: 6}
"""Of the transparent colour of a grey and of a coloured picture."""


def bare_png(data: bytes, limits: ImageLimits) -> Bare:
    """Critical chunks and transparency."""
    parts, turn = _png_parts(data)
    width, height, depth, colour = struct.unpack_from(">IIBB", b"".join(parts[b"IHDR"][:1]))
    palette, transparent = b"".join(parts[b"PLTE"][:1]), b"".join(parts[b"tRNS"][:1])
    header = parts[b"IHDR"][0]
    if header[10:12] != b"\0\0":
        raise CorruptImage(f"its compression and filters are of the kinds {header[10]} and {header[11]}")
    kept = [(b"IHDR", header)]
    key, colours = None, 256
    if colour == _PALETTE:
        if not palette or len(palette) % 3:
            raise CorruptImage("the palette is missing or malformed")
        colours = len(palette) // 3
        kept.append((b"PLTE", palette))
        if transparent:
            kept.append((b"tRNS", transparent[:colours]))
    elif parts[b"tRNS"] and colour in _KEY_BYTES:
        if len(transparent) != _KEY_BYTES[colour]:
            raise CorruptImage(f"the transparent colour has {len(transparent)} bytes")
        key = tuple(sample & (2**depth - 1) for (sample,) in struct.iter_unpack(">H", transparent))
    kept += [(b"IDAT", b"".join(parts[b"IDAT"])), (b"IEND", b"")]
    more = 4 * width * height if key is not None and len(key) == 3 and depth == 16 else 0
    bare = data[:8] + b"".join(_png_chunk(kind, body) for kind, body in kept)
    check = partial(check_png, header, kept[-2][1])
    interlaced = header[12:13] != b"\0"
    return Bare(
        bare, width, height, turn, depth, key=key, memory=more, closed=bool(parts[b"IEND"]), check=check,
        last_pixel_tells=not interlaced, colours=colours,
    )  # fmt: skip


def _png_parts(data: bytes) -> tuple[dict[bytes, list[bytes]], int]:
    """What decides pixels, by kind, and the orientation."""
    parts: dict[bytes, list[bytes]] = {kind: [] for kind in _PNG_PIXELS}
    metadata = Metadata()
    for number, (kind, body, sound) in enumerate(_png_chunks(data)):
        if number == 0 and kind != b"IHDR":
            raise CorruptImage(f"the first chunk is {kind!r}")
        if kind == b"tRNS" and parts[b"IDAT"]:  # as viewers do: it would have to come before the pixels
            continue
        if kind == b"tRNS" or not kind[0] & 0x20:
            if not sound:
                raise CorruptImage(f"chunk {kind.decode('ascii', 'replace')} has a bad checksum, or is cut off")
            if kind not in parts or (kind in _PNG_ONCE and parts[kind]):
                raise CorruptImage(f"chunk {kind!r} decides pixels in an unknown way, or once more")
            if kind == b"PLTE" and parts[b"IHDR"][0][9] & 2:
                parts[b"tRNS"].clear()  # as viewers do: it would have to come behind the palette
            parts[kind].append(body)
        elif sound and kind == b"eXIf":
            metadata.exif(body)
        elif sound and kind in (b"tEXt", b"zTXt", b"iTXt"):
            metadata.png_text(kind, body)
    return parts, metadata.orientation()


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Kind, body and whether it is sound, up to the end of the image."""
    at = 8
    for _ in _parts():
        if at + 8 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, at)
        if not kind.isalpha():
            raise CorruptImage(f"{kind!r} is no kind of chunk")
        body = data[at + 8 : at + 8 + length]
        at += 12 + length
        yield kind, body, at <= len(data) and data[at - 4 : at] == struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))
        if kind == b"IEND":
            return


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


_JFIF = b"JFIF\0\1\1\0\0\1\0\1\0\0"
_MARKER = re.compile(rb"\xff[^\xff]", re.DOTALL)
_ENTROPY_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xCA)

_SOS, _EOI = 0xDA, 0xD9


def bare_jpeg(data: bytes, limits: ImageLimits) -> Bare:
    """Tables, frame and scans, and the two application segments that say which colours they hold.

    The end marker may be missing where every scan is there to its last bit.
    """
    kept = [b"\xff\xd8"]
    metadata = Metadata()
    frame = b""
    scans = _Scans()
    closed = False
    for marker, body, entropy in _jpeg_segments(data):
        if marker == _EOI:
            closed = True
        elif marker == 0xE0 and len(body) >= 14 and body.startswith(b"JFIF\0"):
            kept.append(_segment(marker, _JFIF))
        elif marker == 0xEE and len(body) >= 12 and body.startswith(b"Adobe"):
            kept.append(_segment(marker, body[:12]))
        elif marker == 0xE1:
            metadata.app1(body)
        elif not 0xE0 <= marker <= 0xEF and marker != 0xFE:
            if marker in _FRAMES and not frame:
                frame = bytes([marker]) + body
            elif marker == _SOS:
                scans.add(body)
            kept += [_segment(marker, body), entropy]
    if len(frame) < 7 or len(frame) < 7 + 3 * frame[6]:
        raise CorruptImage("it has no frame")
    ids = frame[7 : 7 + 3 * frame[6] : 3]
    if not scans.complete(ids):
        raise CorruptImage("scans are missing" if closed else "it is cut off")
    height, width = struct.unpack_from(">HH", frame, 2)
    shares = [(one >> 4) * (one & 15) for one in frame[8 : 8 + 3 * frame[6] : 3]]
    share = min(width * height, limits.max_pixels + 1) / max(*shares, 1)  # with more it is refused for them
    gone_through = sum(one * share * scans.of(component) for one, component in zip(shares, ids, strict=True))
    if gone_through > MAX_GONE_THROUGH * limits.max_pixels:
        raise TooManyParts(f"{scans.count} scans of {width} x {height} pixels")
    data = b"".join([*kept, b"\xff\xd9"])
    coefficients = int(2 * share * sum(shares)) if scans.count > 1 or frame[0] in _PROGRESSIVE else 0
    return Bare(data, width, height, metadata.orientation(), memory=coefficients, closed=closed)


class _Scans:
    """Which bits of which coefficients have been there, by component."""

    def __init__(self) -> None:
        self.count = 0
        self._of: Counter[int] = Counter()
        self._missing: dict[int, list[int]] = {}

    def add(self, header: bytes) -> None:
        self.count += 1
        if self.count > MAX_SCANS:
            raise TooManyParts(f"more than {MAX_SCANS} scans")
        components = header[0] if header else 0
        if len(header) < 4 + 2 * components:
            raise CorruptImage("a scan has a malformed header")
        first, last, bits = header[1 + 2 * components : 4 + 2 * components]
        for component in header[1 : 1 + 2 * components : 2]:
            self._of[component] += 1
            missing = self._missing.setdefault(component, [99] * 64)
            missing[first : min(last, 63) + 1] = [bits & 15] * (min(last, 63) + 1 - first)

    def of(self, component: int) -> int:
        """How many there are of it."""
        return self._of[component]

    def complete(self, components: bytes) -> bool:
        """To the last bit."""
        return all(not any(self._missing.get(one, [99])) for one in components)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Marker, body and entropy-coded data behind it, up to the end of the image or of the data."""
    at = 2
    for _ in _parts():
        found = _MARKER.search(data, at)
        if found is None:
            return
        at = found.end() - 2
        marker = data[at + 1]
        at += 2
        if marker == _EOI:
            yield marker, b"", b""
            return
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if 0xE0 <= marker <= 0xEF or marker == 0xFE:
            length = max(length, 2)  # an empty one
        body = data[at + 2 : at + length]
        if length < 2 or len(body) < length - 2:
            raise CorruptImage(f"segment {marker:#04x} is cut off")
        at += length
        entropy = b""
        if marker == _SOS:
            end = _ENTROPY_END.search(data, at)
            stop = end.start() if end else len(data)
            entropy, at = data[at:stop], stop
        yield marker, body, entropy


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


_GIF_TEXT = 0x01
_GIF_XMP_END = b"\1" + bytes(range(255, -1, -1)) + b"\0"


def bare_gif(data: bytes, limits: ImageLimits) -> Bare:
    """Screen, palettes, and the first picture with its control block."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _colours(flags)
    screen, control, metadata = data[:at], b"", Metadata()
    for _ in _parts():
        block = data[at : at + 1]
        if not block or block == b";":
            raise CorruptImage("it holds no picture")
        if block == b"!":
            end = _sub_blocks_end(data, at + 2)
            if data[at + 1] == 0xF9 and data[at + 2] == 4:
                control = data[at : at + 7] + b"\0"
            elif data[at + 1] == _GIF_TEXT:
                control = b""  # it was the text's
            elif data[at + 2 : at + 14] == b"\x0bXMP DataXMP":
                metadata.xmp(data[at + 14 : end].removesuffix(_GIF_XMP_END))
            at = end
        elif block == b",":
            left, top, wide, high, local = struct.unpack_from("<HHHHB", data, at + 1)
            start, at = at, at + 10 + _colours(local)
            picture = data[start : _sub_blocks_end(data, at + 1)]
            colours = (_colours(local) or _colours(flags)) // 3
            bare = b"".join((screen, control, picture, b";"))
            size = max(width, left + wide), max(height, top + high)
            frame = (left, top, left + wide, top + high)
            return Bare(
                bare, *size, metadata.orientation(), colours=colours, frame=None if (wide, high) == size else frame
            )
        else:
            at += 1
    raise AssertionError("parts do not end")


def _colours(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _sub_blocks_end(data: bytes, at: int) -> int:
    while True:
        if at >= len(data):
            raise CorruptImage("it is cut off")
        size = data[at]
        at += 1 + size
        if not size:
            return at


_WEBP_METADATA = 0x2C
"""Bits of the header that say ICC, EXIF and XMP."""
_WEBP_ALPHA = 0x10


def bare_webp(data: bytes, limits: ImageLimits) -> Bare:
    """Header, alpha and pixels; of an animation its first picture."""
    kept: list[tuple[bytes, bytes]] = []
    metadata = Metadata()
    pixels = False
    for kind, body, whole in _webp_chunks(data):
        if kind == b"EXIF":
            metadata.exif(body)
        elif kind == b"XMP ":
            metadata.xmp(body)
        elif kind in (b"VP8X", b"ANIM", b"ALPH", b"VP8 ", b"VP8L", b"ANMF") and not pixels:
            if not whole:
                raise CorruptImage("it is cut off")
            if kind == b"VP8X" and len(body) >= 10:
                body = bytes([body[0] & ~_WEBP_METADATA]) + body[1:10]
            kept.append((kind, body))
            pixels = kind in (b"VP8 ", b"VP8L", b"ANMF")
    if not pixels:
        raise CorruptImage("it holds no picture")
    width, height = _webp_size(*kept[0])
    if kept[0][0] == b"VP8X" and b"ALPH" in (*(kind for kind, _ in kept), kept[-1][1][16:20]):
        kept[0] = b"VP8X", bytes([kept[0][1][0] | _WEBP_ALPHA]) + kept[0][1][1:]  # it counts where it is
    chunks = b"".join(kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2) for kind, body in kept)
    bare = b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks
    frame = _webp_frame(*kept[-1])
    frame = None if frame == (0, 0, width, height) else frame
    closed = len(data) >= int.from_bytes(data[4:8], "little") // 2 * 2 + 8
    return Bare(bare, width, height, metadata.orientation(), memory=12 * width * height, frame=frame, closed=closed)


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Kind, body, and whether that is all of it."""
    at = 12
    for _ in _parts():
        if at + 8 > len(data):
            return
        kind, size = struct.unpack_from("<4sI", data, at)
        body = data[at + 8 : at + 8 + size]
        yield kind, body, len(body) == size
        at += 8 + size + size % 2


def _webp_frame(kind: bytes, body: bytes) -> tuple[int, int, int, int] | None:
    if kind != b"ANMF":
        return None
    left, top, wide, high = (int.from_bytes(body[at : at + 3], "little") for at in (0, 3, 6, 9))
    return 2 * left, 2 * top, 2 * left + wide + 1, 2 * top + high + 1


def _webp_size(kind: bytes, body: bytes) -> tuple[int, int]:
    if kind == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", body, 6)
    return width & 0x3FFF, height & 0x3FFF


Strip = Callable[[bytes, ImageLimits], Bare]
"""A format's own way. Raises `ImageError`, struct.error or IndexError for what is damaged."""
