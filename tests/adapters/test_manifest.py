import base64
import json
import re

import fsspec
import pytest

from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.storage.fetch import Fetcher, Unreadable
from grpo_tta.adapters.storage.manifest import read_manifest, resolve
from grpo_tta.adapters.storage.pointers import BytesPointer
from grpo_tta.adapters.storage.policy import UriPolicy
from grpo_tta.adapters.storage.source import list_source

TIME = "2026-01-01T00:00:00Z"


def line(**fields):
    event = {"schema_version": "1", "id": "i", "stream": "s", "event_time": TIME, **fields}
    return json.dumps({name: value for name, value in event.items() if value is not None}, ensure_ascii=False)


def inline(data):
    return base64.b64encode(data).decode()


@pytest.fixture
def write(tmp_path):
    def make(*lines, name="m.jsonl"):
        path = tmp_path / name
        path.write_bytes("\n".join(lines).encode())
        return str(path)

    return make


def test_events_by_reference_and_inline(write, tmp_path):
    (tmp_path / "a b.jpg").write_bytes(b"file")
    url = write(
        line(id="one", uri="a b.jpg", content_type="image/jpeg", attributes={"z": "1", "a": "ü"}),
        "",
        line(id="two", data=inline(b"inline"), event_time="2026-01-01T02:00:00.25+02:00"),
        "   ",
        line(id="one", stream="other", uri="./sub/../a b.jpg"),
    )
    one, two, three = list_source(url)
    assert one.uri == f"{tmp_path}/a b.jpg"
    assert one.attributes == (("a", "ü"), ("z", "1"))
    assert one.content_type == "image/jpeg"
    assert two.event_time - one.event_time == 250_000
    assert two.data is None
    assert (one.size, two.size) == (-1, 6)
    assert (three.id, three.stream) == ("one", "other")
    assert [ref.coordinate.rpartition("#")[2] for ref in (one, two, three)] == [
        "L000000001",
        "L000000003",
        "L000000005",
    ]
    assert one.coordinate.startswith(f"{url}@")
    fetcher = Fetcher(UriPolicy.for_source(url))
    assert [fetcher.fetch(ref) for ref in (one, two, three)] == [b"file", b"inline", b"file"]


def test_a_manifest_in_a_bucket(memory_url):
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file(f"{memory_url}/in/pics/a.jpg", b"file")
    filesystem.pipe_file(
        f"{memory_url}/in/m.jsonl",
        b"\xef\xbb\xbf" + "\r\n".join([line(data=inline(b"first")), line(uri="pics/a.jpg")]).encode(),
    )
    url = f"{memory_url}/in/m.jsonl"
    refs = list(list_source(url))
    assert refs[1].uri == f"{memory_url}/in/pics/a.jpg"
    fetcher = Fetcher(UriPolicy.for_source(url))
    assert [fetcher.fetch(ref) for ref in refs] == [b"first", b"file"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Invalid JSON"),
        ("[]", "object"),
        ("null", "object"),
        ('{"schema_version": "1"}', "id: Field required"),
        (line(), "exactly one of 'uri' and 'data'"),
        (line(uri="a", data=inline(b"x")), "exactly one of 'uri' and 'data'"),
        (line(uri="a", schema_version="2"), "schema_version"),
        (line(uri="a", event_time="2026-01-01T00:00:00"), "event_time: .*is not RFC 3339 with an offset"),
        (line(uri="a", event_time="yesterday"), "event_time"),
        (line(uri="a", extra=1), "extra: Extra inputs"),
        (line(uri="a")[:-1] + ', "stream": "other"}', "key 'stream' is in it twice"),
        (line(uri="a", id=""), "id: "),
        (line(uri="a", id="x" * 2000), "id: "),
        (line(data="AAAAA"), "data: "),
        ('{"id": "\\ud800"}', "Invalid JSON"),
        (line(uri="m.jsonl#bytes=0-10"), "only the source may give"),
    ],
)
def test_a_line_that_is_no_event_does_not_stop_the_rest(write, text, message):
    url = write(line(id="before", uri="a.jpg"), text, line(id="after", uri="b.jpg"))
    before, bad, after = list_source(url)
    assert (before.id, after.id) == ("before", "after")
    assert isinstance(bad, BadRecord)
    assert bad.coordinate.endswith("#L000000002")
    assert bad.stage == ("policy" if "bytes=" in text else "decode_event")
    assert re.search(message, bad.error_message)
    assert "http" not in bad.error_message


def test_bytes_that_are_not_utf8(tmp_path):
    (tmp_path / "m.jsonl").write_bytes(b'\xff\xfe{"id"\n' + line(uri="a.jpg").encode())
    bad, good = list_source(str(tmp_path / "m.jsonl"))
    assert isinstance(bad, BadRecord)
    assert isinstance(good, ImageRef)


def test_a_line_beyond_the_bound_is_skipped_not_held(write):
    url = write(line(uri="a.jpg"), line(data="A" * 100_000), line(id="last", data=inline(b"x")))
    _, bad, last = read_manifest(url, max_line=1000)
    assert bad.error_message == "the line is longer than 1000 bytes"
    assert len(bad.event) <= 4096
    assert Fetcher(UriPolicy.for_source(url)).fetch(last) == b"x"


def test_a_dead_letter_does_not_repeat_inline_data(write):
    (bad,) = list_source(write(line(data="A" * 5000, extra=1)))
    assert json.loads(bad.event)["data"] == "<5000 characters>"


def test_a_manifest_that_changed_since_it_was_listed(write):
    url = write(line(id="a", data=inline(b"1")), line(id="b", data=inline(b"2")))
    _, ref = list_source(url)
    fetcher = Fetcher(UriPolicy.for_source(url))
    write(line(id="x", data=inline(b"1")), line(id="y", data=inline(b"2")))
    with pytest.raises(Unreadable, match="changed since it was listed"):
        fetcher.fetch(ref)
    write("short")
    with pytest.raises(Unreadable, match="changed since it was listed"):
        fetcher.fetch(ref)


@pytest.mark.parametrize(
    ("manifest", "uri", "expected"),
    [
        ("/d/m.jsonl", "a.jpg", "/d/a.jpg"),
        ("/d/m.jsonl", "../a.jpg", "/d/../a.jpg"),
        ("/m.jsonl", "a.jpg", "/a.jpg"),
        ("/d/m.jsonl", "/x/a.jpg", "/x/a.jpg"),
        ("/d/m.jsonl", "file:///x/a.jpg", "file:///x/a.jpg"),
        ("s3://b/d/m.jsonl", "x/a.jpg", "s3://b/d/x/a.jpg"),
        ("s3://b/m.jsonl", "a.jpg", "s3://b/a.jpg"),
        ("s3://b/m.jsonl", "gs://c/a.jpg", "gs://c/a.jpg"),
    ],
)
def test_relative_uris(manifest, uri, expected):
    assert resolve(manifest, uri) == expected


def test_pointers():
    pointer = BytesPointer("s3://b/m.jsonl", 10, 20)
    assert BytesPointer.parse(pointer.uri) == pointer
    assert BytesPointer.parse("/d/a.jpg") is None
    assert BytesPointer.parse("/d/a#bytes=1-2.jpg") is None


@pytest.mark.parametrize(
    "text",
    [
        line(uri="https://user:HUNTER2@host/a.jpg?sig=HUNTER2", stream=""),
        line(uri="https://user:HUNTER2@host/m.jsonl#bytes=0-10"),
        line(uri="https://user:HUNTER2@host/a.jpg")[:-1],
        line(uri="https://user:HUNTER2@host/a.jpg", id="x" * 5000),
    ],
)
def test_a_bad_line_is_shown_without_its_secrets(write, text):
    for limit in (100, 10**6):
        (bad,) = read_manifest(write(text), max_line=limit)
        assert isinstance(bad, BadRecord)
        assert "HUNTER2" not in bad.event + bad.error_message
        assert len(bad.event) <= 4096
