"""Which way up an image is, from its metadata: EXIF, else XMP, as 1 to 8 in EXIF's numbers.

What cannot be read says nothing: no metadata decides whether an image is decoded.
"""

import re
import struct
import zlib
from collections.abc import Iterable

from grpo_tta.adapters.images.ifd import read_directory
from grpo_tta.adapters.images.xmp import orientation_of

UPRIGHT = 1
TAG = 0x0112
_XMP_HEAD = b"http://ns.adobe.com/xap/1.0/\0"
_PROFILE = re.compile(rb"\s*\w+\s+\d+\s+([0-9a-fA-F\s]*)")
_MAX_TEXT = 2**20
"""Bytes of XMP that are read, of all blocks together, and of each text that is compressed."""
_MAX_BLOCKS = 16


def orientation(exif: Iterable[bytes] = (), xmp: Iterable[bytes] = ()) -> int:
    """Of the first block that says it. An EXIF block may begin with ``Exif\\0``."""
    for block in exif:
        found = _of_exif(block)
        if found is not None:
            return found
    left = _MAX_TEXT
    for text in xmp:
        found = orientation_of(text[:left])
        left = max(0, left - len(text))
        if found is not None:
            return found
    return UPRIGHT


def _of_exif(block: bytes) -> int | None:
    block = block.removeprefix(b"Exif\0").lstrip(b"\0\xff")
    try:
        return read_directory(block, cut_off=True).number(TAG, within=range(1, 9))
    except (ValueError, struct.error):
        return None


class Metadata:
    """Blocks of EXIF and XMP as they turn up in a file, the first few of them."""

    def __init__(self) -> None:
        self._exif: list[bytes] = []
        self._xmp: list[bytes] = []
        self._left = _MAX_BLOCKS

    def orientation(self) -> int:
        """What they say."""
        return orientation(self._exif, self._xmp)

    def exif(self, block: bytes) -> None:
        """A block of EXIF."""
        if len(self._exif) < _MAX_BLOCKS:
            self._exif.append(block)

    def xmp(self, text: bytes) -> None:
        """A block of XMP."""
        if len(self._xmp) < _MAX_BLOCKS:
            self._xmp.append(text)

    def app1(self, body: bytes) -> None:
        """A JPEG segment."""
        if body.startswith(b"Exif\0"):
            self.exif(body)
        elif body.startswith(_XMP_HEAD):
            self.xmp(body[len(_XMP_HEAD) :])

    def png_text(self, kind: bytes, body: bytes) -> None:
        """A ``tEXt``, ``zTXt`` or ``iTXt`` chunk: XMP, and ImageMagick's profiles in hexadecimal."""
        name, _, rest = body.partition(b"\0")
        wanted = name in (b"Raw profile type exif", b"Raw profile type APP1", b"Raw profile type xmp")
        if (not wanted and name != b"XML:com.adobe.xmp") or not self._left:
            return
        self._left -= 1
        try:
            text = _text(kind, rest)
            if not wanted:
                self.xmp(text)
                return
            match = _PROFILE.match(text)
            data = bytes.fromhex(match[1].decode()) if match else b""
        except (zlib.error, ValueError, IndexError):
            return
        if name.endswith(b"xmp"):
            self.xmp(data)
        elif data.startswith(_XMP_HEAD):
            self.app1(data)
        else:
            self.exif(data)


def _text(kind: bytes, rest: bytes) -> bytes:
    compressed = kind == b"zTXt"
    if kind == b"iTXt":
        compressed, rest = rest[0] == 1, rest[2:].split(b"\0", 2)[2]
    elif compressed:
        rest = rest[1:]
    return zlib.decompressobj().decompress(rest, _MAX_TEXT) if compressed else rest[:_MAX_TEXT]
