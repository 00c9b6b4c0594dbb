"""A manifest: JSON Lines of `schemas.ImageEvent`, read line by line.

The coordinate of line 17 is ``path@version#L000000017``: padded, so that events of one time keep the manifest's
order. A line that is not an event becomes a `BadRecord`, blank lines are skipped. A relative ``uri`` is relative to
the manifest.

Inline data is not copied into the listing: the reference's ``uri`` points at the line's bytes in the manifest
(``manifest.jsonl#bytes=START-STOP``) and `read_line` takes the data from there when the image is needed. One manifest
line at a time is in memory, at most ``MAX_LINE`` bytes of it.
"""

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import BinaryIO

from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.json_event import NotAnEvent, parse_event, shown
from grpo_tta.adapters.lines import content, read_lines
from grpo_tta.adapters.storage.filesystems import (
    local_path,
    local_version,
    open_filesystem,
    open_stream,
    redacted,
    scheme_of,
    version_of,
)
from grpo_tta.adapters.storage.pointers import BytesPointer, is_pointer
from grpo_tta.schemas.base import encodable

MAX_LINE = 64 * 2**20
_SHOWN_OF_LONG = 8192
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HAS_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]*:")


def read_manifest(url: str, *, max_line: int = MAX_LINE) -> Iterator[ImageRef | BadRecord]:
    """The manifest's events in order. Raises what the file system raises when the manifest cannot be read."""
    file, path, version = _open(url)
    place = f"{encodable(path)}@{version}"
    with file:
        for line in read_lines(file, max_line):
            coordinate = f"{place}#L{line.number:09d}"
            if line.too_long:
                message = f"the line is longer than {max_line} bytes"
                start = shown(line.text[:_SHOWN_OF_LONG]).text
                yield BadRecord(coordinate, "decode_event", "LineTooLong", message, start, truncated=True)
            else:
                yield _event(line.text, coordinate, BytesPointer(path, line.start, line.stop))


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


def _event(text: bytes, coordinate: str, line: BytesPointer) -> ImageRef | BadRecord:
    try:
        event = parse_event(text)
    except NotAnEvent as error:
        return _bad(text, coordinate, "decode_event", "ValidationError", str(error))
    uri = line.uri if event.uri is None else resolve(line.file, event.uri)
    if event.uri is not None and is_pointer(uri):
        message = f"uri {redacted(event.uri)[:200]!r} ends like a pointer into a file, which only the source may give"
        return _bad(text, coordinate, "policy", "ForbiddenUri", message)
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


def _bad(text: bytes, coordinate: str, stage: str, kind: str, message: str) -> BadRecord:
    event = shown(text)
    return BadRecord(coordinate, stage, kind, message, event.text, truncated=event.truncated)


def resolve(manifest: str, uri: str) -> str:
    """The uri of an event, made absolute by the folder of its manifest; ``..`` is left for the policy to judge."""
    if _HAS_SCHEME.match(uri) or uri.startswith("/"):
        return uri
    return os.path.join(manifest.rpartition("/")[0] + "/", uri)


def read_line(line: bytes, event_id: str) -> bytes:
    """The inline data of the manifest line a `BytesPointer` points at.

    Raises ValueError if it is no longer that event's.
    """
    try:
        event = parse_event(content(line))
    except NotAnEvent as error:
        raise ValueError(f"the manifest changed since it was listed: {error}") from error
    if event.data is None or event.id != event_id:
        raise ValueError(f"the manifest changed since it was listed: this line is not inline event {event_id!r}")
    return event.data
