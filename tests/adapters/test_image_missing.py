"""Pictures with fewer pixels than they say: their own pixels, white where they are transparent, or an error."""

import itertools
import random
import struct

import numpy as np
import picture_files as files
import pytest
from adapter_pictures import SAME, SIZE, encode, picture, problems, wrong
from PIL import Image

from grpo_tta.adapters.images import CanvasSpec, CorruptImage, decode
from grpo_tta.adapters.images.ifd import read_directory

PNG_COLOURS = {0: 1, 2: 3, 4: 2, 6: 4}


def test_a_png_with_fewer_rows_than_it_says_is_refused():
    for (colour, depth), adam7, shape in itertools.product(
        [(0, 1), (0, 2), (0, 8), (0, 16), (2, 8), (2, 16), (3, 4), (4, 8), (6, 8), (6, 16)], (False, True),
        (SIZE, (1, 9), (9, 1), (5, 5), (2, 3)),
    ):  # fmt: skip
        values = np.random.default_rng(depth).integers(0, 2**depth, (*shape, PNG_COLOURS.get(colour, 1)))
        values[-1] = 2**depth - 1
        before = files.chunk(b"PLTE", bytes(range(48))) if colour == 3 else b""
        spec = CanvasSpec(*shape, resize_mode="squash")
        for lacks in (0, -7, -5000):  # what is too much is not looked at
            for whole in (values, values * 0):
                decode(files.png(whole, depth, colour, before, adam7=adam7, lacks=lacks), spec)
        row = len(files.packed(values[:1].reshape(1, -1), depth)) + 1
        for lacks in {1, row, 2 * row, 7}:
            with pytest.raises(CorruptImage):
                decode(files.png(values, depth, colour, before, adam7=adam7, lacks=lacks), spec)


def parts_of(image, cut, **options):
    """A TIFF of two strips that are JPEGs, with bytes at the end of the second wiped or not counted."""
    out = encode(image, "TIFF", compression="jpeg", strip_size=16 * 48 * 3, **options)
    found = read_directory(out)
    (*_, last), (*_, count) = found.numbers(273), found.numbers(279)
    data = bytearray(out)
    if cut == "wiped":
        data[last + count // 2 : last + count] = bytes(count - count // 2)
    elif cut == "closed":
        data[last + count // 2 : last + count // 2 + 2] = b"\xff\xd9"
    elif cut == "shorter":  # than its strip
        frame = data.index(b"\xff\xc0", last)
        data[frame + 5 : frame + 7] = struct.pack(">H", 8)
    return bytes(data)


@pytest.mark.parametrize("low_first", [False, True])
def test_fax_data_that_is_cut_off_is_refused(low_first):
    for seed in range(12):
        values = np.random.default_rng(seed).integers(0, 2, (23, 17 + seed), dtype=np.uint8) * 255
        image, spec = Image.fromarray(values).convert("1"), CanvasSpec(*values.shape, resize_mode="squash")
        out = encode(image, "TIFF", compression="group4")
        found = read_directory(out)
        body = out[found.number(273) : found.number(273) + found.number(279)]
        short = lambda number: (3, 1, struct.pack("<H", number))  # noqa: E731
        for share in (1, 0.9, 0.6, 0.2):
            part = body[: int(len(body) * share)]
            if low_first:
                part = bytes(int(f"{one:08b}"[::-1], 2) for one in part)
            numbers = {256: 17 + seed, 257: 23, 258: 1, 259: 4, 262: found.number(262), 273: 8, 277: 1, 278: 23}
            numbers |= {266: 2 if low_first else 1, 279: len(part)}
            data = files._tiff_file("<", part + b"\0" * (len(part) % 2), {tag: short(n) for tag, n in numbers.items()})
            if share == 1:
                assert wrong(data, values, 0, spec) is None
            else:
                with pytest.raises(CorruptImage):
                    decode(data, spec)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "YCbCr"])
def test_a_tiff_of_jpegs_that_are_cut_off_is_refused(mode):
    image = picture((48, 48)).convert(mode)
    spec = CanvasSpec(48, 48)
    assert wrong(parts_of(image, None, quality=95), np.asarray(image.convert("RGB")), 12, spec) is None
    for cut in ("wiped", "closed", "shorter"):
        with pytest.raises(CorruptImage):
            decode(parts_of(image, cut), spec)


def test_a_gif_webp_or_bmp_with_fewer_pixels_than_it_says_is_refused():
    values = files.samples(8)
    good = files.bmp(values, 8, bytes(range(256)) * 4)
    for cut in (1, 24, 200):
        with pytest.raises(CorruptImage):
            decode(good[:-cut], SAME)
    indices = np.random.default_rng(2).integers(0, 4, (8, 10))
    for rows in (0, 1, 7):
        gif = files.gif(indices[:rows], bytes(12), (10, 8))
        with pytest.raises(CorruptImage):
            decode(gif[:32] + b"\x08\0" + gif[34:], SAME)
    for lossless in (True, False):
        webp = encode(picture(SIZE[::-1]), "WEBP", lossless=lossless)
        body = webp[20 : 20 + struct.unpack("<I", webp[16:20])[0]]
        for share in (0.2, 0.5, 0.95):
            with pytest.raises(CorruptImage):
                decode(files.riff((webp[12:16], body[: int(len(body) * share)])), SAME)


def test_a_bmp_whose_alpha_nobody_filled_in_has_its_colours():
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    values = files.samples(8, (*SIZE, 4))
    cases = []
    for top_down in (True, False):
        for alpha in (0, 255, 128):
            values[..., 3] = alpha
            colours = values[..., 2::-1]
            expected = colours if alpha in (0, 255) else np.rint((colours * 128 + 255 * 127) / 255)
            cases.append(((top_down, alpha), files.bmp(values, 32, top_down=top_down, masks=masks), expected, 1))
        values[..., 3] = 0
        values[3, 4, 3] = 255  # one pixel is there: the others are not
        expected = np.full((*SIZE, 3), 255)
        expected[3, 4] = values[3, 4, 2::-1]
        cases.append(((top_down, "one"), files.bmp(values, 32, top_down=top_down, masks=masks), expected))
    assert problems(cases) == {}


def test_a_bmp_in_runs_has_all_of_its_pixels_or_none():
    cases, bad = [], []
    for depth, seed in itertools.product((4, 8), range(10)):
        draw = random.Random(seed)
        indices = files.samples(depth, (7, 5 + seed), seed)
        indices[2] = 3
        grey = np.linspace(0, 255, 2**depth).astype(np.uint8)
        palette = np.stack([grey, grey[::-1], grey, grey * 0], 1).tobytes()
        spec = CanvasSpec(*indices.shape, resize_mode="squash")
        body = files.runs(indices, depth, draw)
        expected = np.stack([grey, grey[::-1], grey], 1)[indices]
        cases.append(((depth, seed), files.bmp(indices, depth, palette, runs=body), expected, 0, spec))
        cases.append(((depth, seed, "no end"), files.bmp(indices, depth, palette, runs=body[:-2]), expected, 0, spec))
        bad += [files.bmp(indices, depth, palette, runs=one) for one in (
            files.runs(indices[1:], depth, draw), body[: len(body) // 2], b"\0\2\0\3" + body,
            body[: len(body) // 4 * 2] + b"\0\1",
            b"\0\0" + body, b"\2\0\0\0" + body, b"\0\1", b"", b"\xff\1" + body,
        )]  # fmt: skip
    assert problems(cases) == {}
    for data in bad:
        with pytest.raises(CorruptImage):
            decode(data, SAME)
    good = files.bmp(files.samples(8), 8, bytes(range(256)) * 4)
    for start in (1, 20, 53):
        with pytest.raises(CorruptImage):
            decode(good[:10] + struct.pack("<I", start) + good[14:], SAME)


def test_what_a_first_frame_leaves_uncovered_is_white():
    palette = np.array([[255, 0, 0], [0, 0, 255], [9, 99, 199], [7, 8, 9]])
    indices = np.random.default_rng(2).integers(0, 4, (8, 10))
    cases = []
    for (left, top), key in itertools.product(((0, 0), (3, 5), (14, 12), (20, 0)), (None, 0, 3)):
        expected = np.full((*SIZE, 3), 255)
        shown = palette[indices]
        if key is not None:
            shown[indices == key] = 255
        expected = np.full((max(20, top + 8), max(24, left + 10), 3), 255)
        expected[top : top + 8, left : left + 10] = shown
        spec = CanvasSpec(*expected.shape[:2], resize_mode="squash")
        data = files.gif(indices, palette.astype(np.uint8).tobytes(), (24, 20), (left, top), key)
        cases.append((("GIF", left, top, key), data, expected, 0, spec))
    three = lambda number: struct.pack("<I", number)[:3]  # noqa: E731
    values = files.samples(8, (8, 10, 3))
    pixels = encode(Image.fromarray(values.astype(np.uint8)), "WEBP", lossless=True)[12:]
    for (left, top), alpha in itertools.product(((0, 0), (4, 6), (14, 12)), (0, 0x10)):
        header = bytes([2 | alpha, 0, 0, 0]) + three(23) + three(19)
        frame = three(left // 2) + three(top // 2) + three(9) + three(7) + three(100) + b"\0" + pixels
        expected = np.full((*SIZE, 3), 255)
        expected[top : top + 8, left : left + 10] = values
        data = files.riff((b"VP8X", header), (b"ANIM", b"\1\2\3\xff\0\0"), (b"ANMF", frame))
        cases.append((("WEBP", left, top, alpha), data, expected))
    assert problems(cases) == {}


def test_an_alpha_channel_counts_where_a_header_does_not_say_it():
    alpha = np.random.default_rng(0).integers(0, 256, SIZE)
    image = Image.fromarray(np.dstack([np.full((*SIZE, 3), 100), alpha]).astype(np.uint8))
    data = bytearray(encode(image, "WEBP", quality=100))
    expected = np.rint(100 * alpha / 255 + 255 - alpha)
    assert (data[12:16], data[20] & 0x10, b"ALPH" in data) == (b"VP8X", 0x10, True)
    assert wrong(bytes(data), expected, 3) is None
    data[20] &= ~0x10
    assert wrong(bytes(data), expected, 3) is None
    three = lambda number: struct.pack("<I", number)[:3]  # noqa: E731
    frame = bytes(6) + three(SIZE[1] - 1) + three(SIZE[0] - 1) + three(100) + b"\0" + bytes(data[30:])
    for flags in (0x02, 0x12):
        header = bytes([flags, 0, 0, 0]) + bytes(data[24:30])
        animated = files.riff((b"VP8X", header), (b"ANIM", bytes(6)), (b"ANMF", frame))
        assert wrong(animated, expected, 3) is None
