"""Events as a pipeline has them -> `ImageRef`, or a `BadRecord` that says why not."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from apache_beam.utils.timestamp import Timestamp
from pydantic import ValidationError

from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.json_event import problems, shown
from grpo_tta.adapters.storage.filesystems import redacted
from grpo_tta.adapters.storage.pointers import is_pointer
from grpo_tta.schemas import ImageEvent

Event = Any
"""`ImageEvent`, a mapping or ``beam.Row`` with its fields, or what a source of this package gives."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ENCODED = "AA=="
"""Stands for bytes that are there already."""


def to_ref(event: Event) -> ImageRef | BadRecord:
    """``coordinate``, which names an event in every record about it, is its own field of a mapping or row, and by
    default the event's id. Raises ``TypeError`` for what is no event of any kind."""
    if isinstance(event, ImageRef | BadRecord):
        return event
    if isinstance(event, ImageEvent):
        return _ref(event, event.id, event.data)
    fields = _fields(event)
    coordinate = fields.pop("coordinate", None) or fields.get("id")
    data = fields.get("data")
    if isinstance(data, bytes):
        fields["data"] = _ENCODED
    try:
        parsed = ImageEvent.model_validate({"schema_version": "1", **fields})
    except ValidationError as error:
        text = json.dumps({str(name): str(value) for name, value in fields.items() if name != "data"})
        there = shown(text.encode())
        truncated = there.truncated or "data" in fields
        return BadRecord(
            str(coordinate), "decode_event", "ValidationError", problems(error), there.text, truncated=truncated
        )
    return _ref(parsed, str(coordinate), data if isinstance(data, bytes) else parsed.data)


def _fields(event: Any) -> dict[str, Any]:
    """What is given, with Beam's times as Python's."""
    if isinstance(event, Mapping):
        given = dict(event)
    elif hasattr(event, "_asdict"):
        given = event._asdict()
    else:
        raise TypeError(f"an event is an ImageEvent, a mapping or a Row, got {type(event).__name__}")
    if isinstance(given.get("event_time"), Timestamp):
        given["event_time"] = given["event_time"].to_utc_datetime(has_tz=True)
    return {name: value for name, value in given.items() if value is not None}


def _ref(event: ImageEvent, coordinate: str, data: bytes | None) -> ImageRef | BadRecord:
    if event.uri is not None and is_pointer(event.uri):
        message = f"uri {redacted(event.uri)[:200]!r} ends like a pointer into a file, which only a source may give"
        return BadRecord(coordinate, "policy", "ForbiddenUri", message)
    return ImageRef(
        coordinate,
        event.id,
        event.stream,
        (event.event_time - _EPOCH) // timedelta(microseconds=1),
        uri=event.uri,
        data=data,
        content_type=event.content_type,
        attributes=tuple(sorted((event.attributes or {}).items())),
        size=-1 if data is None else len(data),
    )
