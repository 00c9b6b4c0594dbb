import contextlib
import io
import struct
import threading
import time
import warnings
import zlib

import numpy as np
import pytest
import torch
from adapter_pictures import encode, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from grpo_tta.adapters import images
from grpo_tta.adapters.images import (
    CanvasSpec,
    CorruptImage,
    EmptyImage,
    ImageError,
    ImageLimits,
    TooManyBytes,
    TooManyPixels,
    UnknownFormat,
    UnsupportedPixels,
    decode,
)

SPEC = CanvasSpec(64, 64)
SAME = CanvasSpec(30, 40, resize_mode="squash")


def open_clip_canvas(data, spec):
    config = PreprocessCfg(
        size=(spec.height, spec.width),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        interpolation=spec.interpolation,
        resize_mode=spec.resize_mode,
        fill_color=spec.fill,
    )
    with Image.open(io.BytesIO(data)) as image:
        return (image_transform_v2(config, False)(image) * 255).round().to(torch.int16).numpy()


def apart(one, other):
    return np.abs(one.astype(np.int16) - other)


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("canvas", [(64, 64), (48, 80)])
@pytest.mark.parametrize("size", [(64, 64), (300, 200), (201, 333), (50, 37), (64, 500), (40, 48)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_canvas_is_open_clips(resize_mode, canvas, size, interpolation):
    spec = CanvasSpec(*canvas, interpolation, resize_mode, fill=9)
    for mode in ("RGB", "L"):
        data = encode(picture(size).convert(mode), "PNG")
        found = decode(data, spec)
        assert found.shape == (3, *canvas)
        assert found.dtype == np.uint8
        assert found.flags.c_contiguous
        assert apart(found, open_clip_canvas(data, spec)).max() <= 1


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    canvas=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    resize_mode=st.sampled_from(["shortest", "squash"]),
)
def test_the_canvas_is_open_clips_at_any_size(size, canvas, resize_mode):
    spec = CanvasSpec(*canvas, resize_mode=resize_mode)
    data = encode(picture(size), "BMP")
    off = apart(decode(data, spec), open_clip_canvas(data, spec))
    assert off.max() <= 2  # each of the two passes rounds to a byte, and the second one sharpens
    assert (off > 1).mean() <= 0.01


@pytest.mark.parametrize("size", [(640, 480), (1280, 720)])
@pytest.mark.parametrize("edge", [64, 224])
def test_a_large_jpeg_is_shrunk_while_decoded_with_a_small_difference(size, edge):
    data = encode(picture(size), "JPEG", quality=92)
    spec = CanvasSpec(edge, edge)
    difference = apart(decode(data, spec), open_clip_canvas(data, spec))
    assert difference.mean() < 1.5
    assert np.percentile(difference, 99) <= 6


def test_a_small_jpeg_is_not_touched_by_that():
    data = encode(picture((100, 90)), "JPEG")
    assert apart(decode(data, SPEC), open_clip_canvas(data, SPEC)).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_rotation_is_applied(orientation, kind):
    upright = picture((40, 30)).resize((300, 200))
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    turned = upright if orientation == 1 else upright.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    data = encode(turned, kind, exif=exif, **options)
    assert apart(decode(data, SPEC), decode(encode(upright, "PNG"), SPEC)).mean() < (3 if kind == "JPEG" else 0.5)


def test_a_large_rotated_jpeg_is_not_shrunk_too_far():
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = picture((1600, 400))
    data = encode(wide, "JPEG", exif=exif, quality=95)
    spec = CanvasSpec(200, 100, resize_mode="squash")
    expected = decode(encode(wide.transpose(Image.Transpose.ROTATE_270), "PNG"), spec)
    assert apart(decode(data, spec), expected).mean() < 3


def test_a_broken_exif_block_does_not_lose_the_picture():
    data = encode(picture((40, 30)), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert decode(data, SPEC).shape == (3, 64, 64)


def test_modes_look_as_a_person_sees_them():
    image = picture((40, 30))
    rgb = np.asarray(image).transpose(2, 0, 1)
    assert np.array_equal(decode(encode(image, "PNG"), SAME), rgb)
    grey = np.asarray(image.convert("L"))
    assert np.array_equal(decode(encode(image.convert("L"), "PNG"), SAME), np.stack([grey] * 3))
    bilevel = decode(encode(image.convert("1"), "PNG"), SAME)
    assert set(np.unique(bilevel)) == {0, 255}
    palette = image.quantize(64)
    expected = np.asarray(palette.convert("RGB")).transpose(2, 0, 1)
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        assert np.array_equal(decode(encode(palette, kind), SAME), expected)


def test_cmyk_both_ways():
    red = Image.new("CMYK", (40, 30), (0, 255, 255, 0))
    for kind in ("JPEG", "TIFF"):
        canvas = decode(encode(red, kind), SAME)
        assert canvas[0].min() > 240
        assert canvas[1:].max() < 15
    inverted = encode(red, "JPEG")
    assert b"Adobe" in inverted


def test_16_bits_are_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 1200).astype(np.uint16).reshape(30, 40)
    expected = np.rint(ramp / 257).astype(np.uint8)
    for kind in ("PNG", "TIFF"):
        canvas = decode(encode(Image.fromarray(ramp), kind), SAME)
        assert np.array_equal(canvas, np.stack([expected] * 3))


def _png(width, height, depth, colour, rows):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_16_bit_colour():
    row = b"\0" + struct.pack(">6H", 65535, 0, 32768, 0, 65535, 257)
    canvas = decode(_png(2, 1, 16, 2, row), CanvasSpec(1, 2, resize_mode="squash"))
    assert canvas[:, 0, 0].tolist() == [255, 0, 128]
    assert canvas[:, 0, 1].tolist() == [0, 255, 1]


def test_pixels_without_a_white_are_refused():
    for values in (np.ones((3, 3), np.float32), np.full((3, 3), 70_000, np.int32), np.full((3, 3), -1, np.int32)):
        with pytest.raises(UnsupportedPixels, match="no defined white"):
            decode(encode(Image.fromarray(values), "TIFF"), SPEC)


def test_transparency_lies_on_white():
    image = Image.new("RGBA", (40, 30), (200, 0, 0, 0))
    image.paste((0, 0, 200, 255), (0, 0, 20, 30))
    half = Image.new("RGBA", (40, 30), (0, 0, 0, 128))
    assert abs(int(decode(encode(half, "PNG"), SAME)[0, 0, 0]) - 127) <= 1
    palette = Image.new("P", (40, 30), 0)
    palette.putpalette([200, 0, 0, 0, 0, 200])
    palette.paste(1, (0, 0, 20, 30))
    grey = Image.new("LA", (40, 30), (7, 0))
    grey.paste((90, 255), (0, 0, 20, 30))
    for data in (
        encode(image, "PNG"),
        encode(image, "WEBP", lossless=True),
        encode(image, "TIFF"),
        encode(palette, "PNG", transparency=0),
        encode(palette, "PNG", transparency=b"\0\xff"),
        encode(palette, "GIF", transparency=0),
    ):
        canvas = decode(data, SAME)
        assert canvas[:, 0, 0].tolist() == [0, 0, 200]
        assert canvas[:, 0, 39].tolist() == [255, 255, 255]
    canvas = decode(encode(grey, "PNG"), SAME)
    assert canvas[:, 0, 0].tolist() == [90, 90, 90]
    assert canvas[:, 0, 39].tolist() == [255, 255, 255]
    keyed = Image.new("RGB", (40, 30), (1, 2, 3))
    assert decode(encode(keyed, "PNG", transparency=(1, 2, 3)), SAME).min() == 255


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_picture_of_several(kind):
    first, second = Image.new("RGB", (40, 30), (250, 0, 0)), Image.new("RGB", (40, 30), (0, 250, 0))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(first, kind, save_all=True, append_images=[second], **options)
    canvas = decode(data, SAME)
    assert canvas[0].min() > 245
    assert canvas[1].max() < 5


@pytest.mark.parametrize("kind", images.FORMATS)
def test_one_pixel(kind):
    canvas = decode(
        encode(Image.new("RGB", (1, 1), (10, 200, 30)), kind, **({"lossless": True} if kind == "WEBP" else {})), SPEC
    )
    assert canvas.shape == (3, 64, 64)
    assert apart(canvas[:, 5, 5], np.array([10, 200, 30])).max() <= 3
    assert canvas.reshape(3, -1).std(axis=1).max() == 0


def test_a_jpeg_of_several_pictures_as_phones_write_it():
    first, second = Image.new("RGB", (400, 300), (250, 0, 0)), Image.new("RGB", (400, 300), (0, 250, 0))
    canvas = decode(encode(first, "MPO", save_all=True, append_images=[second]), SPEC)
    assert canvas[0].min() > 240
    assert canvas[1].max() < 10


def test_extreme_proportions_cost_no_memory():
    data = encode(Image.new("L", (60_000, 1), 100), "PNG")
    for mode in ("shortest", "longest", "squash"):
        assert decode(data, CanvasSpec(224, 224, resize_mode=mode, fill=100)).std() == 0


def test_a_bomb_is_judged_by_its_header():
    rows = zlib.compress(b"\0" * 100)
    bomb = _png(30_000, 30_000, 1, 0, rows)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TooManyPixels, match=r"^30000 x 30000 pixels exceed the limit of 64000000$"):
            decode(bomb, SPEC)
    assert time.perf_counter() - started < 0.5


def test_the_limit_is_ours_not_pillows(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    data = encode(picture((40, 30)), "PNG")
    assert np.array_equal(
        decode(data, SAME, ImageLimits(max_pixels=1200)), np.asarray(picture((40, 30))).transpose(2, 0, 1)
    )
    with pytest.raises(TooManyPixels, match="40 x 30 pixels exceed the limit of 1199"):
        decode(data, SAME, ImageLimits(max_pixels=1199))


@pytest.mark.parametrize("kind", images.FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_what_is_cut_off_is_not_padded(kind, share):
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    data = encode(noise, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ImageError):
            decode(data[: int(len(data) * share)], SPEC)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", EmptyImage, "the file is empty"),
        (b"hello, I am a text file\n", UnknownFormat, "allowed format .* begins with b'hello"),
        (b"%PDF-1.7", UnknownFormat, "PDF"),
        (b"\xff\xd8\xff", CorruptImage, "cannot be decoded"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 500, CorruptImage, "cannot be decoded"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, CorruptImage, "cannot be decoded"),
        (b"GIF89a", CorruptImage, "cannot be decoded"),
        (b"BM" + b"\0" * 60, CorruptImage, "cannot be decoded"),
        (b"II*\0" + b"\xff" * 60, CorruptImage, "cannot be decoded"),
        (b"RIFF\0\0\0\0WEBPVP8 ", CorruptImage, "cannot be decoded"),
    ],
)
def test_what_is_no_image(data, error, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(error, match=message):
            decode(data, SPEC)


def test_bytes_and_formats_are_limited():
    data = encode(picture((40, 30)), "PNG")
    with pytest.raises(TooManyBytes, match=f"{len(data)} bytes exceed the limit of 10"):
        decode(data, SPEC, ImageLimits(max_bytes=10))
    with pytest.raises(UnknownFormat, match=r"allowed format \(JPEG\)"):
        decode(data, SPEC, ImageLimits(formats=("JPEG",)))


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(images.FORMATS), data=st.data())
def test_damage_is_an_image_or_an_image_error(kind, data):
    good = bytearray(encode(picture((24, 20)), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(ImageError):
            assert decode(bytes(good), SPEC, ImageLimits(max_pixels=1_000_000)).shape == (3, 64, 64)


def test_threads_agree():
    data = [encode(picture((200, 150), seed), "JPEG") for seed in range(8)]
    expected = [decode(item, SPEC) for item in data]
    wrong = []

    def work(i):
        wrong.extend(i for _ in range(20) if not np.array_equal(decode(data[i], SPEC), expected[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ImageLimits(max_bytes=0), "max_bytes must be >= 1, got 0"),
        (lambda: ImageLimits(max_pixels=-1), "max_pixels must be >= 1, got -1"),
        (lambda: ImageLimits(formats=("PDF",)), "formats must be some of JPEG.*got PDF"),
        (lambda: ImageLimits(formats=()), "got none"),
        (lambda: CanvasSpec(0, 3), "must be >= 1, got 0 x 3"),
        (lambda: CanvasSpec(3, 3, interpolation="nearest"), "one of bicubic, bilinear, got 'nearest'"),
        (lambda: CanvasSpec(3, 3, resize_mode="crop"), "one of shortest, longest, squash, got 'crop'"),
        (lambda: CanvasSpec(3, 3, fill=300), "within 0..255, got 300"),
    ],
)
def test_bad_settings_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
