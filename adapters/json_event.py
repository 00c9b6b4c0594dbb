"""JSON of events, for every source: one reader with a bound on depth, and what of it may be shown.

The reader is pydantic's own: 200 levels deep, numbers of at most 4,300 digits; anything else raises ``ValueError``. Of
a key that comes twice it takes the last one, so what it has read is looked at for such keys.
"""

import json
import re
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import from_json

from grpo_tta.adapters.lines import BOM
from grpo_tta.adapters.storage.filesystems import HIDDEN, redacted, redacted_text
from grpo_tta.schemas import ImageEvent

MAX_SHOWN = 4096
_ESCAPE = re.compile(r"\\(?:u00([0-7][0-9a-fA-F])|/)")


class NotAnEvent(ValueError):
    """The text is no event; ``is_json`` where it is JSON at all."""

    def __init__(self, message: str, *, is_json: bool) -> None:
        super().__init__(message)
        self.is_json = is_json


def parse_event(text: bytes) -> ImageEvent:
    """The event; a byte order mark before it is passed over. Raises `NotAnEvent`, whatever the text is."""
    text = text.removeprefix(BOM)
    try:
        event = ImageEvent.model_validate_json(text)
        check_keys(text)
        return event
    except ValidationError as error:
        is_json = error.errors(include_url=False, include_input=False)[0]["type"] != "json_invalid"
        raise NotAnEvent(problems(error), is_json=is_json) from error
    except (ValueError, RecursionError) as error:
        raise NotAnEvent(str(error), is_json=True) from error


def check_keys(text: bytes | str) -> None:
    """Raises ValueError where an object of a JSON text, which was read already, has a key twice."""
    json.loads(text, object_pairs_hook=_one_of_each)


def _one_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of its keys and values. Raises ValueError naming a key that is in it twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice[:200]!r} is in it twice")
    return found


def problems(error: ValidationError) -> str:
    """What is wrong, field by field, without the values."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    shown = "; ".join(
        f"{'.'.join(map(str, problem['loc']))[:200]}: {problem['msg']}" if problem["loc"] else problem["msg"]
        for problem in found[:5]
    )
    return shown + (f"; and {len(found) - 5} more" if len(found) > 5 else "")


class Shown(NamedTuple):
    """A text for a dead letter; ``truncated`` where it was cut, or inline data was left out."""

    text: str
    truncated: bool = False

    def cut(self, most: int) -> "Shown":
        """At most so many characters of it."""
        return self if len(self.text) <= most else Shown(self.text[:most], truncated=True)


def shown(text: bytes, most: int = MAX_SHOWN) -> Shown:
    """What should have been an event: inline data and a uri's secrets left out, cut to ``most`` characters."""
    found = shown_object(text)
    return shown_text(text[: 8 * most].decode("utf-8", "replace"), most) if found is None else found.cut(most)


def shown_text(text: str, most: int) -> Shown:
    """The same of any text; addresses are looked for as JSON spells them too."""
    plain = _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else "/", text[: 2 * most])
    beginning = redacted_text(plain)
    return Shown(beginning, truncated=len(text) > 2 * most).cut(most)


def shown_object(text: bytes) -> Shown | None:
    """As `shown`, but not cut, of what is a JSON object; else None. Of a key that no event has the value is hidden."""
    try:
        value = from_json(text.removeprefix(BOM))
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    inline = isinstance(value.get("data"), str)
    if inline:
        value["data"] = f"<{len(value['data'])} characters>"
    if isinstance(value.get("uri"), str):
        value["uri"] = redacted(value["uri"])
    value = {name: held if name in ImageEvent.model_fields else HIDDEN for name, held in value.items()}
    return Shown(redacted_text(json.dumps(value, ensure_ascii=False)), truncated=inline)
