"""What one image may take, and what all of a process may: pixels, parts, seconds, bytes."""

import itertools
import os
import pickle
import resource
import struct
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import picture_files as files
import pytest
from adapter_pictures import encode, picture
from PIL import Image

from benchmarks.faulty_pictures import campaign
from grpo_tta.adapters import images
from grpo_tta.adapters.images import (
    CanvasSpec,
    CorruptImage,
    ImageLimits,
    TooManyParts,
    TooManyPixels,
    TooSlow,
    decode,
)
from grpo_tta.adapters.images.limits import DECODING, MemoryBudget

SPEC = CanvasSpec(32, 32)


def small_tiff(**changes):
    """One grey pixel with these tags changed; all values are one LONG."""
    tags = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 1}
    tags |= {int(tag[1:]): value for tag, value in changes.items()}
    entries = {tag: (4, 1, struct.pack("<I", value)) for tag, value in tags.items() if value is not None}
    return files._tiff_file("<", b"\1\0", entries)


def tiled(wide, high, **changes):
    return small_tiff(t273=None, t278=None, t279=None, t322=wide, t323=high, t324=8, t325=1, **changes)


def scans(count):
    """A progressive JPEG that repeats its last scan."""
    data = encode(picture((64, 64)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + b"\xff\xd9"


def large_scans(count):
    """As if it had 56 million pixels."""
    data = scans(count)
    at = data.index(b"\xff\xc2") + 5
    return data[:at] + struct.pack(">HH", 7000, 8000) + data[at + 4 :]


def one_tile(wide, high, count, width=1):
    """A column of as many tiles, all at the place of the first, which is deflated."""
    places = {324: struct.pack("<I", 8) * count, 325: struct.pack("<I", 12) * count}
    tags = {256: width, 257: high * count, 258: 8, 259: 8, 262: 1, 277: 1, 322: wide, 323: high}
    entries = {tag: (4, 1, struct.pack("<I", value)) for tag, value in tags.items()}
    entries |= {tag: (4, count, raw) for tag, raw in places.items()}
    return files._tiff_file("<", bytes(16), entries)


def strips_in_one_place(count):
    """Each of them as long as the file."""
    entries = {tag: (4, 1, struct.pack("<I", value)) for tag, value in
               {256: 1, 257: count, 258: 8, 259: 5, 262: 1, 266: 2, 277: 1, 278: 1}.items()}  # fmt: skip
    entries |= {273: (4, count, struct.pack("<I", 8) * count), 279: (4, count, struct.pack("<I", 9000) * count)}
    return files._tiff_file("<", bytes(9000), entries)


def webp(width, height):
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return files.riff((b"VP8X", b"\0\0\0\0" + size), (b"VP8L", b"\x2f" + bytes(20)))


BOMBS = {
    "a tile": (tiled(32_768, 65_520), TooManyPixels, "a tile of 32768 x 65520 pixels exceeds the limit of 64000000"),
    "a deflated tile": (tiled(32_768, 65_520, t259=8), TooManyPixels, "a tile of 32768 x 65520 pixels"),
    "a tile of many samples": (tiled(8_000, 7_999, t277=4, t258=16), TooManyPixels, "take .* bytes to decode"),
    "a tile of nothing": (tiled(0, 9), CorruptImage, "a tile has 0 x 9 pixels"),
    "a TIFF": (small_tiff(t256=2**31, t257=2**31), TooManyPixels, "2147483648 x 2147483648 pixels exceed"),
    "tiles that reach over the picture": (
        one_tile(65_520, 912, 58_114), TooManyPixels, "58114 tiles of 65520 x 912 pixels exceed the limit of 64000000",
    ),
    "few of them": (one_tile(65_520, 912, 2), TooManyPixels, "2 tiles of 65520 x 912 pixels exceed"),
    "tiles of planes": (
        tiled(8_000, 4_096, t257=12_000, t277=3, t284=2), TooManyPixels, "3 tiles of 8000 x 4096 pixels exceed",
    ),
    "strips in one place": (strips_in_one_place(1000), CorruptImage, "9000000 bytes together, the file has"),
    "scans of a large picture": (large_scans(60), TooManyParts, "scans of 8000 x 7000 pixels"),
    "rows": (small_tiff(t257=20_000_000, t278=20_000_000, t259=8), TooManyPixels, "20000000 pixels take 11[0-9]{8}"),
    "columns": (small_tiff(t256=20_000_000, t259=8), TooManyPixels, "20000000 x 1 pixels take 11[0-9]{8} bytes"),
    "strips": (small_tiff(t256=1, t257=2_000_000), TooManyParts, "more than 100000 strips or tiles"),
    "tiles": (tiled(1, 1, t256=2000, t257=2000), TooManyParts, "more than 100000 strips or tiles"),
    "scans": (scans(3000), TooManyParts, "more than 100 scans"),
    "chunks": (files.png(files.samples(8), 8, 0, files.chunk(b"abCd", b"") * 200_000), TooManyParts, "100000 parts"),
    "segments": (b"\xff\xd8" + b"\xff\xe2\0\2" * 200_000, TooManyParts, "100000 parts"),
    "markers": (b"\xff\xd8\xff\xd0" + b"\xff\1" * 2_000_000, TooManyParts, "100000 parts"),
    "nothing in a GIF": (b"GIF89a\1\0\1\0\0\0\0" + bytes(2_000_000), TooManyParts, "100000 parts"),
    "a WebP": (webp(16_000, 4000), TooManyPixels, "16000 x 4000 pixels take .* bytes to decode"),
    "a large WebP": (webp(16_000, 16_000), TooManyPixels, "16000 x 16000 pixels exceed"),
    "a GIF": (b"GIF89a\1\0\1\0\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\1\0\0;", TooManyPixels, "65535 x 65535 pixels"),
    "a BMP": (b"BM" + bytes(12) + struct.pack("<Iii", 40, 2**31 - 1, -(2**31)) + bytes(40), TooManyPixels, "exceed"),
    "a JPEG": (
        files.segment(0xC0, b"\x08" + struct.pack(">HH", 65535, 65535) + b"\1\1\x11\0").join((b"\xff\xd8", b""))
        + files.segment(0xDA, b"\1\1\0\0\x3f\0"), TooManyPixels, "65535 x 65535",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_is_decoded(name, monkeypatch):
    data, error, message = BOMBS[name]
    monkeypatch.setattr(images._Work, "canvas", lambda _: pytest.fail("it is decoded"))
    began = time.thread_time()
    with pytest.raises(error, match=message):
        decode(data, SPEC)
    assert time.thread_time() - began < 1


def test_what_is_within_the_bounds_is_decoded():
    assert decode(encode(picture((64, 64)), "JPEG", progressive=True), SPEC).shape == (3, 32, 32)
    values = files.samples(1, (90_000, 2))
    both = small_tiff(t322=32_768, t323=65_520)  # strips, and sizes of tiles that it has not
    assert (decode(both, SPEC) == 1).all()
    assert decode(files.tiff(values, 1, 1, rows=1), CanvasSpec(8, 8, resize_mode="squash")).shape == (3, 8, 8)


def test_a_picture_that_takes_too_long(monkeypatch):
    data = encode(Image.fromarray(np.random.default_rng(1).integers(0, 256, (900, 900, 3), dtype=np.uint8)), "PNG")
    clock = itertools.count()
    monkeypatch.setattr(time, "thread_time", lambda: next(clock))
    with pytest.raises(TooSlow, match="takes more than 3 seconds to decode"):
        decode(data, SPEC, ImageLimits(max_seconds=3))


def test_conversion_of_a_large_picture_takes_a_byte_for_a_pixel_more(monkeypatch):
    monkeypatch.setattr(images.canvas, "_BAND", 500)  # many bands, and rows that do not fill the last
    whole = {}
    for mode, kind in (("RGBA", "PNG"), ("CMYK", "TIFF"), ("LA", "PNG"), ("P", "PNG"), ("1", "PNG"), ("I;16", "PNG")):
        image = picture((60, 47)).convert("L" if mode == "I;16" else mode)
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if mode == "I;16" else image
        data = encode(image, kind)
        whole[mode] = decode(data, CanvasSpec(47, 60, resize_mode="squash"))
        monkeypatch.setattr(images.canvas, "_BAND", 2**20)
        assert np.array_equal(whole[mode], decode(data, CanvasSpec(47, 60, resize_mode="squash")))
        monkeypatch.setattr(images.canvas, "_BAND", 500)


def test_the_budget_is_never_exceeded_and_nobody_waits_for_ever():
    budget, most, together = MemoryBudget(), 100, []

    def work(size):
        for _ in range(20):
            with budget.take(size, most):
                together.append(budget.used)
                assert budget.used <= most or budget.used == size
                time.sleep(0)

    threads = [threading.Thread(target=work, args=(size,)) for size in (10, 30, 60, 100, 250, 5, 45)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert len(together) == 140
    assert max(size for size in together if size != 250) <= most
    assert budget.used == 0


def test_large_pictures_are_decoded_one_after_another_and_small_ones_together(monkeypatch):
    at_once, most, lock = set(), [], threading.Lock()
    canvas = images._Work.canvas

    def watched(work):
        with lock:
            at_once.add(work)
            most.append(len(at_once))
        time.sleep(0.05)
        try:
            return canvas(work)
        finally:
            with lock:
                at_once.discard(work)

    monkeypatch.setattr(images._Work, "canvas", watched)
    data = encode(picture((200, 150)), "PNG")
    for limits, expected in ((ImageLimits(max_pixels=200 * 150, max_bytes=len(data)), 1), (ImageLimits(), 4)):
        most.clear()
        threads = [threading.Thread(target=decode, args=(data, SPEC, limits)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert max(most) == expected
    assert DECODING.used == 0


@pytest.mark.parametrize("error", [MemoryError(), OSError("decoder error -2")])
def test_want_of_memory_is_not_damage(error, monkeypatch):
    data = encode(picture((40, 30)), "TIFF", compression="tiff_lzw")

    def fails(image):
        raise error

    def nothing_left(size):
        raise MemoryError(size)

    monkeypatch.setattr(images.ImageFile.ImageFile, "load", fails)
    with monkeypatch.context() as little:
        little.setattr(images, "check_memory", nothing_left)
        with pytest.raises(MemoryError):
            decode(data, SPEC)
    if not isinstance(error, MemoryError):
        with pytest.raises(CorruptImage, match="decoder error -2"):
            decode(data, SPEC)
    assert DECODING.used == 0


THIN = """
import os, resource, struct, sys, zlib
import picture_files as files
from grpo_tta.adapters import images
from grpo_tta.adapters.images import CanvasSpec, decode

def png(width, height, samples):
    def chunk(kind, body):
        return files.chunk(kind, body)
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2, 4: 6}[samples], 0, 0, 0)
    row = b"\\0" + b"\\x09" * width * samples
    pixels = zlib.compress(row * height, 1)
    return b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")

def tried(shape, mode):
    data = png(*shape)
    spec = CanvasSpec(64, 64, resize_mode=mode)
    decode(png(64, 64, shape[2]), spec)
    size, memory = [], images._Work.memory
    images._Work.memory = lambda work: size.append(memory(work)) or size[0]
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak is what is used now
    status = lambda key: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))
    before = status("VmHWM")
    decode(data, spec)
    print(size[0], (status("VmHWM") - before) * 1024, mode, *shape, flush=True)

shapes = (1, 4_000_000, 1), (1, 4_000_000, 4), (4_000_000, 1, 4), (5, 2_000_000, 3), (2000, 1900, 4)
for mode, some in ("shortest", shapes), ("longest", shapes[1::3]), ("squash", shapes[1::3]):
    for shape in some:
        if os.fork() == 0:
            tried(shape, mode)
            os._exit(0)
        os.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_picture_of_many_rows_takes_what_it_is_reckoned_to_take():
    """Each in a process of its own."""
    command, path = [sys.executable, "-c", THIN], os.path.dirname(__file__)
    done = subprocess.run(command, capture_output=True, check=True, env={"PYTHONPATH": path}, text=True)
    found = [line.split() for line in done.stdout.splitlines()]
    assert len(found) == 9
    for reckoned, taken, *case in found:
        assert int(taken) < int(reckoned) + 24 * 2**20, case  # bands and the decoder's own


SQUEEZED = """
import os, pickle, resource, sys
from grpo_tta.adapters.images import CanvasSpec, decode
spec = CanvasSpec(32, 32)

def tried(data, spare):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + spare, -1))
    try:
        decode(data, spec)
        return "decoded"
    except MemoryError:
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        return f"MemoryError {decode(data, spec).shape == (3, 32, 32)}"

for name, spare, data in pickle.load(sys.stdin.buffer):
    if os.fork() == 0:
        print(name, spare, tried(data, spare), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_a_decoder_that_finds_no_memory():
    """Each time in a process that has decoded nothing before."""
    image = Image.new("RGB", (4000, 4000), (9, 99, 199))
    options = {
        "TIFF": {"compression": "tiff_adobe_deflate", "strip_size": 2**27},
        "WEBP": {"lossless": True, "method": 0},
        "PNG": {"compress_level": 1},
    }
    little, more = 8 * 2**20, 120 * 2**20
    encoded = {kind: encode(image, kind, **given) for kind, given in options.items()}
    cases = [(kind, spare, data) for kind, data in encoded.items() for spare in (little, more)]
    command = [sys.executable, "-c", SQUEEZED]
    done = subprocess.run(command, input=pickle.dumps(cases), capture_output=True, check=True, env={})
    lines = map(str.split, done.stdout.decode().splitlines())
    found = {(kind, int(spare)): " ".join(said) for kind, spare, *said in lines}
    assert found.keys() == {(kind, spare) for kind, spare, _ in cases}, done.stderr[-500:]
    for (kind, spare), said in found.items():
        assert said in (["MemoryError True"] if spare == little else ["MemoryError True", "decoded"]), (kind, spare)


def test_two_thousand_damaged_pictures():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = campaign(seed=0, count=2000)
    assert outcomes.wrong == []
    assert sum(outcomes.counts.values()) == 2000
    assert outcomes.counts["PNG the same"] > 50
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_thousands_of_large_texts_take_no_time():
    text = files.chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(2**20)))
    began = time.thread_time()
    decode(files.png(files.samples(8), 8, 0, text * 9000), SPEC)
    assert time.thread_time() - began < 2


def test_a_large_compressed_text_takes_no_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    text = files.chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(2**27)))
    decode(files.png(files.samples(8), 8, 0, text), SPEC)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
