"""Events as a pipeline has them -> `ImageRef`, or a `BadRecord` that says why not."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from numbers import Integral
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
_NAMELESS = "(no id)"


def to_ref(event: Event) -> ImageRef | BadRecord:
    """``coordinate``, which names an event in every record about it, is its own field of a mapping or row, and by
    default the event's id. What is no event of any kind is a `BadRecord` too."""
    if isinstance(event, ImageRef | BadRecord):
        return event
    if isinstance(event, ImageEvent):
        return _ref(event, event.id, event.data)
    fields: dict[Any, Any] = {}
    coordinate: str | None = None
    try:
        fields = _fields(event)
        coordinate = _coordinate(fields.pop("coordinate", None))
        data = fields.get("data")
        if isinstance(data, bytes | bytearray | memoryview):
            data, fields["data"] = bytes(data), _ENCODED
        parsed = ImageEvent.model_validate({"schema_version": "1", **_timed(fields)})
    except (TypeError, ValueError, OverflowError) as error:
        text = json.dumps({str(name): str(value) for name, value in fields.items() if name != "data"})
        there = shown(text.encode())
        truncated = there.truncated or "data" in fields
        message = problems(error) if isinstance(error, ValidationError) else str(error)
        named = coordinate or str(fields.get("id", "")) or _NAMELESS
        return BadRecord(named, "decode_event", type(error).__name__, message, there.text, truncated=truncated)
    return _ref(parsed, coordinate or parsed.id, data if isinstance(data, bytes) else parsed.data)


def _coordinate(given: Any) -> str | None:
    """Texts and whole numbers name an event; of anything else the text may be another in each run."""
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, str | Integral):
        raise TypeError(f"coordinate: must be a text or a whole number, got {type(given).__name__}")
    return str(given) or None


def _timed(fields: dict[str, Any]) -> dict[str, Any]:
    """With Beam's times as Python's."""
    moment = fields.get("event_time")
    if not isinstance(moment, Timestamp):
        return fields
    try:
        return {**fields, "event_time": moment.to_utc_datetime(has_tz=True)}
    except OverflowError:
        raise OverflowError(f"event_time: {moment} is not within the years 1 to 9999") from None


def _fields(event: Any) -> dict[str, Any]:
    """What is given. Raises TypeError for what is no event of any kind."""
    if isinstance(event, Mapping):
        given = dict(event)
    elif hasattr(event, "_asdict"):
        given = event._asdict()
    else:
        raise TypeError(f"an event is an ImageEvent, a mapping or a Row, got {type(event).__name__}")
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
