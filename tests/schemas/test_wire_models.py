import base64
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError

from grpo_tta.schemas import Counters, ImageEvent, LabeledImage
from grpo_tta.schemas.events import ImageSidecar

EVENT = {"schema_version": "1", "id": "a", "stream": "cam", "event_time": "2026-01-01T02:00:00+02:00"}


def parse(**changes: object) -> ImageEvent:
    return ImageEvent.model_validate_json(json.dumps({**EVENT, **changes}))


def test_an_event_by_reference_keeps_its_uri_and_has_its_time_in_utc() -> None:
    event = parse(uri="x/1.jpg")
    assert event.uri == "x/1.jpg"
    assert event.data is None
    assert event.event_time == datetime(2026, 1, 1, tzinfo=UTC)


RFC_3339 = [
    ("2026-01-01T06:00:32Z", "2026-01-01T06:00:32.000000Z"),
    ("2026-01-01t06:00:32z", "2026-01-01T06:00:32.000000Z"),
    ("2026-01-01 08:00:32.5+02:00", "2026-01-01T06:00:32.500000Z"),
    ("2026-01-01T02:30:32-03:30", "2026-01-01T06:00:32.000000Z"),
    ("2026-01-01T06:00:32-00:00", "2026-01-01T06:00:32.000000Z"),
    ("2026-01-01T06:00:32.1234569999999Z", "2026-01-01T06:00:32.123456Z"),
    ("2025-12-31T23:59:60Z", "2026-01-01T00:00:00.000000Z"),
    ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
]
NO_RFC_3339 = [
    "", "now", "20260101", "20260101120000", "202601011200", "2026-01-01", "2026-01-01T06:00Z", "2026-W01-1T06:00:00Z",
    "2026-001T06:00:00Z", "20260101T060032Z", "2026-01-01T06:00:32", "2026-01-01T06:00:32+02",
    "2026-01-01T06:00:32+0200",
    "2026-01-01_06:00:32Z", "2026-01-01T06:00:32,5Z", "2026-01-01T06:00:32.Z", "2026-01-01T24:00:00Z",
    "2026-01-01T12:00:60Z", "2026-01-01T06:00:32+24:00", "2026-01-01T06:00:32+02:60", "2026-01-01T06:00:32 Z",
    " 2026-01-01T06:00:32Z", "2026-01-01T06:00:32Z\n", "2026-1-1T06:00:32Z", "2026-02-30T06:00:32Z",
    "0001-01-01T00:00:00+00:01", "9999-12-31T23:59:60Z", "10000-01-01T00:00:00Z", "0000-01-01T00:00:00Z",
    "1767247232", "1767247232000", "-62135596800", "1e9", "\u0662\u0660\u0662\u0666-01-01T06:00:32Z",
]  # fmt: skip


@pytest.mark.parametrize(("text", "utc"), RFC_3339)
def test_times_that_are_rfc_3339(text: str, utc: str) -> None:
    assert parse(uri="a", event_time=text).model_dump(mode="json")["event_time"] == utc
    assert ImageSidecar(event_time=text) == ImageSidecar.model_validate_json(json.dumps({"event_time": text}))


@pytest.mark.parametrize("text", NO_RFC_3339)
def test_any_other_spelling_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValidationError, match=r"2026-01-31T06:00:00Z|out of range in UTC") as caught:
        parse(uri="a", event_time=text)
    assert repr(text) in caught.value.errors()[0]["msg"]


@pytest.mark.parametrize("value", [20260101, 1767247232, 1767247232000, -62135596800, 0, 1.5, True, None, [], {}])
def test_a_time_that_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(ValidationError, match="expected a text, RFC 3339 with an offset"):
        parse(uri="a", event_time=value)


def test_a_time_of_a_program_needs_its_offset() -> None:
    local = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert ImageSidecar(event_time=local).event_time == datetime(2026, 1, 1, tzinfo=UTC)
    for value in (datetime(2026, 1, 1), datetime(1, 1, 1, tzinfo=local.tzinfo)):
        with pytest.raises(ValidationError, match=r"has no offset|is out of range"):
            ImageSidecar(event_time=value)


def test_inline_data_survives_a_round_trip() -> None:
    data = bytes(range(256))
    event = parse(data=base64.b64encode(data).decode())
    assert event.data == data
    assert ImageEvent.model_validate_json(event.model_dump_json(exclude_none=True)) == event


@pytest.mark.parametrize("text", ["***", "aGk", "a Gk=", "aGk=\n", "aG-_", "é"])
def test_what_is_not_base64_to_the_letter_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="not base64"):
        parse(data=text)


@pytest.mark.parametrize("payload", [{}, {"uri": "a", "data": "aGk="}])
def test_exactly_one_of_uri_and_data(payload: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="exactly one of 'uri' and 'data'"):
        parse(**payload)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"schema_version": "2"}, "schema_version"),
        ({"schema_version": 1}, "schema_version"),
        ({"id": ""}, "id"),
        ({"stream": "s" * 257}, "stream"),
        ({"event_time": "2026-01-01T00:00:00"}, "event_time"),
        ({"event_time": "0001-01-01T00:00:00+02:00"}, "event_time"),
        ({"uri": "u" * 4097}, "uri"),
        ({"label": "cat"}, "label"),
        ({"attributes": {"a": 1}}, "attributes"),
        ({"attributes": {str(number): "" for number in range(65)}}, "attributes"),
        ({"attributes": {"a": "x" * 16_384}}, "attributes"),
    ],
)
def test_a_bad_field_is_named(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parse(**{"uri": "a", **changes})
    assert {str(error["loc"][0]) for error in caught.value.errors()} == {named}


def test_attributes_up_to_their_bound_are_an_event() -> None:
    attributes = {"a": "x" * 16_257, **{f"{number:02d}": "" for number in range(63)}}
    assert parse(uri="a", attributes=attributes).attributes == attributes


def test_times_are_written_so_that_text_order_is_time_order() -> None:
    early, late = parse(uri="a", event_time="2026-01-01T00:00:00Z"), parse(uri="a", event_time="2026-01-01T00:00:00.5Z")
    texts = [json.loads(event.model_dump_json())["event_time"] for event in (early, late)]
    assert texts == ["2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:00.500000Z"]


def test_a_probability_outside_0_to_1_is_no_label() -> None:
    record = {
        "coordinate": "a@1",
        "id": "a",
        "stream": "s",
        "event_time": "2026-01-01T00:00:00Z",
        "window_start": "2026-01-01T00:00:00Z",
        "window_end": "2026-01-01T00:01:00Z",
        "label": "cat",
        "probability": 1.1,
        "top_k": [],
        "model_fingerprint": "f",
        "method": "zero-shot",
        "update_count": 0,
    }
    with pytest.raises(ValidationError, match="probability"):
        LabeledImage.model_validate(record)


def test_counters_add_field_by_field_and_cause_by_cause() -> None:
    one = Counters(events=3, labels=2, dead_letters=1, resets={"shift": 1}, forward_equivalents=8.0, seconds=0.5)
    two = Counters(events=1, labels=1, resets={"shift": 2, "collapse": 1}, seconds=0.25)
    assert one.plus(two) == Counters(
        events=4,
        labels=3,
        dead_letters=1,
        resets={"collapse": 1, "shift": 3},
        forward_equivalents=8.0,
        seconds=0.75,
    )
