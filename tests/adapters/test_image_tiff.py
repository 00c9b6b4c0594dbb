"""TIFF files: colours of blocks, layouts that are not read, strips and tiles that are not where they are said to be."""

import itertools
import struct

import numpy as np
import picture_files as files
import pytest
from adapter_pictures import ORDERS, SAME, SIZE, problems, wrong

from grpo_tta.adapters.images import CanvasSpec, CorruptImage, UnsupportedPixels, decode


def test_tiff_ycbcr_of_every_sampling():
    luma = files.samples(8, (19, 23))
    spec = CanvasSpec(*luma.shape, resize_mode="squash")
    cases = []
    for factors in itertools.product((1, 2, 4), repeat=2):
        chroma = files.samples(8, (-(-19 // factors[1]), -(-23 // factors[0]), 2), seed=1)
        expected = files.rgb_of(luma, chroma, factors)
        for order, deflate, layout in itertools.product(
            ORDERS, (True, False), ({}, {"rows": 8}, {"tile": 16}, {"tile": 32})
        ):
            data = files.ycbcr(luma, chroma, factors, order, deflate=deflate, **layout)
            cases.append(((factors, order, deflate, layout), data, expected, 1, spec))
    studio = struct.pack("<12I", *(number for one in (16, 235, 128, 240, 128, 240) for number in (one, 1)))
    chroma = files.samples(8, (19, 23, 2), seed=1)
    data = files.ycbcr(luma, chroma, (1, 1), extra=[(532, 5, 6, studio)])
    whole = (luma - 16) * 255 / 219, 128 + (chroma - 128) * 127 / 112
    expected = files.rgb_of(*(np.rint(one).clip(0, 255) for one in whole), (1, 1))
    cases.append(("black and white of its own", data, expected, 1, spec))
    assert problems(cases) == {}


def test_tiff_ycbcr_that_is_cut_off_or_of_another_kind_is_refused():
    luma, chroma = files.samples(8, (16, 16)), files.samples(8, (8, 8, 2))
    taller = [(257, 3, 1, struct.pack("<H", 18)), (278, 3, 1, struct.pack("<H", 18))]
    for deflate, factors in itertools.product((True, False), ((2, 2), (1, 1))):
        shared = chroma if factors == (2, 2) else chroma.repeat(2, 0).repeat(2, 1)
        data = files.ycbcr(luma, shared, factors, deflate=deflate, extra=taller)
        with pytest.raises(CorruptImage):
            decode(data, SAME)
    short = lambda *numbers: struct.pack(f"<{len(numbers)}H", *numbers)  # noqa: E731
    for extra in (
        [(530, 3, 2, short(3, 2))], [(284, 3, 1, short(2))], [(317, 3, 1, short(2))],
        [(529, 5, 3, struct.pack("<6I", 2, 10, 7, 10, 1, 10))], [(532, 5, 6, struct.pack("<12I", *[1] * 12))],
    ):  # fmt: skip
        with pytest.raises((CorruptImage, UnsupportedPixels)):
            decode(files.ycbcr(luma, chroma, (2, 2), extra=extra), SAME)


def test_tiff_of_another_layout_is_refused_by_name():
    values = files.samples(8)
    short = lambda tag, *numbers: (tag, 3, len(numbers), struct.pack(f"<{len(numbers)}H", *numbers))  # noqa: E731
    for depth in (3, 5, 6, 7, 9, 10, 11, 13, 14, 15):
        for order in ORDERS:
            with pytest.raises(UnsupportedPixels, match=f"samples of {depth} bits"):
                decode(files.tiff(files.samples(depth), depth, 1, order), SAME)
    both = np.stack((values, values), axis=2)
    for depth, extra in ((8, 0), (8, 1), (16, 0), (16, 1), (16, 2)):
        with pytest.raises(UnsupportedPixels, match=f"2 samples of {depth} bits.* extra samples .{extra},., "):
            decode(files.tiff(both, depth, 1, extra=[short(338, extra)]), SAME)
    for compression in (6, 32771, 32809, 34676, 50001, 65000):
        with pytest.raises(UnsupportedPixels, match=f"compression {compression} cannot be read"):
            decode(files.tiff(values, 8, 1, extra=[short(259, compression)]), SAME)
    right = wrong(files.tiff(both, 8, 1, extra=[short(338, 2)]), _on_white(values, values), 1)
    assert right is None


def _on_white(values, alpha):
    return np.rint(values * (alpha / 255) + 255 - alpha)


def test_tiff_strips_and_tiles_that_lie_where_no_pixels_are_are_refused():
    values = files.samples(8)
    long = lambda *numbers: (4, len(numbers), struct.pack(f"<{len(numbers)}I", *numbers))  # noqa: E731
    for layout, (places, counts), whole in (({}, (273, 279), 7 * 24), ({"tile": 16}, (324, 325), 256)):
        good = files.tiff(values, 8, 1, **layout)
        assert wrong(good, values) is None
        at, said = [8 + whole * i for i in range(4)], [whole] * 4
        directory, end = struct.unpack("<I", good[4:8])[0], len(good)
        if not layout:
            at, said = at[:3], [whole, whole, 6 * 24]
        for tag, numbers in {
            "too few": (counts, [said[0], said[1] - 1, *said[2:]]),
            "none": (counts, [0, *said[1:]]),
            "over the next": (counts, [said[0] + 1, *said[1:]]),
            "over the directory": (counts, [*said[:-1], directory - at[-1] + 1]),
            "over the file's end": (counts, [*said[:-1], end]),
            "far away": (counts, [*said[:-1], 2**32 - 1]),
            "fewer than there are": (counts, said[:-1]),
            "twice in one place": (places, [at[0], at[0], *at[2:]]),
            "over another": (places, [at[0], at[1] - 1, *at[2:]]),
            "at the head": (places, [4, *at[1:]]),
            "in the directory": (places, [directory + 2, *at[1:]]),
            "behind the end": (places, [*at[:-1], end]),
        }.values():
            with pytest.raises(CorruptImage):
                decode(files.tiff(values, 8, 1, extra=[(tag, *long(*numbers))], **layout), SAME)


def short(tag, *numbers):
    return tag, 3, len(numbers), struct.pack(f"<{len(numbers)}H", *numbers)


OWN = {1: 1, 2: 3, 3: 1, 5: 4}
PALETTE = np.random.default_rng(5).integers(0, 65536, (256, 3))


def colours_of(values, photometric):
    if photometric == 3:
        return PALETTE[values[..., 0]] / 257
    if photometric == 5:
        return (255 - values[..., :3]) * (255 - values[..., 3:4]) / 255
    return values[..., : OWN[photometric]]


def test_tiff_planes_and_extra_samples_are_right_or_refused_by_name():
    unreadable, cases = set(), []
    for photometric, extra, planar, deflate in itertools.product(
        OWN, ((), (0,), (1,), (2,), (0, 0)), (1, 2), (True, False)
    ):
        values = files.samples(8, (*SIZE, OWN[photometric] + len(extra)), seed=4)
        alpha = values[..., -1:] / 255 if extra in ((1,), (2,)) else 1
        expected = colours_of(values, photometric)
        if extra == (1,):  # multiplied into the colours
            values[..., :-1] = np.floor(values[..., :-1] * alpha)
            expected = colours_of(values, photometric) + 255 * (1 - alpha)
        elif extra == (2,):
            expected = expected * alpha + 255 * (1 - alpha)
        tags = [short(338, *extra)] * bool(extra) + [short(320, *PALETTE.T.ravel())] * (photometric == 3)
        data = files.tiff(values, 8, photometric, planar=planar, deflate=deflate, extra=tags)
        try:
            decode(data, SAME)
        except UnsupportedPixels:
            unreadable.add((photometric, extra, planar, deflate))
            continue
        cases.append(((photometric, extra, planar, deflate), data, np.rint(expected), 2))
    assert problems(cases) == {}
    assert {(photometric, (), planar, deflate) for photometric, planar, deflate in
            itertools.product(OWN, (1, 2), (True, False))}.isdisjoint(unreadable)  # fmt: skip
    assert {(2, (2,), 2, True), (2, (2,), 2, False), (1, (2,), 1, True), (3, (2,), 1, True)}.isdisjoint(unreadable)
    assert {(one, (2,), 2, deflate) for one in (1, 3) for deflate in (True, False)} <= unreadable


def test_tiff_whose_samples_mean_something_else_is_refused_by_name():
    four, inks = files.samples(8, (*SIZE, 4)), files.samples(8, (*SIZE, 4)) // 2
    for data in (
        files.tiff(four, 8, 2), files.tiff(four, 8, 2, planar=2), files.tiff(files.samples(16, (*SIZE, 4)), 16, 2),
        files.tiff(inks, 8, 5, extra=[short(332, 2)]), files.tiff(inks, 8, 5, extra=[short(336, 255, 0)]),
        files.tiff(files.samples(8), 8, 1, extra=[short(346, 1)]),
        files.tiff(files.samples(8), 8, 1, extra=[short(317, 2)]),
    ):  # fmt: skip
        with pytest.raises(UnsupportedPixels):
            decode(data, SAME)
    plain = [short(317, 1), short(332, 1), short(336, *[0, 255] * 4), short(346, 0)]
    assert wrong(files.tiff(inks, 8, 5, extra=plain), np.rint(colours_of(inks, 5)), 1) is None


def test_tiff_whose_palette_has_not_as_many_colours_as_its_depth_is_refused():
    for depth in (1, 2, 4, 8):
        values, count = files.samples(depth), 2**depth
        palette = PALETTE[:count].T
        good = files.tiff(values, depth, 3, extra=[short(320, *palette.ravel())])
        assert wrong(good, np.rint(PALETTE[:count][values] / 257), 1) is None
        counts = {3 * count - 1, 3 * count + 3, count, 3 * (count // 2)}
        for numbers in ([], *(PALETTE.T.ravel()[:one] if one < 768 else [*palette.ravel(), 1] for one in counts)):
            with pytest.raises(CorruptImage):
                decode(files.tiff(values, depth, 3, extra=[short(320, *numbers)] * (len(numbers) > 0)), SAME)
