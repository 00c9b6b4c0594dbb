"""The most memory that a job takes over a folder of bombs, against one over ordinary photographs of 12 megapixels.

``python -m benchmarks.bombs`` runs ``grpo-tta label`` over both as processes of their own and ends with 1 unless every
file has an outcome and the bombs' job stays under 1.5 times the other's peak. A bomb is the largest that is decoded, or
something that is refused.
"""

import argparse
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.faults import note

MOST_SHARE = 1.5
_LARGE = (8000, 7990)
_WEBP = (4700, 4600)


class Run(NamedTuple):
    """Of one job."""

    peak_bytes: int
    seconds: float
    labels: int
    dead_letters: int


def photographs() -> Iterator[tuple[str, bytes]]:
    """One of each format, 4000 x 3000."""
    coarse = np.random.default_rng(1).integers(0, 256, (75, 100, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((4000, 3000), Image.Resampling.BICUBIC)
    yield "a.jpg", _encoded(image, "JPEG", quality=90)
    yield "progressive.jpg", _encoded(image, "JPEG", quality=90, progressive=True)
    yield "a.png", _encoded(image, "PNG", compress_level=1)
    yield "alpha.png", _encoded(image.convert("RGBA"), "PNG", compress_level=1)
    yield "a.webp", _encoded(image, "WEBP", method=0)
    yield "a.tif", _encoded(image, "TIFF", compression="jpeg")


def bombs() -> Iterator[tuple[str, bytes]]:
    """Small files, the pixels of which are many."""
    for mode, colour in (("RGB", (9, 99, 199)), ("RGBA", (9, 99, 199, 99)), ("LA", (99, 99)), ("L", 99)):
        yield f"{mode}.png", _encoded(Image.new(mode, _LARGE, colour), "PNG", compress_level=1)
    yield "P.png", _encoded(Image.new("P", _LARGE, 1), "PNG", compress_level=1, transparency=b"\x40\x80")
    yield "16.png", _png(16, 0, _LARGE)
    yield "keyed.png", _png(16, 2, (6000, 5900), b"\0" * 6)
    yield "CMYK.tif", _encoded(Image.new("CMYK", _LARGE), "TIFF", compression="tiff_adobe_deflate")
    yield "RGBA.tif", _encoded(Image.new("RGBA", _LARGE), "TIFF", compression="tiff_lzw")
    yield "1.png", _encoded(Image.new("1", _LARGE), "PNG")
    yield "P.gif", _encoded(Image.new("P", _LARGE, 1), "GIF")
    yield "RGB.webp", _encoded(Image.new("RGB", _WEBP), "WEBP", lossless=True, method=0)
    yield "RGB.jpg", _encoded(Image.new("RGB", (7000, 6900)), "JPEG", progressive=True, subsampling=0)
    yield "text.png", _png(8, 0, (64, 64), text=bytes(2**28))
    yield "refused.png", _png(1, 0, (60_000, 60_000))
    yield "refused.webp", _encoded(Image.new("RGB", (16_000, 3900)), "WEBP", lossless=True, method=0)
    yield "thin.png", _png(8, 0, (1, 6_000_000))
    yield "flat.png", _png(8, 0, (6_000_000, 1))
    yield "refused thin.png", _png(8, 0, (1, 20_000_000))
    yield "tile.tif", _tiles(32_768, 65_520, 1)
    yield "tiles.tif", _tiles(65_520, 912, 58_114)
    yield "small tiles.tif", _tiles(16, 16, 99_000)
    yield "scans.jpg", _scans(3000)


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _png(depth: int, colour: int, size: tuple[int, int], key: bytes = b"", text: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = bytes(1 + (size[0] * depth * (3 if colour == 2 else 1) + 7) // 8)
    packer = zlib.compressobj(1)
    pixels = b"".join(packer.compress(row * 100) for _ in range(-(-size[1] // 100))) + packer.flush()
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)), chunk(b"IDAT", pixels)]
    parts[1:1] = [chunk(b"tRNS", key)] if key else []
    parts[1:1] = [chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text, 1))] if text else []
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def _tiles(width: int, height: int, count: int) -> bytes:
    """One pixel wide, all tiles at one place."""
    pixel = zlib.compress(bytes(min(width * height, 2**26)), 9)
    places, sizes = (struct.pack(f"<{count}I", *[number] * count) for number in (8, len(pixel)))
    body = pixel + b"\0" * (len(pixel) % 2) + (places + sizes if count > 1 else b"")
    at = 8 + len(body) - len(places + sizes)
    pointers = {324: at, 325: at + len(places)} if count > 1 else {324: 8, 325: len(pixel)}
    tags = {256: 1, 257: height * count, 258: 8, 259: 8, 262: 1, 277: 1, 322: width, 323: height, **pointers}
    entries = b"".join(
        struct.pack("<HHII", tag, 4, count if tag in pointers else 1, value) for tag, value in tags.items()
    )
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags)) + entries + bytes(4)


def _scans(count: int) -> bytes:
    data = _encoded(Image.new("RGB", (512, 512)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + b"\xff\xd9"


def run_job(source: Path, out: Path) -> Run:
    """Label a folder in a process of its own; raises RuntimeError where that fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-m", "grpo_tta.pipeline.cli", "label", "--source", str(source), "--out", str(out)]
    began = time.monotonic()
    with open(out.with_suffix(".log"), "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"the job ended with {process.returncode}: {out.with_suffix('.log').read_text()[-2000:]}")
    summary = json.loads((out / "summary.json").read_text())
    return Run(usage.ru_maxrss * 1024, time.monotonic() - began, summary["labels"], summary["dead_letters"])


def compare(copies: int, folder: Path) -> tuple[Run, Run, int, int]:
    """Of the photographs and of the bombs: what their jobs took, and how many files there were."""
    counts, runs = [], []
    for name, files in (("photographs", photographs()), ("bombs", bombs())):
        source = folder / name / "cam"
        source.mkdir(parents=True)
        count = 0
        for file, data in files:
            for copy in range(copies):
                (source / f"{copy}-{file}").write_bytes(data)
                count += 1
        counts.append(count)
        runs.append(run_job(source.parent, folder / f"{name}-out"))
    return runs[0], runs[1], counts[0], counts[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=4, help="of each file, for readers to meet them side by side")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        good, bad, photos, bombs_ = compare(options.copies, Path(folder))
    for name, run, count in (("photographs", good, photos), ("bombs", bad, bombs_)):
        print(
            f"{name:12} {count:4} files {run.labels:4} labels {run.dead_letters:4} dead letters "
            f"{run.peak_bytes / 2**20:6.0f} MiB {run.seconds:6.1f} s"
        )
    share = bad.peak_bytes / good.peak_bytes
    print(f"the bombs' job took {share:.2f} of the photographs' peak")
    lost = photos + bombs_ - sum(run.labels + run.dead_letters for run in (good, bad))
    note("photographs and bombs labelled", photos + bombs_, bombs_, lost)
    return 0 if not lost and share < MOST_SHARE else 1


if __name__ == "__main__":
    sys.exit(main())
