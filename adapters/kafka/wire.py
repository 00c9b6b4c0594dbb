"""One Kafka record -> one `ImageRef`, or a `BadRecord` that says why not.

Two forms. **JSON**: the value is a `schemas.ImageEvent`, its image by ``uri`` or inline. **Raw**: the value is the
image file itself, and the record says so by a header ``content_type`` of ``image/...``; the other headers are

    id               default: the coordinate
    stream           default: the record's key, as UTF-8
    event_time       RFC 3339 with an offset; default: the record's timestamp
    schema_version   default (and only value): 1
    attribute.NAME   an attribute

all in UTF-8, the last of several with one name counting; headers with other names are ignored.

The coordinate is ``topic-partition-offset`` with the offset padded to 19 digits, so that text order is log order. A
uri must be absolute, for a record has no folder, and must not point into a manifest; what else it may name is decided
by the `UriPolicy` when it is fetched.
"""

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol

from pydantic import ValidationError

from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.json_event import MAX_SHOWN, NotAnEvent, Shown, parse_event, problems, shown_object, shown_text
from grpo_tta.adapters.storage.filesystems import redacted
from grpo_tta.adapters.storage.pointers import is_pointer
from grpo_tta.checks import is_whole
from grpo_tta.schemas import ImageEvent

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:|/")
_ATTRIBUTE = "attribute."
_RAW_FIELDS = ("schema_version", "id", "stream", "event_time", "content_type")
_COORDINATE = re.compile(r"(.+)-(\d+)-(\d+)", re.DOTALL | re.ASCII)
_NO_JSON = (
    "the value is not a JSON event ({}); a record that is an image itself needs a header content_type of image/..."
)
_MAX_KEY = 256
_MAX_HEADERS = 1024


class LogRecord(Protocol):
    """What is needed of kafka-python's ``ConsumerRecord``."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    """Milliseconds since the epoch, -1 for none."""
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class Position(NamedTuple):
    """A coordinate, taken apart."""

    topic: str
    partition: int
    offset: int


def partition_name(topic: str, partition: int) -> str:
    """``topic-partition``: the name of a source partition in plans, states and outputs."""
    return f"{topic}-{partition}"


def parse_partition(name: str) -> tuple[str, int]:
    """The inverse of `partition_name`; raises ValueError."""
    topic, _, partition = name.rpartition("-")
    if not topic or not is_whole(partition):
        raise ValueError(f"expected TOPIC-PARTITION, got {name!r}")
    return topic, int(partition)


def coordinate_of(topic: str, partition: int, offset: int) -> str:
    """``topic-partition-offset``; text order of one partition's coordinates is log order."""
    return f"{partition_name(topic, partition)}-{offset:019d}"


def parse_coordinate(coordinate: str) -> Position:
    """The inverse of `coordinate_of`; raises ValueError."""
    match = _COORDINATE.fullmatch(coordinate)
    if match is None:
        raise ValueError(f"expected TOPIC-PARTITION-OFFSET, got {coordinate!r}")
    return Position(match[1], int(match[2]), int(match[3]))


class _Undecodable(Exception):
    """``stage`` and ``kind`` of the dead letter."""

    def __init__(self, kind: str, message: str, stage: str = "decode_event") -> None:
        super().__init__(message)
        self.kind = kind
        self.stage = stage


def decode_record(record: LogRecord, *, max_shown: int = MAX_SHOWN) -> ImageRef | BadRecord:
    """The event a record carries. Never raises for what a producer wrote.

    ``max_shown``: bound on the characters of a bad record's ``event``.
    """
    coordinate = coordinate_of(record.topic, record.partition, record.offset)
    headers = dict(record.headers)
    try:
        if record.value is None:
            raise _Undecodable("NullValue", "the record's value is null")
        _check_once(record, lambda name: name == "content_type")
        if (headers.get("content_type") or b"").strip().lower().startswith(b"image/"):
            return _raw(record, record.value, headers, coordinate)
        return _json(record.value, coordinate, record.offset)
    except _Undecodable as error:
        return _bad(record, error.stage, error.kind, str(error), max_shown)


def undecodable(record: LogRecord, reason: str) -> BadRecord:
    """What the client library could not decode; ``record.value`` holds its bytes as far as they are known."""
    message = f"the client library cannot decode the record: {reason}"
    return _bad(record, "decode_event", "Undecodable", message)


def _bad(record: LogRecord, stage: str, kind: str, message: str, max_shown: int = MAX_SHOWN) -> BadRecord:
    event = show_record(record, max_shown)
    coordinate = coordinate_of(record.topic, record.partition, record.offset)
    return BadRecord(coordinate, stage, kind, message, event.text, record.offset, event.truncated)


def _json(value: bytes, coordinate: str, offset: int) -> ImageRef:
    try:
        event = parse_event(value)
    except NotAnEvent as error:
        message = str(error) if error.is_json else _NO_JSON.format(error)
        raise _Undecodable("ValidationError", message) from error
    if event.uri is not None and not _ABSOLUTE.match(event.uri):
        raise _Undecodable(
            "ForbiddenUri",
            f"uri {redacted(event.uri)[:200]!r} is relative; a record of a topic needs an absolute one",
            "policy",
        )
    if event.uri is not None and is_pointer(event.uri):
        message = f"uri {redacted(event.uri)[:200]!r} ends like a pointer into a file, which only a source may give"
        raise _Undecodable("ForbiddenUri", message, "policy")
    return _ref(event, coordinate, offset, event.uri, event.data)


def _raw(record: LogRecord, value: bytes, headers: Mapping[str, bytes | None], coordinate: str) -> ImageRef:
    if not value:
        raise _Undecodable("EmptyValue", "the record's value is empty")
    _check_once(record, _is_of_event)
    fields: dict[str, Any] = {"schema_version": "1", "id": coordinate, **_from_record(record, headers)}
    attributes = {}
    for name, text in headers.items():
        if name in _RAW_FIELDS:
            fields[name] = _utf8(text, f"header {name}")
        elif name.startswith(_ATTRIBUTE):
            attributes[name.removeprefix(_ATTRIBUTE)] = _utf8(text, f"header {name}")
    try:
        # "AA==" stands for the value, which needs no decoding.
        event = ImageEvent.model_validate({**fields, "attributes": attributes or None, "data": "AA=="})
    except ValidationError as error:
        raise _Undecodable("ValidationError", problems(error)) from error
    return _ref(event, coordinate, record.offset, None, value)


def _is_of_event(header: str) -> bool:
    return header in _RAW_FIELDS or header.startswith(_ATTRIBUTE)


def _check_once(record: LogRecord, counts: Callable[[str], bool]) -> None:
    """Which of two headers of one name is meant cannot be told, where it ``counts``."""
    seen: set[str] = set()
    for name, _ in record.headers:
        if name in seen and counts(name):
            raise _Undecodable("ValidationError", f"header {name[:200]!r} is in it twice")
        seen.add(name)


def _from_record(record: LogRecord, headers: Mapping[str, bytes | None]) -> dict[str, Any]:
    """The fields that key and timestamp give where no header does."""
    fields: dict[str, Any] = {}
    if "stream" not in headers:
        if not record.key:
            raise _Undecodable("NoStream", "the record has neither a header 'stream' nor a key")
        fields["stream"] = _utf8(record.key, "the key")
    if "event_time" not in headers:
        if record.timestamp is None or record.timestamp < 0:
            raise _Undecodable("NoEventTime", "the record has neither a header 'event_time' nor a timestamp")
        try:
            fields["event_time"] = _EPOCH + timedelta(milliseconds=record.timestamp)
        except OverflowError as error:
            raise _Undecodable("NoEventTime", f"the timestamp {record.timestamp} is out of range") from error
    return fields


def _ref(event: ImageEvent, coordinate: str, offset: int, uri: str | None, data: bytes | None) -> ImageRef:
    return ImageRef(
        coordinate,
        event.id,
        event.stream,
        (event.event_time - _EPOCH) // timedelta(microseconds=1),
        uri=uri,
        data=data,
        content_type=event.content_type,
        attributes=tuple(sorted((event.attributes or {}).items())),
        size=-1 if data is None else len(data),
        position=offset,
    )


def _utf8(value: bytes | None, what: str) -> str:
    try:
        return (value or b"").decode()
    except UnicodeDecodeError as error:
        raise _Undecodable("NotUtf8", f"{what} is not UTF-8") from error


def show_record(record: LogRecord, max_shown: int = MAX_SHOWN) -> Shown:
    """A record for a dead letter: always JSON, at most ``max_shown`` characters, what is cut is cut in its value.

    Bytes that are UTF-8 appear as text, others as ``base64:...``; inline data of a JSON value and the
    secrets of a uri are left out.
    """
    key, (headers, cut) = _show(record.key, _MAX_KEY), _show_headers(record.headers)
    there = _show_value(record.value, max_shown)
    shown: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": None if record.key is None else key.text,
        "headers": headers,
        "value_bytes": None if record.value is None else len(record.value),
    }
    value, cut = there.text, cut or key.truncated or there.truncated
    while (excess := len(_text(shown, value)) - max_shown) > 0 and value:
        value, cut = value[: max(len(value) - excess, 0)], True
    for name in ("headers", "key"):
        if excess > 0:  # control characters take six characters each
            shown[name] = None
            excess = len(_text(shown, value)) - max_shown
    return Shown(_text(shown, value if record.value is not None else None), truncated=cut)


def _text(shown: dict[str, Any], value: str | None) -> str:
    return json.dumps({**shown, "value": value}, ensure_ascii=False)


def _show_headers(headers: Sequence[tuple[str, bytes | None]]) -> tuple[list[list[str | None]], bool]:
    """Names and values, and whether any of them is cut. What a header holds that no event has is not shown: it may be
    a key to something."""
    left, cut = _MAX_HEADERS, False
    shown: list[list[str | None]] = []
    for name, value in headers:
        if left <= 0:
            return shown, True
        called = shown_text(name, left)
        known = value is None or _is_of_event(name)
        held = _show(value, max(left - len(called.text), 0)) if known else Shown(f"<{len(value or b'')} bytes>")
        shown.append([called.text, None if value is None else held.text])
        cut = cut or held.truncated or called.truncated
        left -= len(called.text) + len(held.text) + 8
    return shown, cut


def _show(value: bytes | None, limit: int) -> Shown:
    """Of none an empty text."""
    try:
        return shown_text((value or b"").decode(), limit)
    except UnicodeDecodeError:
        encoded = "base64:" + base64.b64encode((value or b"")[:limit]).decode()
        return Shown(encoded, truncated=len(value or b"") > limit).cut(limit)


def _show_value(value: bytes | None, limit: int) -> Shown:
    event = None if value is None else shown_object(value)
    return _show(value, limit) if event is None else event.cut(limit)
