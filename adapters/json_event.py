"""JSON of events, for every source: one reader with a bound on depth, and what of it may be shown.

The reader is pydantic's own: 200 levels deep, numbers of at most 4,300 digits; anything else raises ``ValueError``.
"""

import json

from pydantic import ValidationError
from pydantic_core import from_json

from grpo_tta.adapters.storage.filesystems import redacted, redacted_text
from grpo_tta.schemas import ImageEvent

MAX_SHOWN = 4096


class NotAnEvent(ValueError):
    """The text is no event; ``is_json`` where it is JSON at all."""

    def __init__(self, message: str, *, is_json: bool) -> None:
        super().__init__(message)
        self.is_json = is_json


def parse_event(text: bytes) -> ImageEvent:
    """The event. Raises `NotAnEvent`, whatever the text is."""
    try:
        return ImageEvent.model_validate_json(text)
    except ValidationError as error:
        is_json = error.errors(include_url=False, include_input=False)[0]["type"] != "json_invalid"
        raise NotAnEvent(problems(error), is_json=is_json) from error


def problems(error: ValidationError) -> str:
    """What is wrong, field by field, without the values."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    shown = "; ".join(
        f"{'.'.join(map(str, problem['loc']))[:200]}: {problem['msg']}" if problem["loc"] else problem["msg"]
        for problem in found[:5]
    )
    return shown + (f"; and {len(found) - 5} more" if len(found) > 5 else "")


def shown(text: bytes, most: int = MAX_SHOWN) -> str:
    """What should have been an event: inline data and a uri's secrets left out, cut to ``most`` characters."""
    found = shown_object(text)
    return (redacted_text(text[: 2 * most].decode("utf-8", "replace")) if found is None else found)[:most]


def shown_object(text: bytes) -> str | None:
    """The same, not cut, of what is a JSON object; else None."""
    try:
        value = from_json(text)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("data"), str):
        value["data"] = f"<{len(value['data'])} characters>"
    if isinstance(value.get("uri"), str):
        value["uri"] = redacted(value["uri"])
    return redacted_text(json.dumps(value, ensure_ascii=False))
