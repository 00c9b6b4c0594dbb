"""Frames of videos as events: which they are, when they were taken, their pixels wherever a job begins, bounds."""

import io
import random
from fractions import Fraction

import av
import fsspec
import numpy as np
import picture_files as files
import pytest

from grpo_tta.adapters.canvases import CanvasReader
from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.images import CanvasSpec, CorruptImage, ImageLimits, TooManyPixels, TooSlow, UnsupportedPixels
from grpo_tta.adapters.storage.fetch import Changed, Fetcher, ForbiddenByPolicy, TransientFetchError
from grpo_tta.adapters.storage.policy import UriPolicy
from grpo_tta.adapters.storage.source import SourceError, list_source
from grpo_tta.adapters.video import frames as frames_module

SECOND = 1_000_000
SPEC = CanvasSpec(32, 32, resize_mode="squash")
RATE = 10
CREATED = "2026-01-01T06:00:00.000000Z"
SIX = (1_767_225_600 + 6 * 3600) * SECOND


def shade(number):
    return 40 + number * 7 % 160


def encoded(format="mp4", codec="libx264", count=40, size=(64, 48), times=None, created=CREATED, options=None):
    """A video whose frame ``i`` has the shade of ``i``, a white left upper quarter and noise at the bottom."""
    file = io.BytesIO()
    noise = np.random.default_rng(0)
    with av.open(file, "w", format=format) as container:
        if created:
            container.metadata["creation_time"] = created
        stream = container.add_stream(codec, rate=RATE, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = 10
        stream.codec_context.thread_count = 1
        for number in range(count):
            pixels = np.full((size[1], size[0], 3), shade(number), np.uint8)
            pixels[: size[1] // 2, : size[0] // 2] = 255
            pixels[-8:] = noise.integers(0, 255, pixels[-8:].shape)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number if times is None else times[number], Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def write(folder, data, name="cam1/a.mp4"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def listed(url, every=1.0, **options):
    found = list(list_source(str(url), every=round(every * SECOND), **options))
    assert len({record.coordinate for record in found}) == len(found)
    return found


def reader(url, **limits):
    fetcher = Fetcher(UriPolicy.for_source(str(url)), attempts=2, first_pause=0, max_pause=0)
    return CanvasReader(fetcher, ImageLimits(**limits))


def shade_of(canvas):
    """Of the right upper quarter."""
    return int(np.median(canvas[:, :16, 20:]))


def read(read_canvas, events):
    """A canvas, or the error's name, for each."""
    found = []
    for event in events:
        try:
            found.append(read_canvas(event, SPEC))
        except CorruptImage as error:
            found.append(type(error).__name__)
    return found


FORMATS = [
    ("mp4", "libx264", {}),
    ("mp4", "libx264", {"bf": "0"}),
    ("mp4", "libx264", {"x264-params": "open-gop=1:bframes=5:b-pyramid=normal:keyint=10:min-keyint=10:scenecut=0"}),
    ("matroska", "libx264", {}),
    ("mpegts", "libx264", {}),
    ("mp4", "libx265", {"x265-params": "log-level=none:keyint=10:open-gop=1"}),
    ("webm", "libvpx-vp9", {}),
    ("avi", "mpeg4", {"bf": "0"}),
    ("avi", "mjpeg", {}),
    ("mpegts", "mpeg2video", {"bf": "2"}),
]
SUFFIX = {"matroska": "mkv", "mpegts": "ts"}


@pytest.mark.parametrize(("format", "codec", "options"), FORMATS)
def test_frames_are_those_of_their_times_wherever_one_begins(tmp_path, format, codec, options):
    data = encoded(format, codec, options=options)
    write(tmp_path, data, f"door/a.{SUFFIX.get(format, format)}")
    events = listed(tmp_path, 0.25)
    seconds = [(event.event_time - events[0].event_time) / SECOND for event in events]
    assert len(events) >= 12
    assert all(event.stream == "door" for event in events)
    begun = round(seconds[0] * RATE)
    numbers = [begun + round(second * RATE) for second in seconds]
    canvases = read(reader(tmp_path), events)
    assert [abs(shade_of(canvas) - shade(number)) <= 8 for canvas, number in zip(canvases, numbers, strict=True)] == [
        True
    ] * len(events)
    mixed = list(range(len(events)))
    random.Random(0).shuffle(mixed)
    again = reader(tmp_path)
    for at in mixed:
        assert (again(events[at], SPEC) == canvases[at]).all(), "the same pixels in any order"
    assert (reader(tmp_path)(events[-3], SPEC) == canvases[-3]).all(), "and where a job goes on"


def test_a_frame_of_each_stretch_and_none_where_the_camera_sent_none(tmp_path):
    write(tmp_path, encoded(times=[*range(20), 55, 56, 90, *range(100, 117)]))
    events = listed(tmp_path, 1)
    assert [event.id for event in events] == [
        f"cam1/a.mp4#t={second}" for second in ("0.000", "1.000", "5.500", "9.000", "10.000", "11.000")
    ]
    assert [(event.event_time - SIX) / SECOND for event in events] == [0, 1, 5.5, 9, 10, 11]
    assert len(listed(tmp_path, 0.001)) == 40


def test_when_a_video_begins(tmp_path, touch):
    touch(tmp_path / "a/2026-02-03T04-05-06Z.mp4", encoded())
    touch(tmp_path / "b/x.mp4", encoded(created=None), "2026-01-02T00:00:00")
    touch(tmp_path / "c/x.mp4", encoded(created="1904-01-01T00:00:00Z"), "2026-01-03T00:00:00")
    first = {event.stream: event.event_time for event in reversed(listed(tmp_path))}
    assert first == {"a": SIX, "b": 1_767_312_000 * SECOND, "c": 1_767_398_400 * SECOND}
    for name, said in (("d", "2026-01-02 04:05:06"), ("e", "20260102"), ("f", "2026-01-02")):
        touch(tmp_path / f"more/{name}/x.mkv", encoded("matroska", created=said), "2026-01-03T00:00:00")
    more = {event.stream: event.event_time for event in reversed(listed(tmp_path / "more"))}
    assert more == {"d": 1_767_326_706 * SECOND, "e": 1_767_398_400 * SECOND, "f": 1_767_398_400 * SECOND}
    (bad, *_) = listed(tmp_path / "b", time_pattern="auto")
    assert isinstance(bad, BadRecord)
    named = listed(tmp_path / "a", time_pattern="auto")
    assert named[1].event_time - named[0].event_time == SECOND
    assert named[0].event_time == 1_770_091_506 * SECOND


MATRICES = {
    1: (1, 0, 0, 1), 2: (-1, 0, 0, 1), 3: (-1, 0, 0, -1), 4: (1, 0, 0, -1), 5: (0, 1, 1, 0), 6: (0, 1, -1, 0),
    7: (0, -1, -1, 0), 8: (0, -1, 1, 0),
}  # fmt: skip
"""Steps to the right and down by the orientations of EXIF."""


def test_a_video_that_is_turned_or_mirrored_is_upright(tmp_path):
    canvases = {}
    for turn, matrix in MATRICES.items():
        data = bytearray(encoded())
        at = data.index(b"tkhd") + 44
        for place, number in zip((0, 4, 12, 16), matrix, strict=True):
            data[at + place : at + place + 4] = (number << 16).to_bytes(4, "big", signed=True)
        write(tmp_path, data, f"{turn}/a.mp4")
        canvases[turn] = reader(tmp_path)(listed(tmp_path / str(turn))[0], SPEC).transpose(1, 2, 0).astype(int)
    for turn, canvas in canvases.items():
        assert np.abs(files.stored(canvas, turn) - canvases[1]).max() <= 1, turn
    assert canvases[1][4:10, 4:10].min() > 230
    assert canvases[6][4:10, 22:28].min() > 230, "turned clockwise"


COLOURS = np.array([[[60, 90, 200], [200, 170, 100]], [[120, 200, 60], [90, 128, 128]]])
"""Y, Cb and Cr of the quarters of a picture."""
LUMA = {"bt709": (0.2126, 0.0722), "smpte170m": (0.299, 0.114), "smpte240m": (0.212, 0.087)}
LUMA |= {"bt2020nc": (0.2627, 0.0593)}
"""Shares of red and blue, by a matrix's name."""


def rgb_of(matrix, full):
    red, blue = LUMA[matrix]
    black, across, zero = (0, 255, 255) if full else (16, 219, 224)
    luma, cb, cr = np.moveaxis((COLOURS - (black, 128, 128)) / (across, zero, zero), 2, 0)
    reds, blues = luma + 2 * (1 - red) * cr, luma + 2 * (1 - blue) * cb
    greens = (luma - red * reds - blue * blues) / (1 - red - blue)
    return np.rint(255 * np.stack([reds, greens, blues], axis=2)).clip(0, 255)


def coloured(matrix, full, size):
    """A video of the colours, which says its matrix or none."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        container.metadata["creation_time"] = CREATED
        options = {"crf": "1"} | ({"x264-params": f"colormatrix={matrix}"} if matrix else {})
        stream = container.add_stream("libx264", rate=RATE, options=options)
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        stream.codec_context.color_range = 2 if full else 1
        frame = av.VideoFrame(*size, "yuv420p")
        for plane, values in zip(frame.planes, np.moveaxis(COLOURS, 2, 0), strict=True):
            rows = np.zeros((plane.height, plane.line_size), np.uint8)
            rows[:, : plane.width] = values.repeat(plane.height // 2, 0).repeat(plane.width // 2, 1)
            plane.update(rows.tobytes())
        for number in range(3):
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("matrix", "size", "meant"),
    [
        *((name, (64, 48), name) for name in LUMA), ("smpte170m", (1280, 720), "smpte170m"),
        (None, (64, 48), "smpte170m"), (None, (1280, 716), "smpte170m"), (None, (1280, 720), "bt709"),
    ],
)  # fmt: skip
def test_colours_are_those_of_the_streams_matrix_and_range(tmp_path, matrix, size, meant, full):
    write(tmp_path, coloured(matrix, full, size))
    canvas = reader(tmp_path)(listed(tmp_path)[0], SPEC).transpose(1, 2, 0).astype(int)
    assert np.abs(canvas[8::16, 8::16] - rgb_of(meant, full)).max() <= 3


def test_colours_of_a_matrix_that_is_not_known_are_refused_by_name(tmp_path):
    write(tmp_path, coloured("YCgCo", False, (64, 48)))
    with pytest.raises(UnsupportedPixels, match="matrix 8"):
        reader(tmp_path)(listed(tmp_path)[0], SPEC)


def test_a_bucket_is_read_as_a_folder_is(memory_url):
    with fsspec.open(f"{memory_url}/cam1/a.mp4", "wb") as file:
        file.write(encoded())
    events = listed(memory_url)
    assert [shade_of(canvas) for canvas in read(reader(memory_url), events)] == pytest.approx(
        [shade(10 * number) for number in range(4)], abs=8
    )


BAD = [
    (b"", "no video"),
    (b"x" * 5000, "no video"),
    (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n", "no video"),
    (b"ffconcat version 1.0\nfile '/etc/passwd'\n", "no video"),
    (encoded(count=40)[:3000], "no video"),
]


@pytest.mark.parametrize(("data", "message"), BAD)
def test_what_is_no_video_is_one_dead_letter(tmp_path, data, message):
    write(tmp_path, data)
    write(tmp_path, encoded(), "cam2/b.mp4")
    found = listed(tmp_path)
    (bad,) = [record for record in found if isinstance(record, BadRecord)]
    assert (bad.stage, bad.error_class) == ("source", "CorruptVideo")
    assert message in bad.error_message
    assert len(found) == 5, "the other file is read"


def test_sound_without_pictures_is_one_dead_letter(tmp_path):
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    write(tmp_path, file.getvalue(), "a.mkv")
    (bad,) = listed(tmp_path)
    assert "no stream of pictures" in bad.error_message


def faststart(count=40):
    """An mp4 with its index in front, so that what is cut off is the pictures."""
    file = io.BytesIO()
    with (
        av.open(io.BytesIO(encoded(count=count))) as source,
        av.open(file, "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    return file.getvalue()


def test_a_video_that_is_cut_off_has_its_frames_and_a_dead_letter(tmp_path):
    data = encoded("mpegts")
    write(tmp_path, data[: len(data) // 2], "a.ts")
    events = listed(tmp_path, 0.1)
    assert 10 < len(events) < 30
    assert all(isinstance(event, ImageRef) for event in events), "nothing says how long it should be"
    canvases = read(reader(tmp_path), events)
    assert sum(isinstance(canvas, str) for canvas in canvases) <= 3
    assert not any(isinstance(canvas, str) for canvas in canvases[:10])


@pytest.mark.parametrize(
    ("format", "options"),
    [("matroska", {}), ("webm", {}), ("mp4", {"movflags": "frag_keyframe+empty_moov"}), ("avi", {})],
)
def test_a_container_that_is_shorter_than_it_says_has_a_dead_letter(tmp_path, format, options):
    """Also where it ends between two frames."""
    name = {"matroska": "a.mkv"}.get(format, f"a.{format}")
    file, codec = io.BytesIO(), "libvpx" if format == "webm" else "libx264"
    with av.open(file, "w", format=format, options=options) as container:
        stream = container.add_stream(codec, rate=10, width=64, height=48, pix_fmt="yuv420p")
        stream.codec_context.gop_size = 5
        for number in range(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), number, np.uint8), "rgb24")))
        container.mux(stream.encode())
    with av.open(io.BytesIO(file.getvalue())) as container:
        ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
    data = file.getvalue()
    for end in (ends[21], ends[21] + 3, ends[22]):
        write(tmp_path, data[:end], name)
        *events, bad = listed(tmp_path / name, 0.1)
        assert all(isinstance(event, ImageRef) for event in events)
        assert isinstance(bad, BadRecord)
        assert len(events) >= 10
    write(tmp_path, data, name)
    assert {type(record) for record in listed(tmp_path / name, 0.1)} == {ImageRef}


def test_damage_costs_frames_up_to_the_next_keyframe_and_no_others(tmp_path):
    data = encoded("matroska")
    write(tmp_path, data, "a.mkv")
    whole = read(reader(tmp_path), listed(tmp_path, 0.1))
    with av.open(io.BytesIO(data)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        sizes = [(packet.pos, packet.size, packet.pts // 100) for packet in packets]
        keys = [packet.pts // 100 for packet in packets if packet.is_keyframe]
    assert len(keys) >= 4
    lost = 0
    for seed in range(10):
        at = random.Random(seed)
        begins, size, number = at.choice(sizes)
        damaged = bytearray(data)
        for _ in range(3):
            damaged[begins + 16 + at.randrange(size - 20)] ^= 1 << at.randrange(8)
        write(tmp_path, damaged, "a.mkv")
        events = listed(tmp_path, 0.1)
        canvases = read(reader(tmp_path), events)
        hit = range(max(key for key in keys if key <= number), min([key for key in keys if key > number], default=40))
        for other in set(range(40)) - set(hit):
            assert (canvases[other] == whole[other]).all()
        lost += sum(isinstance(canvases[one], str) for one in hit)
        backwards = read(reader(tmp_path), reversed(events))[::-1]
        assert all(np.array_equal(one, two) for one, two in zip(canvases, backwards, strict=True))
    assert lost > 15


def test_a_video_replaced_since_it_was_listed_is_not_read(tmp_path, memory_url):
    path = write(tmp_path, encoded())
    with fsspec.open(f"{memory_url}/a.mp4", "wb") as file:
        file.write(encoded())
    local, remote = listed(tmp_path), listed(memory_url)
    read_local = reader(tmp_path)
    read_local(local[0], SPEC)
    path.write_bytes(encoded(count=39))
    with fsspec.open(f"{memory_url}/a.mp4", "wb") as file:
        file.write(encoded(count=39))
    for read_canvas, events in ((read_local, local), (reader(tmp_path), local), (reader(memory_url), remote)):
        with pytest.raises(Changed, match="replaced since"):
            read_canvas(events[1], SPEC)


def test_bounds_are_those_of_images(tmp_path, monkeypatch):
    write(tmp_path, encoded())
    events = listed(tmp_path)
    with pytest.raises(TooManyPixels):
        reader(tmp_path, max_pixels=64 * 48 - 1)(events[0], SPEC)
    with pytest.raises(TooSlow):
        reader(tmp_path, max_seconds=1e-9)(events[0], SPEC)
    with pytest.raises(ForbiddenByPolicy):
        reader(tmp_path / "elsewhere")(events[0], SPEC)
    monkeypatch.setattr(frames_module, "MAX_OPEN", 1)
    for name in ("b", "c"):
        write(tmp_path, encoded(), f"{name}/a.mp4")
    read_canvas = reader(tmp_path)
    for event in sorted(listed(tmp_path), key=lambda event: event.event_time):
        read_canvas(event, SPEC)
    assert len(read_canvas._frames._open) == 1


def test_storage_that_fails_is_tried_again_and_then_fails_the_slice(tmp_path, monkeypatch):
    write(tmp_path, encoded())
    events = listed(tmp_path)
    opened = []

    class Failing(io.FileIO):
        def readinto(self, buffer):
            raise OSError("the network is away")

        def read(self, size=-1):
            raise OSError("the network is away")

    def failing(uri):
        opened.append(uri)
        return Failing(uri)

    monkeypatch.setattr(frames_module, "open_file", failing)
    with pytest.raises(TransientFetchError, match="the network is away"):
        reader(tmp_path)(events[0], SPEC)
    assert len(opened) == 2


def test_videos_are_passed_over_unless_asked_for(tmp_path):
    write(tmp_path, encoded())
    with pytest.raises(SourceError, match="--every 1s"):
        list(list_source(str(tmp_path)))
    with pytest.raises(ValueError, match="--follow"):
        list_source("rtsp://camera/stream")
