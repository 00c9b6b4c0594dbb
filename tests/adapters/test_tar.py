"""Tar archives as sources: one event or one dead letter for each image, read by its place in the archive."""

import io
import json
import tarfile
import time

import fsspec
import pytest

from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.storage.fetch import Changed, Fetcher, ForbiddenByPolicy, TooManyBytes
from grpo_tta.adapters.storage.passed import PassedOver
from grpo_tta.adapters.storage.pointers import listed_uri
from grpo_tta.adapters.storage.policy import UriPolicy
from grpo_tta.adapters.storage.source import list_arrivals, list_source

SECOND = 1_000_000
LONG = "x" * 150


def packed(members, format=tarfile.PAX_FORMAT, mtime=100):
    """Of name -> bytes, or a TarInfo of no file; or pairs of them."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        for name, data in members.items() if isinstance(members, dict) else members:
            if isinstance(data, tarfile.TarInfo):
                data.name = name
                archive.addfile(data)
                continue
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def special(kind, target=""):
    info = tarfile.TarInfo("")
    info.type, info.linkname = kind, target
    return info


def said(**fields):
    return json.dumps(fields).encode()


WEBDATASET = {
    "000001.jpg": b"one",
    "000001.json": said(
        stream="door", event_time="2026-01-01T00:00:00Z", attributes={"a": "b"}, caption="cat", id=7, width=[1]
    ),
    "000001.cls": b"3",
    "000001.seg.png": b"mask",
    "cam/000002.PNG": b"second",
    "cam/2026-01-01T06-00-00.283Z_1.jpg": b"dotted",
    "cam/2026-01-01T06-00-00.283Z_1.json": said(stream="dotted"),
    "cam/2026-01-01T06-00-00.783Z_2.jpg": b"dotted too",
    f"./deep/{LONG}/é.jpg": b"long name",
    "._000001.jpg": b"what macOS adds",
}


@pytest.mark.parametrize("place", ["local", "memory"])
@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_the_images_of_an_archive_are_events_and_read_by_their_place(tmp_path, memory_url, place, format):
    root = str(tmp_path / "shards") if place == "local" else memory_url
    with fsspec.open(f"{root}/gate/s-0.tar", "wb", auto_mkdir=True) as file:
        file.write(packed(WEBDATASET, format))
    with fsspec.open(f"{root}/s-1.TAR", "wb") as file:
        file.write(packed({"b.jpg": b"flat"}))
    passed = PassedOver()
    events = {event.id: event for event in list_source(root, passed=passed)}
    assert {id: (event.stream, event.event_time) for id, event in events.items()} == {
        "gate/s-0.tar/000001.jpg": ("door", 1_767_225_600 * SECOND),
        "gate/s-0.tar/cam/000002.PNG": ("gate", 100 * SECOND),
        "gate/s-0.tar/cam/2026-01-01T06-00-00.283Z_1.jpg": ("dotted", 100 * SECOND),
        "gate/s-0.tar/cam/2026-01-01T06-00-00.783Z_2.jpg": ("gate", 100 * SECOND),
        f"gate/s-0.tar/deep/{LONG}/é.jpg": ("gate", 100 * SECOND),
        "s-1.TAR/b.jpg": ("default", 100 * SECOND),
    }
    assert events["gate/s-0.tar/000001.jpg"].attributes == (("a", "b"),)
    assert passed.plain() == {"(hidden)": 1, ".cls": 1, ".png": 1}
    fetcher = Fetcher(UriPolicy.for_source(root))
    data = {id.rpartition("/")[2]: fetcher.fetch(event) for id, event in events.items()}
    assert sorted(data.values()) == [b"dotted", b"dotted too", b"flat", b"long name", b"one", b"second"]
    for event in events.values():
        assert listed_uri(event.coordinate) == event.uri
    order = [event.id for event in sorted(events.values(), key=lambda e: e.coordinate) if event.id.startswith("gate")]
    assert order == [id for id in events if id.startswith("gate")], "coordinates sort as the archive does"


def test_patterns_see_the_archive_and_the_member(tmp_path):
    (tmp_path / "cam7_2026-01-01.tar").write_bytes(packed({"x/06-00-00.jpg": b"1", "06-00-01.jpg": b"1"}))
    found = list_source(
        str(tmp_path / "*.tar"),
        stream_pattern="(?P<stream>cam[0-9]+)_",
        time_pattern=r"(?P<date>[0-9-]{10})\.tar/.*?(?P<time>[0-9-]+)\.jpg",
    )
    assert [(event.stream, event.event_time) for event in found] == [
        ("cam7", (1_767_225_600 + 6 * 3600) * SECOND),
        ("cam7", (1_767_225_600 + 6 * 3600 + 1) * SECOND),
    ]
    assert [event.stream for event in list_source(str(tmp_path / "cam7_2026-01-01.tar"))] == ["x", "default"]


def listed(path, data):
    path.write_bytes(data)
    found = list(list_source(str(path)))
    assert len({record.coordinate for record in found}) == len(found)
    return found


def kinds(found):
    return [record.error_class if isinstance(record, BadRecord) else record.id.partition("/")[2] for record in found]


def test_what_is_no_image_file_is_a_dead_letter_and_the_rest_is_read(tmp_path):
    members = {
        "link.jpg": special(tarfile.SYMTYPE, "/etc/passwd"),
        "hard.jpg": special(tarfile.LNKTYPE, "a.jpg"),
        "pipe.jpg": special(tarfile.FIFOTYPE),
        "folder.jpg": special(tarfile.DIRTYPE),
        "/etc/absolute.jpg": b"1",
        "../../climbing.jpg": b"1",
        "bad.jpg": b"1",
        "bad.json": b"{",
        "wrong.jpg": b"1",
        "wrong.json": said(stream=["a"], event_time="yesterday"),
        "large.jpg": b"1",
        "large.json": b" " * 65_537,
        "\udcff.jpg": b"1",
        "x" * 1100 + ".jpg": b"1",
        "last.jpg": b"1",
    }
    found = listed(tmp_path / "a.tar", packed(members, tarfile.GNU_FORMAT))
    assert kinds(found) == [
        *["NotAFile"] * 3,
        "etc/absolute.jpg",
        "climbing.jpg",
        *["ValidationError"] * 2,
        "ValueError",
        "UnicodeEncodeError",
        "ValueError",
        "last.jpg",
    ]
    assert [record.stream for record in found if isinstance(record, ImageRef)] == ["etc", "default", "default"]


GOOD = packed({f"{i}.jpg": bytes([i]) * 700 for i in range(4)})
EACH = 512 + 1024


@pytest.mark.parametrize(
    ("data", "events", "message"),
    [
        (b"", 0, "empty file"),
        (b"no archive" * 100, 0, "no tar archive"),
        (GOOD[: 2 * EACH + 100], 2, "no header"),
        (GOOD[: 2 * EACH + 600], 2, "cut off within the member '2.jpg'"),
        (GOOD[: 3 * EACH], 3, "ends without its end mark"),
        (GOOD[:EACH] + b"x" * 512 + GOOD[EACH + 512 :], 1, "no header"),
        (GOOD[:EACH] + b"\0" * 512 + GOOD[EACH + 512 :], 1, "behind its end mark"),
        (GOOD + GOOD, 4, "behind its end mark"),
        (GOOD + b"\0" * 2**21, 4, "behind its end mark"),
    ],
)
def test_a_damaged_archive_has_the_events_before_the_damage_and_one_dead_letter(tmp_path, data, events, message):
    found = listed(tmp_path / "a.tar", data)
    assert kinds(found) == [*(f"{i}.jpg" for i in range(events)), "DamagedTar"]
    assert message in found[-1].error_message
    assert f"from byte {EACH * events} on" in found[-1].error_message


def header(**fields):
    info = tarfile.TarInfo("a.jpg")
    for name, value in fields.items():
        setattr(info, name, value)
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "data",
    [
        header(size=2**60),
        header(size=-512),
        header(type=tarfile.XHDTYPE, size=2**30) + b"0" * 2**21,
        header(type=tarfile.GNUTYPE_LONGNAME, size=2**21) + b"0" * 2**22,
        header(type=tarfile.GNUTYPE_LONGNAME, size=512) * 3000,
        (header(type=tarfile.XHDTYPE, size=512) + b"11 mtime=1\n".ljust(512, b"\0")) * 3000,
        header(type=tarfile.XHDTYPE, size=512) + b"99999999999999999999 size=1\n".ljust(512, b"\0") + header(),
        header(type=tarfile.XHDTYPE, size=512) + b"20 size=-1000000000\n".ljust(512, b"\0") + header(size=5),
    ],
)
def test_headers_that_would_take_all_memory_or_never_end(tmp_path, data):
    started = time.monotonic()
    assert kinds(listed(tmp_path / "a.tar", data))[-1] == "DamagedTar"
    assert time.monotonic() - started < 5


def test_a_time_that_is_none_is_the_epoch(tmp_path):
    data = header(type=tarfile.XHDTYPE, size=512) + b"13 mtime=nan\n".ljust(512, b"\0") + header() + b"\0" * 1024
    assert [event.event_time for event in listed(tmp_path / "a.tar", data)] == [0]


def test_an_archive_replaced_since_it_was_listed_is_not_read(tmp_path, memory_url):
    for url in (str(tmp_path / "a.tar"), f"{memory_url}/a.tar"):
        for other in (packed({"a.jpg": b"12"}), packed({"a.json": b"{}", "a.jpg": b"1"})[:1024], b"\0" * 2048):
            with fsspec.open(url, "wb") as file:
                file.write(packed({"a.jpg": b"1"}))
            (event,) = list_source(url)
            with fsspec.open(url, "wb") as file:
                file.write(other)
            with pytest.raises(Changed, match="replaced since"):
                Fetcher(UriPolicy.for_source(url)).fetch(event)


def test_bounds_and_policy_are_those_of_files(tmp_path):
    outside, inside = tmp_path / "outside.tar", tmp_path / "in"
    outside.write_bytes(packed({"a.jpg": b"1" * 100}))
    inside.mkdir()
    (inside / "link.tar").symlink_to(outside)
    (bad,) = list_source(str(inside))
    assert (bad.stage, bad.error_class) == ("policy", "ForbiddenByPolicy")
    (event,) = list_source(str(outside))
    with pytest.raises(TooManyBytes):
        Fetcher(UriPolicy.for_source(str(outside)), max_bytes=99).fetch(event)
    with pytest.raises(ForbiddenByPolicy):
        Fetcher(UriPolicy.for_source(str(inside))).fetch(event)


def test_a_followed_source_passes_archives_over(tmp_path):
    (tmp_path / "a.tar").write_bytes(packed({"a.jpg": b"1"}))
    passed = PassedOver()
    assert list(list_arrivals(str(tmp_path), passed=passed)) == []
    assert passed.plain() == {".tar": 1}


def test_a_sidecar_that_says_a_thing_twice_is_a_dead_letter(tmp_path):
    twice, marked = b'{"stream": "a", "stream": "b"}', b'\xef\xbb\xbf{"stream": "door"}'
    (tmp_path / "s.tar").write_bytes(packed({"1.jpg": b"1", "1.json": twice, "2.jpg": b"2", "2.json": marked}))
    bad, event = list_source(str(tmp_path))
    assert "key 'stream' is in it twice" in bad.error_message
    assert event.stream == "door"


def test_a_sidecar_is_of_every_image_of_its_name_and_one_alone(tmp_path):
    said_once = [("a.JPG", b"1"), ("a.JSON", said(stream="door")), ("a.png", b"2"), ("a.JPG", b"3"), ("a.txt", b"")]
    said_twice = [("b.jpg", b"1"), ("b.json", said(stream="door")), ("b.json", said(stream="gate"))]
    (tmp_path / "s.tar").write_bytes(packed(said_once + said_twice))
    passed = PassedOver()
    *events, bad = list_source(str(tmp_path), passed=passed)
    assert [event.stream for event in events] == ["door"] * 3
    assert "'b.json' is in the archive twice" in bad.error_message
    assert passed.plain() == {".txt": 1}


def test_a_large_group_ends_between_an_image_and_the_next_ones_sidecar(tmp_path, monkeypatch):
    """Names with dots for separators are one group."""
    monkeypatch.setattr("grpo_tta.adapters.storage.tar._MAX_GROUP", 2**12)
    members = {
        f"2026.01.01.{at:03d}.{suffix}": said(stream="door") if suffix == "json" else b"1"
        for at in range(100)
        for suffix in ("jpg", "txt", "json")
    }
    (tmp_path / "s.tar").write_bytes(packed(members))
    assert [event.stream for event in list_source(str(tmp_path))] == ["door"] * 100
