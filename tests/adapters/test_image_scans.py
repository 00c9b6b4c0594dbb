"""JPEGs of many scans: all of their coefficients to the last bit, or an error."""

import itertools

import numpy as np
import picture_files as files
import pytest
from adapter_pictures import SAME, SIZE, encode, picture, wrong
from PIL import Image

from grpo_tta.adapters.images import CorruptImage, decode

SOS, DHT, FRAMES = 0xDA, 0xC4, (0xC0, 0xC2)


def segments(data):
    """Marker, body and what follows it up to the next one, of a file without restarts."""
    at = 2
    while data[at + 1] != 0xD9:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        body, at = data[at + 4 : at + 2 + length], at + 2 + length
        end = at
        while marker == SOS and (data[end] != 0xFF or data[end + 1] == 0):
            end += 1
        yield marker, body, data[at:end]
        at = end


def joined(planes, progressive):
    """A JPEG of a component for each plane, and its scans, each of one component with its tables in front."""
    tables, frame, scans = b"", b"", []
    for number, plane in enumerate(planes, 1):
        codes = b""
        for marker, body, entropy in segments(
            encode(Image.fromarray(plane), "JPEG", quality=95, progressive=progressive)
        ):
            if marker in FRAMES:
                frame = files.segment(marker, body[:5] + bytes([len(planes)]) + components(len(planes), body))
            elif marker == DHT:
                codes += files.segment(marker, body)
            elif marker == SOS:
                scan = codes + files.segment(marker, b"\1" + bytes([number]) + body[2:]) + entropy
                scans.append((number, tuple(body[3:]), scan))
                codes = codes if not progressive else b""
            elif number == 1:
                tables += files.segment(marker, body)
    return b"\xff\xd8" + tables + frame, scans


def components(count, body):
    return b"".join(bytes([number]) + body[7:9] for number in range(1, count + 1))


@pytest.mark.parametrize("progressive", [False, True])
def test_every_component_has_its_scans_to_the_last_bit(progressive):
    luma, *chroma = (np.asarray(picture(SIZE[::-1], seed).convert("L")) for seed in range(3))
    expected = files.rgb_of(luma, np.stack(chroma, axis=2), (1, 1))
    head, scans = joined([luma, *chroma], progressive)
    assert len(scans) == (18 if progressive else 3)
    by_bits = sorted(scans, key=lambda one: (one[1][0] > 0 or one[1][2] > 15, -(one[1][2] & 15)))
    orders = (scans, scans[::-1] if not progressive else by_bits)
    for order in orders:
        whole = head + b"".join(scan for *_, scan in order)
        for end in (b"", b"\xff\xd9"):
            assert wrong(whole + end, expected, 12) is None
    for left_out, end in itertools.product(range(len(scans)), (b"", b"\xff\xd9")):
        rest = b"".join(scan for *_, scan in scans[:left_out] + scans[left_out + 1 :])
        with pytest.raises(CorruptImage):
            decode(head + rest + end, SAME)
    for kept in range(1, len(scans)):
        with pytest.raises(CorruptImage, match="scans are missing"):
            decode(head + b"".join(scan for *_, scan in scans[:kept]) + b"\xff\xd9", SAME)
