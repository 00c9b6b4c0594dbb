"""The orientation that XMP says, wherever it lies: by the name that it has, and nothing else that looks like it."""

import time
import zlib

import numpy as np
import picture_files as files
import pytest
from adapter_pictures import SAME, SIZE, encode, problems, wrong
from PIL import Image

from grpo_tta.adapters.images import decode

TIFF = "http://ns.adobe.com/tiff/1.0/"
HEAD = "<?xpacket begin='\ufeff' id='W5M0MpCehiHzreSzNTczkc9d'?><x:xmpmeta xmlns:x='adobe:ns:meta/'>"
UPRIGHT = files.samples(8, (*SIZE, 3))
SAID = [
    "<x tiff:Orientation = '6'/>",
    f"{HEAD}<d xmlns:tiff='{TIFF}' tiff:Orientation='6'/></x:xmpmeta><?xpacket end='w'?>",
    f"<x xmlns:t='{TIFF}' t:Orientation='6'/>",
    f"<x xmlns:t='{TIFF}'><t:Orientation>6</t:Orientation></x>",
    f"<Orientation xmlns='{TIFF}'>\n 6\n</Orientation>",
    f"<x xmlns:a='{TIFF}' a:Orientation='&#54;'/>",
    f"<x><tiff:Orientation xmlns:tiff='{TIFF}' r:type='x'>&#x36;</tiff:Orientation></x>",
    "<x><!-- <y tiff:Orientation='3'/> --><y tiff:Orientation='6'/></x>",
    "<x b='tiff:Orientation=\"3\"'><![CDATA[<y tiff:Orientation='3'/>]]><y tiff:Orientation='6'/></x>",
    "<x tiff:Orientation='9'><tiff:Orientation>0</tiff:Orientation><y tiff:Orientation='6'/></x>",
    f"<x xmlns:tiff='elsewhere' tiff:Orientation='3'><y xmlns:tiff='{TIFF}' tiff:Orientation='6'/></x>",
    "<x tiff:Orientation='6'><no end",
    "<?xml version='1.0' encoding='klingon'?><x tiff:Orientation='6'/>",
    "<x a='\udcff' tiff:Orientation='6'/>",
]
UNSAID = [
    "",
    "<!-- tiff:Orientation='6' -->",
    "<x xmlns:tiff='elsewhere' tiff:Orientation='6'/>",
    "<x Orientation='6' exif:Orientation='6' tiff:orientation='6'/>",
    f"<x xmlns='{TIFF}' Orientation='6'/>",
    "<x tiff:Orientation='66'/>",
    "<x tiff:Orientation='\u0666'/>",
    "<!DOCTYPE x [<!ENTITY six '6'>]><x tiff:Orientation='&six;'/>",
    "<!DOCTYPE x><x tiff:Orientation='6'/>",
    "<x tiff:Orientation='&six;'/>",
    "<x>" * 100 + "<y tiff:Orientation='6'/>",
    "no XML tiff:Orientation='6'",
]


def with_xmp(values, text):
    return files.png(values, 8, 2, files.chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + text))


def test_an_orientation_is_known_by_its_name():
    sideways = np.ascontiguousarray(files.stored(UPRIGHT, 6))
    cases = [
        ((text, code), with_xmp(sideways, text.encode(code, "surrogateescape")), UPRIGHT)
        for text in SAID
        for code in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")
        if code.startswith("utf-8") or "\udcff" not in text
    ]
    cases += [(text, with_xmp(UPRIGHT, text.encode()), UPRIGHT) for text in UNSAID]
    assert problems(cases) == {}


def test_it_counts_in_every_format():
    values = np.ascontiguousarray(files.stored(UPRIGHT, 6)).astype(np.uint8)
    text = SAID[2].encode()
    tag = (700, 1, len(text), text)
    cases = [
        ("PNG", with_xmp(values, text), UPRIGHT),
        ("WEBP", encode(Image.fromarray(values), "WEBP", lossless=True, xmp=text), UPRIGHT),
        ("TIFF", files.tiff(values, 8, 2, extra=[tag]), UPRIGHT),
    ]
    indices = np.random.default_rng(2).integers(0, 4, (10, 8))
    palette = np.random.default_rng(3).integers(0, 256, (4, 3)).astype(np.uint8)
    data = files.gif(files.stored(indices, 6), palette.tobytes(), (10, 8))
    block = b"!\xff\x0bXMP DataXMP" + text + b"\1" + bytes(range(255, -1, -1)) + b"\0"
    spec = type(SAME)(10, 8, resize_mode="squash")
    cases.append(("GIF", data[:25] + block + data[25:], palette[indices], 0, spec))
    assert problems(cases) == {}


def test_an_exif_block_may_be_padded_in_any_way():
    values = np.ascontiguousarray(files.stored(UPRIGHT, 6))
    for padding in (b"Exif\0\0", b"Exif\0", b"Exif\0\xff", b""):
        data = files.png(values, 8, 2, files.chunk(b"eXIf", padding + files.exif(6)))
        assert wrong(data, UPRIGHT) is None


@pytest.mark.parametrize(
    "text",
    [
        "<a>" * 300_000, "<a><b>" + "<Orientation/>" * 70_000, "<a>" * 60 + "<p:Orientation/>" * 60_000,
        "<a " + " ".join(f"xmlns:a{i}='x'" for i in range(60_000)) + ">", "<a><a xmlns:x='qqqqqqqqqq'>" * 30_000,
        "<a>" + "".join(f"<a xmlns:x{i}=''>" for i in range(50_000)), "<!DOCTYPE a [" + "<!ENTITY b 'b'>" * 60_000,
    ],
)  # fmt: skip
def test_no_text_takes_long(text):
    texts = files.chunk(b"zTXt", b"Raw profile type xmp\0\0" + zlib.compress(
        files.raw_profile((text + "<tiff:Orientation/>").encode()[: 2**19], "xmp")
    )) * 16  # fmt: skip
    data = files.png(UPRIGHT, 8, 2, texts)
    begun = time.thread_time()
    decode(data, SAME)
    assert time.thread_time() - begun < 5
