import os

import fsspec
import pytest

from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.storage import filesystems
from grpo_tta.adapters.storage.fetch import Fetcher, ForbiddenByPolicy
from grpo_tta.adapters.storage.passed import UNREADABLE, PassedOver
from grpo_tta.adapters.storage.policy import UriPolicy
from grpo_tta.adapters.storage.source import SourceError, list_arrivals, list_source

MIDNIGHT = 1_767_225_600_000_000


def listed(url, **options):
    return sorted(list_source(str(url), **options))


def ids(url, **options):
    return [record.id for record in listed(url, **options)]


@pytest.fixture
def feed(tmp_path, touch):
    root = tmp_path / "my feed"
    for name in ("cam1/a.jpg", "cam1/b.JPEG", "cam 2/ü und é.png", "cam 2/deep/x.tif", "root.webp", "cam1/text.jpg"):
        touch(root / name)
    for name in ("truth.jsonl", "cam1/notes.txt", "cam1/.hidden.jpg", ".cache/c.jpg", "cam1/jpg", "cam1/.x/d.jpg"):
        touch(root / name)
    (root / "empty").mkdir()
    return root


EVENTS = ["cam 2/deep/x.tif", "cam 2/ü und é.png", "cam1/a.jpg", "cam1/b.JPEG", "cam1/text.jpg", "root.webp"]


def test_a_folder_is_its_images(feed):
    assert ids(feed) == EVENTS
    assert ids(f"{feed}/") == EVENTS
    assert ids(f"file://{str(feed).replace(' ', '%20')}") == EVENTS


def test_what_an_event_carries(feed):
    events = {event.id: event for event in listed(feed)}
    status = os.stat(feed / "cam1/a.jpg")
    assert events["cam1/a.jpg"] == ImageRef(
        coordinate=f"{feed}/cam1/a.jpg@{status.st_mtime_ns}-1",
        id="cam1/a.jpg",
        stream="cam1",
        event_time=MIDNIGHT,
        uri=f"{feed}/cam1/a.jpg",
        size=1,
    )
    assert events["cam 2/deep/x.tif"].stream == "cam 2"
    assert events["root.webp"].stream == "default"
    assert len({event.coordinate for event in events.values()}) == len(EVENTS)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*/*.jpg", ["cam1/a.jpg", "cam1/text.jpg"]),
        ("**/*.jpg", ["cam1/a.jpg", "cam1/text.jpg"]),
        ("**/*.[jt]*", ["cam 2/deep/x.tif", "cam1/a.jpg", "cam1/text.jpg"]),
        ("*", ["root.webp"]),
        ("**", EVENTS),
        ("cam?/*", ["cam1/a.jpg", "cam1/b.JPEG", "cam1/text.jpg"]),
        ("*/deep/*", ["cam 2/deep/x.tif"]),
        ("*/*/x.tif", ["cam 2/deep/x.tif"]),
    ],
)
def test_a_glob_is_relative_to_its_fixed_part(feed, pattern, expected):
    assert ids(f"{feed}/{pattern}") == expected


def test_a_glob_below_a_fixed_folder(feed):
    assert ids(f"{feed}/cam1/*.jpg") == ["a.jpg", "text.jpg"]


def test_a_folder_named_with_brackets_is_no_glob(tmp_path, touch):
    touch(tmp_path / "feed [1]" / "cam" / "a.jpg")
    assert ids(tmp_path / "feed [1]") == ["cam/a.jpg"]


def test_a_single_file(feed):
    (event,) = listed(feed / "cam1" / "a.jpg")
    assert (event.id, event.stream) == ("a.jpg", "default")
    assert UriPolicy.for_source(str(feed / "cam1" / "a.jpg")).check(event.uri) == event.uri


def test_patterns_tell_stream_and_time(tmp_path, touch):
    touch(tmp_path / "site" / "c7_2026-01-01T06-00-32.000Z.jpg")
    touch(tmp_path / "site" / "c7_sometime.jpg")
    touch(tmp_path / "site" / "strange.jpg")
    good, *bad = sorted(
        list_source(str(tmp_path), stream_pattern=r"/(?P<stream>[^/_]+)_", time_pattern=r"_(?P<time>[^/]+)\.jpg$"),
        key=lambda record: isinstance(record, BadRecord),
    )
    assert (good.stream, good.event_time) == ("c7", MIDNIGHT + (6 * 3600 + 32) * 1_000_000)
    assert {(record.stage, record.error_class) for record in bad} == {("source", "ValueError")}
    messages = sorted(record.error_message for record in bad)
    assert "finds no stream in 'site/strange.jpg'" in messages[0]
    assert "time 'sometime' is neither RFC 3339" in messages[1]
    assert all(record.coordinate.startswith(str(tmp_path)) and "@" in record.coordinate for record in bad)


def test_links(feed, tmp_path, touch):
    outside = touch(tmp_path / "outside" / "secret.jpg")
    (feed / "cam1" / "out.jpg").symlink_to(outside)
    (feed / "cam1" / "in.jpg").symlink_to(feed / "cam1" / "a.jpg")
    (feed / "cam1" / "nowhere.jpg").symlink_to(feed / "gone.jpg")
    (feed / "linked").symlink_to(outside.parent)
    records = {record.coordinate.rpartition("/")[2].partition("@")[0]: record for record in listed(feed)}
    assert len(records) == len(EVENTS) + 3
    assert records["nowhere.jpg"].error_class == "FileNotFoundError"
    fetcher = Fetcher(UriPolicy.for_source(str(feed)))
    assert fetcher.fetch(records["in.jpg"]) == b"x"
    with pytest.raises(ForbiddenByPolicy, match=r"secret.jpg"):
        fetcher.fetch(records["out.jpg"])


def test_what_cannot_be_looked_at_is_a_bad_record_and_the_rest_is_read(feed, monkeypatch):
    (feed / "cam1" / "loop.jpg").symlink_to("loop.jpg")
    (feed / "cam1" / "loop").symlink_to("loop")
    (feed / "cam1" / "far.jpg").symlink_to("x" * 4000)
    (feed / "cam1" / "upwards").symlink_to(feed)
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    passed = PassedOver()
    records = sorted(list_source(str(feed), passed=passed))
    bad = {record.coordinate.removeprefix(f"{feed}/"): record for record in records if isinstance(record, BadRecord)}
    assert {name: record.error_message for name, record in bad.items()} == {
        "cam1/loop.jpg@unreadable": "the file cannot be looked at: Too many levels of symbolic links",
        "cam1/far.jpg@unreadable": "the file cannot be looked at: File name too long",
        "cam 2/deep/@unreadable": "the folder cannot be listed: Permission denied",
    }
    assert [record.id for record in records if isinstance(record, ImageRef)] == [
        name for name in EVENTS if "deep" not in name
    ]
    assert passed.plain() == {
        "(hidden)": 3, "(linked folder)": 1, "(no suffix)": 2, ".jsonl": 1, ".txt": 1
    }  # fmt: skip
    assert all(isinstance(found.record, ImageRef) for found in list_arrivals(str(feed), passed=passed))
    assert passed.counts["(unreadable)"] == 3


def test_what_is_passed_over_is_counted_by_suffix_within_bounds_and_said_once(tmp_path, touch, caplog):
    for number in range(70):
        touch(tmp_path / f"a.{number}")
    for name in ("b.TXT", "c.txt", "d.very-long-suffix", "e", "f.jpg"):
        touch(tmp_path / name)
    passed = PassedOver()
    passed.add(UNREADABLE, "g")
    with caplog.at_level("DEBUG", logger="grpo_tta.adapters.storage.passed"):
        assert len(list(list_source(f"{tmp_path}/*", passed=passed))) == 1
        passed.say("here")
        passed.say("here", passed)
    assert len(passed.counts) <= 52
    assert sum(passed.counts.values()) == 75
    assert len(caplog.records) == len(passed.counts)
    assert [record.levelname for record in caplog.records if record.levelname != "DEBUG"] == ["WARNING"]
    assert list(list_source(f"{tmp_path}/*.jpg", passed=(none := PassedOver())))
    assert not none.counts


def test_a_linked_root_is_followed(feed, tmp_path):
    (tmp_path / "link").symlink_to(feed)
    assert ids(tmp_path / "link") == EVENTS
    fetcher = Fetcher(UriPolicy.for_source(str(tmp_path / "link")))
    assert all(fetcher.fetch(event) == b"x" for event in listed(tmp_path / "link"))


def test_names_that_cannot_be_written_down(tmp_path):
    folder = os.fsencode(tmp_path) + b"/cam"
    os.mkdir(folder)
    for name in (b"\xff\xfe.jpg", b"x" * 200 + b".jpg"):
        with open(folder + b"/" + name, "wb") as file:
            file.write(b"x")
    good, bad = sorted(list_source(str(tmp_path)), key=lambda record: isinstance(record, BadRecord))
    assert good.id == f"cam/{'x' * 200}.jpg"
    assert bad.error_message == "the file's name is not UTF-8"
    assert "\\udcff\\udcfe.jpg@" in bad.coordinate
    bad.coordinate.encode()


def test_an_id_that_is_too_long(tmp_path, touch):
    folder = tmp_path
    for _ in range(6):
        folder = folder / ("d" * 200)
    touch(folder / "a.jpg")
    (bad,) = listed(tmp_path)
    assert bad.error_message == "the id has 1211 characters, the limit is 1024"


def test_a_bucket(memory_url):
    filesystem = fsspec.filesystem("memory")
    for name in ("cam1/a.jpg", "cam1/sub/b b.PNG", "cam2/ü.gif", "root.bmp", "cam1/x.txt", ".h/c.jpg", "cam1/.d.jpg"):
        filesystem.pipe_file(f"{memory_url}/feed/{name}", b"12345")
    expected = ["cam1/a.jpg", "cam1/sub/b b.PNG", "cam2/ü.gif", "root.bmp"]
    assert ids(f"{memory_url}/feed") == expected
    assert ids(f"{memory_url}/feed/cam1/**") == ["a.jpg", "sub/b b.PNG"]
    assert ids(f"{memory_url}/feed/*/*.jpg") == ["cam1/a.jpg"]
    assert ids(f"{memory_url}/feed/cam1/a.jpg") == ["a.jpg"]
    event = listed(f"{memory_url}/feed")[0]
    assert event.uri == f"{memory_url}/feed/cam1/a.jpg"
    assert event.coordinate.startswith(f"{event.uri}@")
    assert event.size == 5
    assert abs(event.event_time - filesystem.modified(event.uri).timestamp() * 1e6) < 1e6
    fetcher = Fetcher(UriPolicy.for_source(f"{memory_url}/feed"))
    assert all(fetcher.fetch(event) == b"12345" for event in listed(f"{memory_url}/feed"))


def test_versions_and_times_as_stores_tell_them():
    assert filesystems.version_of({"ETag": '"abc"', "size": 3}) == "abc"
    assert filesystems.version_of({"etag": "xyz", "generation": "17"}) == "17"
    assert filesystems.version_of({"mtime": 1.5, "size": 3}) == "1500000-3"
    assert filesystems.modified_of({"updated": "2026-01-01T00:00:00.000Z"}) == MIDNIGHT
    assert filesystems.modified_of({"mtime": "nonsense", "created": 2}) == 2_000_000
    assert filesystems.modified_of({}) is None


@pytest.mark.parametrize("name", ["missing", "missing/*.jpg", "missing.jsonl", "missing.jpg"])
def test_a_missing_source_is_named(tmp_path, memory_url, name):
    for root in (str(tmp_path), memory_url):
        with pytest.raises(SourceError, match=r"source '.*missing.*' does not exist"):
            list(list_source(f"{root}/{name}"))


def test_an_empty_source_is_named(tmp_path, touch):
    touch(tmp_path / "readme.txt")
    touch(tmp_path / "m.jsonl", b"\n \n")
    with pytest.raises(SourceError, match=r"holds no image \(.jpg"):
        list(list_source(str(tmp_path)))
    with pytest.raises(SourceError, match=r"m.jsonl' holds no event"):
        list(list_source(str(tmp_path / "m.jsonl")))
    assert list(list_source(str(tmp_path), allow_empty=True)) == []


def test_a_source_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match=r"may not be read.*Permission denied"):
        list(list_source(str(tmp_path)))


def test_an_error_of_the_store_is_named(monkeypatch):
    class NoCredentialsError(Exception):
        pass

    def refuse(_):
        raise NoCredentialsError("Unable to locate credentials")

    monkeypatch.setattr("grpo_tta.adapters.storage.source.open_filesystem", refuse)
    with pytest.raises(SourceError, match="'s3://bucket/x' cannot be listed: NoCredentialsError: Unable to locate"):
        list(list_source("s3://bucket/x"))


def test_a_missing_extra_is_named(monkeypatch):
    def missing(*_, **__):
        raise ImportError("Please install s3fs")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(SourceError, match=r"s3://: .*'make extras EXTRAS=s3'"):
        list(list_source("s3://bucket/x"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "must be a folder"),
        ("simplecache::s3://b/x", "must be a folder"),
        ("https://host/x", "cannot be listed; name its files in a manifest"),
        ("file://host/x", "names the host 'host'"),
    ],
)
def test_bad_urls_are_refused_before_anything_is_read(url, message):
    with pytest.raises(ValueError, match=message):
        list_source(url)


def test_an_unknown_scheme_is_named():
    with pytest.raises(SourceError, match="unknown scheme 'nosuch'"):
        list(list_source("nosuch://x"))
