"""Pictures of indices: each has the colour that its palette says, and one that it does not say is damage."""

import itertools
import random
import struct

import numpy as np
import picture_files as files
import pytest
from adapter_pictures import SAME, problems, wrong

from grpo_tta.adapters.images import CanvasSpec, CorruptImage, decode

BLACK, WHITE = [0, 0, 0], [255, 255, 255]


def palettes(most):
    """Of up to so many colours, those among them that a decoder may take for plain grey."""
    drawn = np.random.default_rng(most).integers(0, 256, (most, 3))
    yield from ([BLACK, WHITE], [WHITE, BLACK], [BLACK, BLACK], [[7, 7, 7]], drawn, drawn[: -(-most // 2)])
    for count in sorted({min(count, most) for count in (1, 2, 3, 5, 16, 255, 256)}):
        yield [[shade] * 3 for shade in range(count)]
    ramp = [[shade * 255 // (most - 1)] * 3 for shade in range(most)]
    yield from (ramp, ramp[::-1])


def old_bmp(indices, depth, palette):
    """Of the first version: three bytes a colour, as many as the depth has."""
    data = files.bmp(indices, depth, b"")
    head = struct.pack("<IHHHH", 12, *indices.shape[::-1], 1, depth) + bytes(palette[:, ::-1].astype(np.uint8).ravel())
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + len(head)) + head + data[54:]


def test_a_bmp_has_the_colours_of_its_palette_whatever_they_are():
    cases = []
    for depth in (1, 4, 8):
        for number, given in enumerate(palettes(2**depth)):
            palette = np.array(given)
            raw = np.insert(palette[:, ::-1], 3, 0, axis=1).astype(np.uint8).tobytes()
            indices = np.random.default_rng(number).integers(0, len(palette), (20, 24))
            whole = np.vstack([palette, np.zeros((2**depth - len(palette), 3), int)])
            data = {top_down: files.bmp(indices, depth, raw, top_down) for top_down in (True, False)}
            data["first version"] = old_bmp(indices, depth, whole)
            if depth > 1:
                data["runs"] = files.bmp(indices, depth, raw, runs=files.runs(indices, depth, random.Random(number)))
            short = data[False][:46] + struct.pack("<I", 0) + data[False][50:]
            data["as many as there is room for"] = short
            cases += [((depth, number, name), one, palette[indices]) for name, one in data.items()]
    assert problems(cases) == {}


def of_indices(values, depth, colours):
    """Files that hold the same."""
    quads = np.insert(colours[:, ::-1], 3, 0, axis=1).tobytes()
    chunk = files.chunk(b"PLTE", colours.tobytes())
    yield files.bmp(values, depth, quads)
    yield files.bmp(values, depth, quads, runs=files.runs(values, depth, random.Random(1)))
    for adam7 in (True, False):
        yield files.png(values, depth, 3, chunk, adam7=adam7)


def test_an_index_of_no_colour_is_damage():
    for depth, count in ((4, 5), (8, 2), (8, 255)):
        indices = np.random.default_rng(count).integers(0, count, (20, 24))
        odd = indices.copy()
        odd[7, 3] = count
        drawn = np.random.default_rng(count).integers(0, 256, (count, 3)).astype(np.uint8)
        for colours in (drawn, np.repeat(np.arange(count, dtype=np.uint8)[:, None], 3, 1)):
            for good, bad in zip(of_indices(indices, depth, colours), of_indices(odd, depth, colours), strict=True):
                assert wrong(good, colours[indices]) is None
                with pytest.raises(CorruptImage):
                    decode(bad, SAME)


def test_an_index_of_no_colour_is_damage_of_a_gif_unless_it_is_transparent():
    indices = np.random.default_rng(0).integers(0, 2, (8, 10))
    spec = CanvasSpec(8, 10, resize_mode="squash")
    for colours in ([BLACK, WHITE], [[9, 8, 7], [1, 2, 3]], [[0] * 3, [1] * 3]):
        palette = np.array(colours, np.uint8)

        def two(values, key, palette=palette):
            data = files.gif(values, bytes(12), (10, 8), key=key)
            return data[:10] + b"\x80" + data[11:13] + palette.tobytes() + data[25:]

        odd = indices.copy()
        odd[7, 3] = 3
        shown = palette[indices].copy()
        assert wrong(two(indices, None), shown, 0, spec) is None
        for key in (None, 0, 2):
            with pytest.raises(CorruptImage):
                decode(two(odd, key), spec)
        shown[7, 3] = 255
        assert wrong(two(odd, 3), shown, 0, spec) is None
        for key in (None, 0, 3):
            bare = two(indices, key)
            with pytest.raises(CorruptImage, match="the 0 colours"):
                decode(bare[:10] + b"\0" + bare[11:13] + bare[19:], spec)


def test_what_decides_the_pixels_of_a_png_comes_once_and_in_order():
    indices = files.samples(1)
    colours = np.array([[9, 80, 200], [100, 3, 5]], np.uint8)
    palette, clear = files.chunk(b"PLTE", colours.tobytes()), files.chunk(b"tRNS", b"\0")
    behind = colours.copy()
    behind[0] = 255
    cases = [
        ("behind the palette", files.png(indices, 1, 3, palette + clear), behind[indices]),
        ("before it", files.png(indices, 1, 3, clear + palette), colours[indices]),
        ("twice", files.png(indices, 1, 3, palette + clear + files.chunk(b"tRNS", b"\xff\0")), behind[indices]),
    ]
    assert problems(cases) == {}
    good = files.png(indices, 1, 3, palette)
    for more in (palette, good[8:33]):
        with pytest.raises(CorruptImage, match="once more"):
            decode(files.png(indices, 1, 3, palette + more), SAME)
    for kinds in itertools.product((0, 1, 64), repeat=2):
        data = good[:8] + files.chunk(b"IHDR", good[16:26] + bytes(kinds) + b"\0") + good[33:]
        if kinds == (0, 0):
            assert data == good
            continue
        with pytest.raises(CorruptImage, match="of the kinds"):
            decode(data, SAME)
