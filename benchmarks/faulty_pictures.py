"""Damages pictures of all formats by seed, decodes them as a job does, and prints what became of them.

``python -m benchmarks.faulty_pictures --count 20000`` ends with 1 if one of them raised anything but an `ImageError`,
took longer than a bound, came out other than it is although its format has checksums, or lost its pixels although only
its metadata were damaged.
"""

import argparse
import io
import random
import struct
import sys
import time
import warnings
import zlib
from collections import Counter
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from PIL import Image, PngImagePlugin

from benchmarks.faults import note
from grpo_tta.adapters.images import Canvas, CanvasSpec, ImageError, ImageLimits, decode

SPEC = CanvasSpec(32, 32)
LIMITS = ImageLimits(max_bytes=2**20, max_pixels=1_000_000, max_seconds=5.0)
MOST_SECONDS = 10.0
_NOTE = b"a note " * 12
_ODD = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1", b"\1\0\0\0", b"\0\xff", b"\xff\0", b"\xff")


@dataclass
class Outcomes:
    """Of a campaign."""

    counts: Counter[str] = field(default_factory=Counter)
    """By format and what became of the picture."""
    wrong: list[str] = field(default_factory=list)
    """What must not have been, with the seed of it."""
    slowest: float = 0.0


@cache
def pictures() -> dict[str, tuple[bytes, bytes]]:
    """Encoded pictures by name, with metadata, and a part of each that is nothing but metadata."""
    rough = np.random.default_rng(5).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    image = Image.fromarray(rough).resize((56, 48), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x010E] = _NOTE.decode()
    found: dict[str, tuple[bytes, bytes]] = {}

    def add(name: str, picture: Image.Image, kind: str, **options: object) -> None:
        out = io.BytesIO()
        picture.save(out, kind, **options)
        data = out.getvalue()
        found[name] = (data, _NOTE if _NOTE in data else b"")

    for name, one in (("rgb", image), ("grey", image.convert("L")), ("cmyk", image.convert("CMYK"))):
        for progressive in (False, True):
            add(f"JPEG {name}{' progressive' * progressive}", one, "JPEG", exif=exif, progressive=progressive)
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", _NOTE.decode())
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    keyed = {"transparency": (10, 20, 30)}
    for name, one, options in (
        ("rgb", image, {}), ("alpha", image.convert("RGBA"), {}), ("grey", image.convert("L"), {}), ("16", deep, {}),
        ("palette", image.quantize(16), {}), ("1", image.convert("1"), {}), ("keyed", image, keyed),
    ):  # fmt: skip
        add(f"PNG {name}", one, "PNG", pnginfo=text, **options)
    add("GIF", image, "GIF", comment=_NOTE)
    add("GIF animated", image, "GIF", save_all=True, append_images=[image.rotate(90)], comment=_NOTE)
    for name, one in (("rgb", image), ("palette", image.quantize(16)), ("1", image.convert("1"))):
        add(f"BMP {name}", one, "BMP")
    for name, more in (("lossy", {}), ("lossless", {"lossless": True})):
        add(f"WEBP {name}", image, "WEBP", exif=exif, **more)
    add("WEBP animated", image, "WEBP", save_all=True, append_images=[image.rotate(90)], exif=exif)
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        add(f"TIFF {compression}", image, "TIFF", compression=compression, description=_NOTE.decode())
    add("TIFF group4", image.convert("1"), "TIFF", compression="group4", description=_NOTE.decode())
    add("TIFF ycbcr", image.convert("YCbCr"), "TIFF", description=_NOTE.decode())
    add("TIFF ycbcr packed", image.convert("YCbCr"), "TIFF", compression="tiff_lzw", description=_NOTE.decode())
    add("TIFF 16", deep, "TIFF", description=_NOTE.decode())
    return found


def damaged(data: bytes, draw: random.Random) -> bytes:
    """A few changes: other bytes, odd numbers, parts cut out, doubled, moved or wiped, an end missing."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 8))):
        at = draw.randrange(len(out)) if draw.random() < 0.6 else draw.randrange(min(len(out), 120))
        length = draw.choice((1, 2, 4, 16, 64, 300))
        match draw.randrange(7):
            case 0 | 1:
                out[at] ^= 1 << draw.randrange(8)
            case 2:
                odd = draw.choice(_ODD)
                out[at : at + len(odd)] = odd
            case 3:
                del out[at : at + length]
            case 4:
                out[at:at] = out[at : at + length]
            case 5:
                out[at : at + length] = bytes(len(out[at : at + length]))
            case 6:
                del out[max(at, 16) :]
        if not out:
            return data[:1]
    return bytes(out)


def damaged_note(data: bytes, note: bytes, draw: random.Random) -> bytes:
    """The picture with other metadata of the same length; a PNG's checksum may be that of the old ones."""
    start = data.index(note)
    new = bytes(draw.choice((0, 255, 59, draw.randrange(256))) for _ in note)
    out = bytearray(data)
    out[start : start + len(note)] = new
    if data.startswith(b"\x89PNG") and draw.random() < 0.5:
        head = data.rindex(b"tEXt", 0, start)
        length = struct.unpack_from(">I", data, head - 4)[0]
        out[head + 4 + length : head + 8 + length] = struct.pack(">I", zlib.crc32(out[head : head + 4 + length]))
    return bytes(out)


def campaign(seed: int, count: int) -> Outcomes:
    """Decode so many damaged pictures."""
    outcomes = Outcomes()
    sources = pictures()
    right = {name: decode(data, SPEC, LIMITS) for name, (data, _) in sources.items()}
    names = sorted(sources)
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        name = names[number % len(names)]
        data, note = sources[name]
        only_note = bool(note) and draw.random() < 0.25 and not name.startswith("GIF")  # its notes come in blocks
        bad = damaged_note(data, note, draw) if only_note else damaged(data, draw)
        began = time.thread_time()
        said, canvas = _decoded(bad)
        seconds = time.thread_time() - began
        outcomes.slowest = max(outcomes.slowest, seconds)
        same = canvas is not None and np.array_equal(canvas, right[name])
        kind = name.partition(" ")[0]
        outcomes.counts[f"{kind} {said if canvas is None else 'the same' if same else 'another picture'}"] += 1
        checked = only_note or kind == "PNG"  # its checksums cover all that decides pixels
        if said.startswith("!") or seconds > MOST_SECONDS or (only_note and not same) or (
            checked and canvas is not None and not same
        ):  # fmt: skip
            outcomes.wrong.append(f"{name}, seed {seed}, number {number}: {said}, {seconds:.1f} s")
    return outcomes


def _decoded(data: bytes) -> tuple[str, Canvas | None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return "decoded", decode(data, SPEC, LIMITS)
    except ImageError as error:
        return type(error).__name__, None
    except Exception as error:
        return f"!{type(error).__name__}: {error}", None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=20_000)
    options = parser.parse_args()
    outcomes = campaign(options.seed, options.count)
    for what, count in sorted(outcomes.counts.items()):
        print(f"{what:40} {count:6}")
    note("damaged pictures decoded", options.count, options.count, len(outcomes.wrong))
    print(f"{options.count} damaged pictures, the slowest {outcomes.slowest:.2f} s, {len(outcomes.wrong)} wrong")
    for one in outcomes.wrong[:20]:
        print(one)
    return 1 if outcomes.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
