"""What is wrong with a configuration, a line a problem: the key, what is wrong, the value."""

import difflib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import BaseModel

from grpo_tta.adapters.storage.filesystems import redacted_text

_NEEDED = {
    "source": "--source (source.url)",
    "source.url": "--source (source.url)",
    "output": "--out (output.url)",
    "output.url": "--out (output.url)",
}


def _all_keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Of the configuration, a section's before its own; a method's settings are its own business."""
    for name, field in section.model_fields.items():
        yield prefix + name
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _all_keys(kind, f"{prefix}{name}.")
        elif is_dataclass(kind):
            yield from (f"{prefix}{name}.{one.name}" for one in fields(kind))


def problem(item: dict[str, Any], config: type[BaseModel]) -> str:
    """A line for one of pydantic's errors: the key, what is wrong, the value."""
    key = ".".join(str(part) for part in item["loc"])
    if key in _NEEDED and item["type"] == "missing":
        return f"{_NEEDED[key]} is needed"
    if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = [one for one in _all_keys(config) if one.count(".") == key.count(".")]
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
        return f"{key}: unknown key" + (f", did you mean {near[0]}?" if near else "")
    message = str(item["msg"]).removeprefix("Value error, ")
    shown = "" if item["type"] in ("value_error", "missing") else f", got {redacted_text(repr(item['input']))}"
    return f"{key}: {message}{shown}" if key else message + shown
