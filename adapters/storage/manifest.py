"""A manifest: JSON Lines of `schemas.ImageEvent`, read line by line.

The coordinate of line 17 is ``path@version#L000000017``: padded, so that events of one time keep the manifest's
order. A line that is not an event becomes a `BadRecord`, blank lines are skipped. A relative ``uri`` is relative to
the manifest.

Inline data is not copied into the listing: the reference's ``uri`` points at the line's bytes in the manifest
(``manifest.jsonl#bytes=START-STOP``) and `read_line` takes the data from there when the image is needed. One manifest
line at a time is in memory, at most ``MAX_LINE`` bytes of it.
"""

import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO, NamedTuple

from pydantic import ValidationError

from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.storage.filesystems import (
    local_path,
    local_version,
    open_filesystem,
    open_stream,
    redacted,
    redacted_text,
    scheme_of,
    version_of,
)
from grpo_tta.schemas import ImageEvent

MAX_LINE = 64 * 2**20
MAX_SHOWN = 4096
_BOM = b"\xef\xbb\xbf"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HAS_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]*:")
_LINE = re.compile(r"(.*)#bytes=(\d+)-(\d+)", re.DOTALL)


class LinePointer(NamedTuple):
    """Where inline data lies: bytes ``start <= i < stop`` of a manifest."""

    manifest: str
    start: int
    stop: int

    @property
    def uri(self) -> str:
        """The pointer as an `ImageRef.uri`."""
        return f"{self.manifest}#bytes={self.start}-{self.stop}"

    @classmethod
    def parse(cls, uri: str) -> "LinePointer | None":
        """The pointer a uri stands for, None for the uri of a file."""
        match = _LINE.fullmatch(uri)
        return None if match is None else cls(match[1], int(match[2]), int(match[3]))


def read_manifest(url: str, *, max_line: int = MAX_LINE) -> Iterator[ImageRef | BadRecord]:
    """The manifest's events in order. Raises what the file system raises when the manifest cannot be read."""
    file, path, version = _open(url)
    offset = 0
    with file:
        number = 0
        while line := file.readline(max_line + 1):
            number += 1
            start, offset = offset, offset + len(line)
            coordinate = f"{path}@{version}#L{number:09d}"
            if len(line) > max_line:
                offset += _skip_line(file, line)
                message = f"the line is longer than {max_line} bytes"
                yield BadRecord(coordinate, "decode_event", "LineTooLong", message, _shown(line[: 2 * MAX_SHOWN]))
                continue
            text = (line.removeprefix(_BOM) if number == 1 else line).strip()
            if text:
                yield _event(text, coordinate, LinePointer(path, start, offset))


def _open(url: str) -> tuple[BinaryIO, str, str]:
    """The manifest, its path and its version."""
    path = local_path(url)
    if path is not None:
        file = open(path, "rb")  # noqa: SIM115 - the caller closes it
        status = os.fstat(file.fileno())
        return file, path, local_version(status)
    filesystem, remote = open_filesystem(url)
    version = version_of(filesystem.info(remote))
    return open_stream(filesystem, remote), f"{scheme_of(url)}://{url.partition('://')[2]}", version


def _skip_line(file: BinaryIO, line: bytes) -> int:
    """Read on to the end of a line of which only the beginning was read; how many bytes that was."""
    skipped = 0
    while not line.endswith(b"\n"):
        line = file.readline(2**20)
        if not line:
            break
        skipped += len(line)
    return skipped


def _event(text: bytes, coordinate: str, line: LinePointer) -> ImageRef | BadRecord:
    try:
        event = ImageEvent.model_validate_json(text)
    except ValidationError as error:
        return BadRecord(coordinate, "decode_event", "ValidationError", problems(error), _shown(text))
    uri = line.uri if event.uri is None else resolve(line.manifest, event.uri)
    if event.uri is not None and LinePointer.parse(uri) is not None:
        message = (
            f"uri {redacted(event.uri)[:200]!r} ends like a pointer into a manifest, which only the source may give"
        )
        return BadRecord(coordinate, "policy", "ForbiddenUri", message, _shown(text))
    return ImageRef(
        coordinate,
        event.id,
        event.stream,
        (event.event_time - _EPOCH) // timedelta(microseconds=1),
        uri=uri,
        content_type=event.content_type,
        attributes=tuple(sorted((event.attributes or {}).items())),
        size=-1 if event.data is None else len(event.data),
    )


def resolve(manifest: str, uri: str) -> str:
    """The uri of an event, made absolute by the folder of its manifest; ``..`` is left for the policy to judge."""
    if _HAS_SCHEME.match(uri) or uri.startswith("/"):
        return uri
    return os.path.join(manifest.rpartition("/")[0] + "/", uri)


def read_line(line: bytes, event_id: str) -> bytes:
    """The inline data of the manifest line a `LinePointer` points at.

    Raises ValueError if it is no longer that event's.
    """
    try:
        event = ImageEvent.model_validate_json(line.removeprefix(_BOM).strip())
    except ValidationError as error:
        raise ValueError(f"the manifest changed since it was listed: {problems(error)}") from error
    if event.data is None or event.id != event_id:
        raise ValueError(f"the manifest changed since it was listed: this line is not inline event {event_id!r}")
    return event.data


def problems(error: ValidationError) -> str:
    """What is wrong, field by field, without the values."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    shown = "; ".join(
        f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" if problem["loc"] else problem["msg"]
        for problem in found[:5]
    )
    return shown + (f"; and {len(found) - 5} more" if len(found) > 5 else "")


def _shown(text: bytes) -> str:
    """The line for a dead letter: cut to a bound, inline data and a uri's secrets left out."""
    try:
        value: Any = json.loads(text)
    except ValueError:
        value = None
    if isinstance(value, dict):
        return show_event(value)[:MAX_SHOWN]
    return redacted_text(text[: 2 * MAX_SHOWN].decode("utf-8", "replace"))[:MAX_SHOWN]


def show_event(event: dict[str, Any]) -> str:
    """What should have been an event as JSON, inline data and a uri's secrets left out."""
    shown = dict(event)
    if isinstance(shown.get("data"), str):
        shown["data"] = f"<{len(shown['data'])} characters>"
    if isinstance(shown.get("uri"), str):
        shown["uri"] = redacted(shown["uri"])
    return redacted_text(json.dumps(shown, ensure_ascii=False))
