import base64
import json
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from grpo_tta.schemas import Counters, ImageEvent, LabeledImage

EVENT = {"schema_version": "1", "id": "a", "stream": "cam", "event_time": "2026-01-01T02:00:00+02:00"}


def parse(**changes: object) -> ImageEvent:
    return ImageEvent.model_validate_json(json.dumps({**EVENT, **changes}))


def test_an_event_by_reference_keeps_its_uri_and_has_its_time_in_utc() -> None:
    event = parse(uri="x/1.jpg")
    assert event.uri == "x/1.jpg"
    assert event.data is None
    assert event.event_time == datetime(2026, 1, 1, tzinfo=UTC)


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
