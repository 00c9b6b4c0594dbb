import base64
import json
import re

import pytest
from kafka_fakes import Record

from grpo_tta.adapters.coders import BadRecordCoder, ImageRefCoder
from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.kafka.wire import (
    coordinate_of,
    decode_record,
    parse_coordinate,
    parse_partition,
    partition_name,
    show_record,
)

TIME = "2026-01-01T00:00:00Z"
MICROSECONDS = 1_767_225_600_000_000


def event(**fields):
    given = {"schema_version": "1", "id": "i", "stream": "s", "event_time": TIME, "uri": "s3://b/a.jpg", **fields}
    return json.dumps({name: value for name, value in given.items() if value is not None}).encode()


def raw(value=b"\xff\xd8jpeg", key=b"cam", timestamp=1_767_225_600_123, **headers):
    pairs = {"content_type": b"image/jpeg", **headers}
    given = tuple((name.replace("__", "."), text) for name, text in pairs.items() if text is not None)
    return Record(key=key, value=value, timestamp=timestamp, headers=given)


def test_coordinates_sort_in_log_order_and_come_apart():
    offsets = [2**63 - 1, 10, 9, 0, 10**12]
    coordinates = [coordinate_of("images-2", 3, offset) for offset in offsets]
    assert sorted(coordinates) == [coordinate_of("images-2", 3, offset) for offset in sorted(offsets)]
    assert coordinates[2] == "images-2-3-0000000000000000009"
    assert parse_coordinate(coordinates[2]) == ("images-2", 3, 9)
    assert parse_partition(partition_name("images-2", 3)) == ("images-2", 3)


@pytest.mark.parametrize("text", ["", "images", "images-", "-3", "images-x"])
def test_names_that_are_no_partition(text):
    with pytest.raises(ValueError, match="expected TOPIC-PARTITION"):
        parse_partition(text)


def test_a_json_event_by_reference():
    value = event(content_type="image/png", attributes={"z": "1", "a": "ü"})
    assert decode_record(Record(offset=7, value=value)) == ImageRef(
        "images-0-0000000000000000007",
        "i",
        "s",
        MICROSECONDS,
        uri="s3://b/a.jpg",
        content_type="image/png",
        attributes=(("a", "ü"), ("z", "1")),
        position=7,
    )


def test_a_json_event_with_inline_data():
    ref = decode_record(Record(value=event(uri=None, data=base64.b64encode(b"jpeg").decode())))
    assert (ref.data, ref.uri, ref.size) == (b"jpeg", None, 4)
    assert ImageRefCoder().decode(ImageRefCoder().encode(ref)) == ref


def test_a_raw_image_with_what_the_record_itself_says():
    assert decode_record(raw()) == ImageRef(
        "images-0-0000000000000000007",
        "images-0-0000000000000000007",
        "cam",
        1_767_225_600_123_000,
        data=b"\xff\xd8jpeg",
        content_type="image/jpeg",
        size=6,
        position=7,
    )


def test_a_raw_image_with_everything_in_headers():
    record = raw(
        key=None,
        timestamp=-1,
        id="ü".encode(),
        stream=b"s",
        event_time=b"2026-01-01T01:00:00+01:00",
        schema_version=b"1",
        attribute__z=b"1",
        attribute__a=b"2",
        traceparent=b"\xff ignored",
    )
    ref = decode_record(record)
    assert (ref.id, ref.stream, ref.event_time) == ("ü", "s", MICROSECONDS)
    assert ref.attributes == (("a", "2"), ("z", "1"))


@pytest.mark.parametrize("kind", [b"Image/JPEG", b" image/png", b"IMAGE/x; q=1"])
def test_media_types_are_compared_without_case(kind):
    assert decode_record(raw(content_type=kind)).data == b"\xff\xd8jpeg"


@pytest.mark.parametrize("name", ["stream", "content_type", "attribute.a"])
def test_a_header_twice_in_a_raw_image_is_a_dead_letter(name):
    record = raw(**{name: b"image/png"})
    bad = decode_record(record._replace(headers=(*record.headers, (name, b"image/jpeg"))))
    assert (bad.error_class, bad.error_message) == ("ValidationError", f"header {name!r} is in it twice")


def test_headers_that_no_event_has_may_come_twice():
    record = raw()
    assert isinstance(decode_record(record._replace(headers=record.headers + (("trace", b"1"),) * 2)), ImageRef)


@pytest.mark.parametrize(
    ("record", "kind", "message"),
    [
        (Record(value=None), "NullValue", "is null"),
        (Record(value=b""), "ValidationError", "not a JSON event .* header content_type of image/"),
        (Record(value=b"\xff\xd8jpeg"), "ValidationError", "not a JSON event .* header content_type of image/"),
        (Record(value=b"[]"), "ValidationError", "object"),
        (Record(value=b"null"), "ValidationError", "object"),
        (Record(value=b'{"schema_version": "1"}'), "ValidationError", "id: Field required"),
        (Record(value=event(schema_version="2")), "ValidationError", "schema_version"),
        (Record(value=event(schema_version=None)), "ValidationError", "schema_version: Field required"),
        (Record(value=event(uri=None)), "ValidationError", "exactly one of 'uri' and 'data'"),
        (Record(value=event(data="AAAA")), "ValidationError", "exactly one of 'uri' and 'data'"),
        (Record(value=event(uri=None, data="AAAAA")), "ValidationError", "data: .*base64"),
        (
            Record(value=event(event_time="2026-01-01T00:00:00")),
            "ValidationError",
            "event_time: .*is not RFC 3339 with an offset",
        ),
        (Record(value=event(extra=1)), "ValidationError", "extra: Extra inputs"),
        (Record(value=event(id="x" * 2000)), "ValidationError", "id: "),
        (Record(value=b"[" * 100_000), "ValidationError", "not a JSON event"),
        (raw(b""), "EmptyValue", "is empty"),
        (raw(key=None), "NoStream", "neither a header 'stream' nor a key"),
        (raw(key=b""), "NoStream", "neither a header 'stream' nor a key"),
        (raw(key=b"\xff"), "NotUtf8", "the key is not UTF-8"),
        (raw(id=b"\xff"), "NotUtf8", "header id is not UTF-8"),
        (raw(stream=b""), "ValidationError", "stream: "),
        (raw(timestamp=-1), "NoEventTime", "nor a timestamp"),
        (raw(timestamp=2**62), "NoEventTime", "out of range"),
        (raw(event_time=b"2026-01-01T00:00:00"), "ValidationError", "event_time: .*is not RFC 3339 with an offset"),
        (raw(event_time=b"soon"), "ValidationError", "event_time"),
        (raw(schema_version=b"2"), "ValidationError", "schema_version"),
        (raw(content_type=b"image/" + b"x" * 200), "ValidationError", "content_type"),
    ],
)
def test_what_is_no_event(record, kind, message):
    bad = decode_record(record)
    assert isinstance(bad, BadRecord)
    assert (bad.coordinate, bad.stage, bad.position) == ("images-0-0000000000000000007", "decode_event", 7)
    assert bad.error_class == kind
    assert re.search(message, bad.error_message)
    assert json.loads(bad.event)["value_bytes"] == (None if record.value is None else len(record.value))
    assert BadRecordCoder().decode(BadRecordCoder().encode(bad)) == bad


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("a.jpg", "relative"),
        ("../etc/passwd", "relative"),
        ("b/c:d.jpg", "relative"),
        ("/data/m.jsonl#bytes=0-10", "only a source may give"),
    ],
)
def test_uris_that_a_record_may_not_give(uri, message):
    bad = decode_record(Record(value=event(uri=uri)))
    assert (bad.stage, bad.error_class) == ("policy", "ForbiddenUri")
    assert message in bad.error_message


def test_a_dead_letter_shows_key_headers_and_value():
    record = Record(
        key=b"\xff\x00",
        value=b"caf\xc3\xa9",
        headers=(("id", b"1"), ("b", None), ("attribute.c", b"\xff"), ("Authorization", b"Bearer HUNTER2")),
    )
    text, truncated = show_record(record)
    assert not truncated
    assert json.loads(text) == {
        "topic": "images",
        "partition": 0,
        "offset": 7,
        "timestamp": 1_767_225_600_000,
        "key": "base64:/wA=",
        "headers": [["id", "1"], ["b", None], ["attribute.c", "base64:/w=="], ["Authorization", "<14 bytes>"]],
        "value_bytes": 5,
        "value": "café",
    }


def test_a_dead_letter_does_not_repeat_inline_data():
    bad = decode_record(Record(value=event(data="A" * 5000)))
    assert bad.truncated
    shown = json.loads(bad.event)
    assert json.loads(shown["value"])["data"] == "<5000 characters>"


@pytest.mark.parametrize(
    "record",
    [
        Record(value=b"x" * 3_000_000),
        Record(value=b"\x00" * 3_000_000),
        Record(value=b"\xff" * 3_000_000),
        Record(value='"\\ü'.encode() * 100_000),
        Record(key=b"\x01" * 10_000, value=b"v", headers=tuple((f"{n}" * 50, b"\x01" * 900) for n in range(50))),
        Record(topic="t" * 249, key=b"\x01" * 9999, value=None, headers=(("h" * 9999, b"\x01" * 9999),)),
    ],
)
@pytest.mark.parametrize("bound", [4096, 1000])
def test_a_dead_letter_is_json_within_its_bound(record, bound):
    text, truncated = show_record(record, bound)
    assert truncated
    assert len(text) <= bound
    assert json.loads(text)["offset"] == 7


def test_a_large_value_is_shown_as_far_as_the_bound_goes():
    shown = json.loads(show_record(Record(value=b"x" * 3_000_000)).text)
    assert shown["value_bytes"] == 3_000_000
    assert len(shown["value"]) > 3800


@pytest.mark.parametrize(
    "value",
    [
        event(uri="https://user:HUNTER2@host/a.jpg?sig=HUNTER2", stream=""),
        event(uri="https://user:HUNTER2@host/m.jsonl#bytes=0-10"),
        event(uri="https://user:HUNTER2@host/a.jpg")[:-1],
        rb'{"uri": "https:\u002f\u002fuser:HUNTER2@host/a.jpg"',
        rb'{"uri": "https:\/\/user\u003aHUNTER2\u0040host/a.jpg?a\u003dHUNTER2"',
        b'{"uri": "https%3A%2F%2Fhost%2Fx%3Fsig%3DHUNTER2"',
        b"https%253a%252F%252fhost%252Fx%253Fsig%253DHUNTER2",
        event(uri="s3://host/a.jpg", password="HUNTER2"),
    ],
)
def test_a_dead_letter_does_not_tell_a_password(value):
    bad = decode_record(Record(value=value))
    assert isinstance(bad, BadRecord)
    assert "HUNTER2" not in bad.event + bad.error_message
    assert "host" in bad.event


@pytest.mark.parametrize("text", [b"20260101120000", b"20260101", b"1767225600", b"", b"2026-01-01", None])
def test_a_time_that_is_not_rfc_3339_is_a_dead_letter(text):
    for record in (raw(event_time=text or b""), Record(value=event(event_time=(text or b"").decode()))):
        bad = decode_record(record)
        assert (bad.stage, bad.error_class) == ("decode_event", "ValidationError")
        assert "is not RFC 3339 with an offset, like 2026-01-31T06:00:00Z" in bad.error_message


@pytest.mark.parametrize("number", [20260101, 1767225600, 1767225600000, -62135596800])
def test_a_number_is_no_time_of_an_event(number):
    bad = decode_record(Record(value=event(event_time=number)))
    assert (bad.error_class, "expected a text, RFC 3339" in bad.error_message) == ("ValidationError", True)


@pytest.mark.parametrize("key", ["id", "stream", "event_time", "uri", "schema_version"])
def test_a_key_twice_in_an_event_is_a_dead_letter(key):
    value = event()[:-1] + json.dumps({key: json.loads(event())[key]}).encode().replace(b"{", b", ", 1)
    bad = decode_record(Record(value=value))
    assert (bad.stage, bad.error_class) == ("decode_event", "ValidationError")
    assert bad.error_message == f"key {key!r} is in it twice"
    inner = decode_record(Record(value=event()[:-1] + b', "attributes": {"a": "1", "a": "1"}}'))
    assert inner.error_message == "key 'a' is in it twice"


def test_a_byte_order_mark_before_an_event_is_passed_over():
    marked, secret = b"\xef\xbb\xbf" + event(), b"\xef\xbb\xbf" + event(uri="https://h/a?sig=HUNTER2", extra=1)
    assert decode_record(Record(value=marked)) == decode_record(Record(value=event()))
    bad = decode_record(Record(value=secret))
    assert isinstance(bad, BadRecord)
    assert "HUNTER2" not in bad.event
