"""What formats, depths, byte orders, orientations, colour keys and damaged metadata come out as: the right pixels, or
an error, never others."""

import itertools
import struct
import zlib

import numpy as np
import picture_files as files
import pytest
from adapter_pictures import ORDERS, SAME, SIZE, encode, picture, problems, wrong
from PIL import Image

from grpo_tta.adapters.images import CanvasSpec, CorruptImage, UnsupportedPixels, decode


def test_tiff_grey_of_every_depth_photometric_and_byte_order():
    cases = []
    for depth, white_is_zero, order, big, deflate, tile in itertools.product(
        (1, 2, 4, 8, 12, 16), (True, False), ORDERS, (True, False), (True, False), (None, 16)
    ):
        values = files.samples(depth)
        expected = files.eight_bits(2**depth - 1 - values if white_is_zero else values, depth)
        data = files.tiff(values, depth, 0 if white_is_zero else 1, order, big=big, deflate=deflate, tile=tile)
        cases.append(((depth, white_is_zero, order, big, deflate, tile), data, expected))
    assert problems(cases) == {}


def test_tiff_colour_of_every_layout():
    cases = []
    for depth, order, deflate, planar, alpha in itertools.product(
        (8, 16), ORDERS, (True, False), (1, 2), (False, True)
    ):
        values = files.samples(depth, (*SIZE, 4 if alpha else 3))
        if alpha:
            values[..., 3] = 2**depth - 1
        extra = [(338, 3, 1, struct.pack(order + "H", 2))] if alpha else []
        data = files.tiff(values, depth, 2, order, deflate=deflate, planar=planar, extra=extra)
        cases.append(((depth, order, deflate, planar, alpha), data, files.eight_bits(values[..., :3], depth), 1))
    for depth, order, wide in itertools.product((1, 2, 4, 8), ORDERS, (True, False)):
        indices = files.samples(depth)
        colours = np.random.default_rng(3).integers(0, 256, (2**depth, 3))
        table = (colours * (257 if wide else 1)).T.astype(f"{order}u2").tobytes()  # 16 bits, or 8 in 16
        data = files.tiff(indices, depth, 3, order, extra=[(320, 3, 3 * 2**depth, table)])
        cases.append((("palette", depth, order, wide), data, colours[indices]))
    found = problems(cases)
    refused = {name for name, said in found.items() if "UnsupportedPixels" in said}
    assert found.keys() == refused
    assert all(len(name) == 5 and name[0] == 16 and name[3] == 2 for name in refused)  # planes of 16 bits


@pytest.mark.parametrize(("depth", "kind"), [(8, 2), (16, 2), (16, 3), (32, 1), (32, 2), (32, 3), (64, 3)])
def test_tiff_samples_without_a_white_are_refused(depth, kind):
    values = files.samples(8)
    for order in ORDERS:
        extra = [(339, 3, 1, struct.pack(order + "H", kind)), (258, 3, 1, struct.pack(order + "H", depth))]
        with pytest.raises(UnsupportedPixels, match="no defined white"):
            decode(files.tiff(values, 8, 1, order, extra=extra), SAME)


def test_a_tiff_whose_strips_have_no_place_is_not_black():
    values = files.samples(8)
    for extra in ([(273, 4, 1, struct.pack("<I", 8))], [(273, 4, 3, struct.pack("<3I", 8, 0, 8))]):
        with pytest.raises(CorruptImage, match="3 strips or tiles are needed"):
            decode(files.tiff(values, 8, 1, extra=extra), SAME)


PNG_COLOURS = {0: 1, 2: 3, 4: 2, 6: 4}


def test_png_of_every_depth_with_and_without_a_colour_key():
    cases = []
    for (colour, depth), keyed, adam7 in itertools.product(
        [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (4, 8), (4, 16), (6, 8), (6, 16)],
        (False, True), (False, True),
    ):  # fmt: skip
        values = files.samples(depth, (*SIZE, PNG_COLOURS[colour]))
        before = b""
        expected = files.eight_bits(values, depth)
        if colour in (4, 6):
            values[..., -1] = 2**depth - 1
            expected = expected[..., :-1]
        elif keyed:
            key = values[5, 5]
            values[9, 9] = key
            values[9, 10] = key ^ 1  # its neighbour is not it, at 16 bits neither
            expected = files.eight_bits(values, depth)
            expected[(values == key).all(axis=2)] = 255
            before = files.chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
        if colour in (0, 4):
            expected = expected.squeeze(2)
        cases.append(
            ((colour, depth, keyed, adam7), files.png(values, depth, colour, before, adam7=adam7), expected, 1)
        )
    for depth, keyed in itertools.product((1, 2, 4, 8), (False, True, "and more than the palette")):
        indices = files.samples(depth)
        colours = np.random.default_rng(3).integers(0, 256, (2**depth, 3)).astype(np.uint8)
        before = files.chunk(b"PLTE", colours.tobytes())
        if keyed:
            more = b"" if keyed is True else bytes(300)  # of colours that the palette has not
            before += files.chunk(b"tRNS", (b"\xff\0" + b"\xff" * 2**depth)[: 2**depth] + more)
            colours[1] = 255
        cases.append((("palette", depth, keyed), files.png(indices, depth, 3, before), colours[indices]))
    assert problems(cases) == {}


@pytest.mark.parametrize(
    ("colour", "chunks"),
    [
        (0, [(b"tRNS", b"\0")]),
        (2, [(b"tRNS", b"\0\0")]),
        (3, []),
        (3, [(b"PLTE", b"\0\0")]),
        (0, [(b"CgBI", b"\0\0\0\0")]),
    ],
)
def test_a_png_that_does_not_say_its_pixels_is_refused(colour, chunks):
    values = files.samples(8, (*SIZE, 3)) if colour == 2 else files.samples(8)
    before = b"".join(files.chunk(*one) for one in chunks)
    with pytest.raises(CorruptImage):
        decode(files.png(values, 8, colour, before), SAME)


def test_a_colour_key_behind_the_pixels_is_none():
    values = files.samples(8)
    data = files.png(values, 8, 0)
    key = files.chunk(b"tRNS", struct.pack(">H", values[5, 5]))
    assert wrong(data[:-12] + key + data[-12:], values) is None


def test_a_bad_checksum_of_what_decides_pixels_is_damage():
    values = files.samples(8)
    good = files.png(values, 8, 0)
    for kind in (b"IHDR", b"IDAT"):
        at = good.index(kind) + 4 + struct.unpack(">I", good[good.index(kind) - 4 : good.index(kind)])[0]
        with pytest.raises(CorruptImage, match=f"{kind.decode()} has a bad checksum"):
            decode(good[:at] + b"\1\2\3\4" + good[at + 4 :], SAME)
    with pytest.raises(CorruptImage, match="tRNS has a bad checksum"):
        decode(files.png(values, 8, 0, files.chunk(b"tRNS", b"\0\0", crc=7)), SAME)


BIG = zlib.compress(bytes(20 * 2**20))
PNG_FAULTS = {
    "a zTXt of 20 MiB": files.chunk(b"zTXt", b"a\0\0" + BIG),
    "a zTXt that is no stream": files.chunk(b"zTXt", b"a\0\0garbage"),
    "a zTXt by an unknown method": files.chunk(b"zTXt", b"a\0\7" + BIG),
    "a zTXt without a text": files.chunk(b"zTXt", b"a"),
    "an iTXt of 20 MiB": files.chunk(b"iTXt", b"a\0\1\0\0\0" + BIG),
    "an iTXt that is too short": files.chunk(b"iTXt", b"a\0\1"),
    "an iTXt without UTF-8": files.chunk(b"iTXt", b"a\0\0\0\0\0\xff\xfe"),
    "70 MiB of texts": files.chunk(b"zTXt", b"a\0\0" + BIG) * 4,
    "an iCCP of 20 MiB": files.chunk(b"iCCP", b"a\0\0" + BIG),
    "an iCCP that is no stream": files.chunk(b"iCCP", b"a\0\0garbage"),
    "an iCCP by an unknown method": files.chunk(b"iCCP", b"a\0\1garbage"),
    "an empty iCCP": files.chunk(b"iCCP", b""),
    "a bad checksum of tEXt": files.chunk(b"tEXt", b"a\0b", crc=1),
    "a damaged profile": files.chunk(b"zTXt", b"Raw profile type exif\0\0garbage"),
    "a profile without hexadecimals": files.chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 8\nxyz"),
    "an odd profile": files.chunk(b"tEXt", b"Raw profile type APP1\0\nexif\n 8\n123"),
    "a profile of 20 MiB": files.chunk(b"zTXt", b"Raw profile type exif\0\0" + BIG),
    "a malformed eXIf": files.chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
    "an animation of none": files.chunk(b"acTL", bytes(8)),
    "a frame without an animation": files.chunk(b"fcTL", bytes(26)),
    "an unknown chunk": files.chunk(b"abCd", b"?"),
    **{
        f"a{state} {kind.decode()}": files.chunk(kind, body, crc=crc)
        for kind in (b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"acTL", b"bKGD", b"hIST", b"tIME", b"sBIT", b"sPLT", b"oFFs")
        for state, body, crc in (("n empty", b"", None), (" short", b"\1", None), (" damaged", b"\0" * 9, 5))
    },
}  # fmt: skip


def test_no_metadata_of_a_png_decides_whether_it_is_decoded():
    values = files.samples(8, (*SIZE, 3))
    cases = []
    for (name, fault), after in itertools.product(PNG_FAULTS.items(), (False, True)):
        data = files.png(values, 8, 2, **{"after" if after else "before": fault})
        cases.append(((name, after), data, values))
    cut = files.png(values, 8, 2, after=files.chunk(b"tEXt", b"a\0" + b"b" * 100))
    cases += [("cut off in a text", cut[:-60], values), ("no end", files.png(values, 8, 2)[:-12], values)]
    assert problems(cases) == {}


LOSSY = np.asarray(picture(SIZE[::-1]))
JPEG = encode(picture(SIZE[::-1]), "JPEG", quality=95)
EXIF_FAULTS = {
    "nothing": b"",
    "garbage": b"garbage",
    "a directory elsewhere": b"II*\0\xff\xff\xff\xff",
    "a directory of itself": b"II*\0\0\0\0\0",
    "too many entries": b"MM\0*\0\0\0\x08\xff\xff" + bytes(40),
    "a wrong kind": files._tiff_file("<", b"", {0x0112: (5, 1, bytes(8))}),
    "an orientation of 77": files.exif(77),
    "a value elsewhere": files.exif(1).replace(b"\3\0\1\0\0\0", b"\3\0\xff\xff\xff\x7f"),
}  # fmt: skip


def jpeg_with(*segments):
    return JPEG[:2] + b"".join(files.segment(*one) for one in segments) + JPEG[2:]


def test_no_metadata_of_another_format_decides_whether_it_is_decoded():
    expected = decode(JPEG, SAME).transpose(1, 2, 0)
    cases = [(("JPEG", name), jpeg_with((0xE1, b"Exif\0\0" + fault)), expected) for name, fault in EXIF_FAULTS.items()]
    for marker, body in (
        (0xE0, b"JFIF\0"), (0xE0, b"JFXX\0"), (0xE1, b"http://ns.adobe.com/xap/1.0/\0<<"), (0xE2, b"ICC_PROFILE\0"),
        (0xE2, b"ICC_PROFILE\0\1\x09short"), (0xE2, b"MPF\0garbage"), (0xED, b"Photoshop 3.0\0"), (0xEE, b"Adobe"),
        (0xFE, b"\xff\xfe"), (0xE1, b""), (0xEF, b""),
    ):  # fmt: skip
        cases.append(((hex(marker), body), jpeg_with((marker, body)), expected))
    for marker, length in itertools.product((0xE0, 0xE1, 0xED, 0xEE, 0xFE), (0, 1)):
        cases.append(((hex(marker), length), JPEG[:2] + bytes([0xFF, marker, 0, length]) + JPEG[2:], expected))
    cases += [("JPEG and more", JPEG + b"\xff\xd8\xff" + bytes(90), expected)]
    values = np.asarray(picture(SIZE[::-1]))
    webp = encode(Image.fromarray(values), "WEBP", lossless=True)
    pixels = (b"VP8L", webp[20 : 20 + struct.unpack("<I", webp[16:20])[0]])
    header = (b"VP8X", b"\x2c\0\0\0" + struct.pack("<I", SIZE[1] - 1)[:3] + struct.pack("<I", SIZE[0] - 1)[:3])
    for name, fault in EXIF_FAULTS.items():
        cases.append((("WEBP", name), files.riff(header, (b"ICCP", fault), pixels, (b"EXIF", fault)), values))
    whole = files.riff(header, pixels, (b"XMP ", b"<<<<"))
    cases += [("WEBP says more than it has", files.riff(header, pixels), values), ("WEBP cut off", whole[:-2], values)]
    for name, fault in EXIF_FAULTS.items():
        extra = [(tag, 7, len(fault), fault) for tag in (700, 34675, 33723, 34377)]
        extra += [(34665, 4, 1, b"\xff\xff\xff\xff"), (282, 5, 0, b""), (283, 2, 1, b"x"), (305, 2, 9, b"\xff" * 9)]
        extra += [(37724, 99, 1, b"\0" * 4), (306, 2, 2**20, b"\xff\xff\xff\x7f")]
        cases.append((("TIFF", name), files.tiff(values, 8, 2, extra=extra), values))
    assert problems(cases) == {}


def test_gif_extensions_do_not_decide_either():
    image = picture(SIZE[::-1]).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    good = encode(image, "GIF")
    start = 13 + 3 * 2 ** ((good[10] & 7) + 1)
    faults = (
        b"!\xff\x0bXMP DataXMP" + b"\x02ab\0", b"!\xfe\xff" + b"\xff" * 255 + b"\0", b"!\xff\0", b"!\xf9\2\0\0\0",
        b"\0\0", b"!\x77\1a\0",
    )  # fmt: skip
    cases = [(fault, good[:start] + fault + good[start:], expected) for fault in faults]
    cases += [("more", good[:-1] + b"\xff" * 50, expected), ("no trailer", good[:-1], expected)]
    indices = np.random.default_rng(2).integers(0, 4, (8, 10))
    palette = np.random.default_rng(3).integers(0, 256, (4, 3)).astype(np.uint8)
    data = files.gif(indices, palette.tobytes(), (10, 8), key=1)
    text = b"!\1\x0c" + bytes(12) + b"\0"  # takes what was said of transparency
    spec = CanvasSpec(8, 10, resize_mode="squash")
    cases.append(("a text", data[:33] + text + data[33:], palette[indices], 0, spec))
    assert problems(cases) == {}


def test_orientation_wherever_it_is_said():
    upright = files.samples(8, (*SIZE, 3))
    even = np.asarray(picture((32, 48)).resize((32, 48)))
    cases = []
    for turn in range(1, 9):
        values = np.ascontiguousarray(files.stored(upright, turn))
        for order in ORDERS:
            block = files.exif(turn, order, kind=3 if order == "<" else 4)
            profile = files.raw_profile(b"Exif\0\0" + block, "generic")
            for name, chunks in {
                "eXIf": files.chunk(b"eXIf", block),
                "exif": files.chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)),
                "APP1": files.chunk(b"tEXt", b"Raw profile type APP1\0" + profile),
                "iTXt": files.chunk(b"iTXt", b"Raw profile type exif\0\1\0\0\0" + zlib.compress(profile)),
                "XMP": files.chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + files.xmp(turn)),
                "damaged first": files.chunk(b"eXIf", b"II*") + files.chunk(b"eXIf", block),
            }.items():
                for place in ("before", "after"):
                    data = files.png(values, 8, 2, **{place: chunks})
                    cases.append(((name, turn, order, place), data, upright))
            tag = (0x0112, 3, 1, struct.pack(order + "H", turn))
            cases.append((("TIFF", turn, order), files.tiff(values, 8, 2, order, extra=[tag]), upright))
            webp = encode(Image.fromarray(values.astype(np.uint8)), "WEBP", lossless=True, exif=b"Exif\0\0" + block)
            cases.append((("WEBP", turn, order), webp, upright))
            sideways = Image.fromarray(np.ascontiguousarray(files.stored(even, turn)))
            lossy = encode(sideways, "JPEG", quality=100, exif=b"Exif\0\0" + block, subsampling=0)
            cases.append((("JPEG", turn, order), lossy, even, 6, CanvasSpec(48, 32, resize_mode="squash")))
    assert problems(cases) == {}


def test_an_orientation_counts_in_a_directory_that_is_damaged_elsewhere():
    image = picture((32, 48))
    expected = np.asarray(image.rotate(270, expand=True))
    spec = CanvasSpec(32, 48, resize_mode="squash")
    cases = []
    for order, big in itertools.product(ORDERS, (False, True)):
        head = 16 if big else 8
        wide, count_size = (20, 8) if big else (12, 2)
        for kind, letter in ((3, "H"), (4, "I"), (8, "h"), (9, "i"), (1, "B")):
            entry = (kind, 1, struct.pack(order + letter, 6))
            good = files._tiff_file(order, b"", {0x0100: (3, 1, b"\0\1"), 0x0112: entry, 0x0131: (2, 4, b"abc\0")}, big)
            first = head + count_size
            blocks = {
                f"{count} entries": good[:head] + struct.pack(order + "Q" if big else order + "H", count) + good[first:]
                for count in (3, 4, 200, 65_535, *([2**63] if big else []))
            }
            blocks["cut off in the next"] = good[: first + 2 * wide + 5]
            blocks["the first is damaged"] = good[:first] + b"\xff" * wide + good[first + wide :]
            cases += [((order, big, kind, name), block) for name, block in blocks.items()]
    found = {}
    for name, block in cases:
        for start in (b"Exif\0\0", b"Exif\0"):
            data = encode(image, "JPEG", quality=100, subsampling=0)
            data = data[:2] + files.segment(0xE1, start + block) + data[2:]
            found[name, "JPEG", start] = wrong(data, expected, 6, spec)
        values = np.asarray(image)
        found[name, "PNG"] = wrong(files.png(values, 8, 2, files.chunk(b"eXIf", block)), expected, 1, spec)
        webp = encode(image, "WEBP", lossless=True, exif=block)
        found[name, "WEBP"] = wrong(webp, expected, 1, spec)
        found[name, "WEBP, cut off"] = wrong(webp[: webp.index(block) + len(block) - 1], expected, 1, spec)
    assert {name: said for name, said in found.items() if said} == {}


def test_a_turned_picture_is_resized_and_cropped_as_if_it_had_been_stored_upright():
    cases = []
    for size, mode in itertools.product(((91, 60), (61, 90), (40, 41), (33, 32)), ("shortest", "longest", "squash")):
        upright = np.asarray(picture(size))
        spec = CanvasSpec(32, 33, resize_mode=mode)
        expected = decode(files.png(upright, 8, 2), spec).transpose(1, 2, 0)
        for turn in range(2, 9):
            tag = (0x0112, 3, 1, struct.pack("<H", turn))
            data = files.tiff(np.ascontiguousarray(files.stored(upright, turn)), 8, 2, extra=[tag])
            cases.append(((size, mode, turn), data, expected, 2, spec))
    assert problems(cases) == {}


def test_bmp_of_every_depth():
    cases = []
    for depth, top_down in itertools.product((1, 4, 8), (True, False)):
        indices = files.samples(depth)
        for black_first in (True, False):
            ramp = np.linspace(0, 255, 2**depth).astype(np.uint8)[:: 1 if black_first else -1]
            palette = np.stack([ramp, ramp, ramp, np.zeros_like(ramp)], 1).tobytes()
            cases.append(((depth, top_down, black_first), files.bmp(indices, depth, palette, top_down), ramp[indices]))
    for depth in (24, 32):
        values = files.samples(8, (*SIZE, depth // 8))
        cases.append(((depth,), files.bmp(values, depth), values[..., 2::-1]))
    assert problems(cases) == {}


def scans_of(data):
    """Where the scans of a JPEG begin."""
    return [i for i in range(len(data) - 1) if data[i : i + 2] == b"\xff\xda"]


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_without_its_end_is_right_or_refused(progressive, mode):
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8)).convert(mode)
    data = encode(noise, "JPEG", progressive=progressive)
    spec = CanvasSpec(90, 120, resize_mode="squash")
    right = decode(data, spec).transpose(1, 2, 0)
    assert wrong(data[:-2], right, 0, spec) is None
    assert wrong(data[:-1], right, 0, spec) is None
    places = [int(len(data) * share) for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.98)]
    for place in [*places, *scans_of(data)[1:]]:
        with pytest.raises(CorruptImage):
            decode(data[:place], spec)
        with pytest.raises(CorruptImage):  # closed by somebody who did not mind
            decode(data[:place] + b"\xff\xd9", spec)
    damaged = data[: len(data) // 2] + bytes(300) + data[len(data) // 2 + 300 :]
    with pytest.raises(CorruptImage):
        decode(damaged, spec)


def test_a_webp_that_is_cut_off_behind_its_pixels_is_told_of():
    data = encode(Image.new("RGB", (9, 7)), "WEBP", lossless=True, exif=b"Exif\0\0" + bytes(30))
    for size, expected in ((len(data), []), (len(data) - 4, ["image_without_end"]), (len(data) - 50, None)):
        told: list[str] = []
        if expected is None:
            with pytest.raises(CorruptImage):
                decode(data[:size], SAME)
        else:
            decode(data[:size], SAME, repaired=told.append)
            assert told == expected


def test_jpeg_colours_as_their_markers_say():
    image = picture((32, 32))
    for keep_rgb in (False, True):
        data = encode(image, "JPEG", quality=100, subsampling=0, keep_rgb=keep_rgb)
        assert wrong(data, np.asarray(image), 6, CanvasSpec(32, 32)) is None
    odd = encode(image, "JPEG", quality=100, subsampling=0)
    frame = odd.index(b"\xff\xc0")
    odd = odd[: frame + 11] + b"\x41" + odd[frame + 12 :]  # a sampling that no table of names has
    with pytest.raises(CorruptImage):
        decode(odd, CanvasSpec(32, 32))
    flat = encode(Image.new("RGB", (16, 16), (200, 60, 30)), "JPEG", quality=100, subsampling=2)
    frame = flat.index(b"\xff\xc0")  # one block of colours for four of brightness, which lie below one another
    flat = flat[: frame + 5] + b"\0\x20\0\x08\x03\x01\x14" + flat[frame + 12 :]
    assert wrong(flat, np.asarray(Image.new("RGB", (8, 32), (200, 60, 30))), 6, CanvasSpec(32, 8)) is None
