"""`ImageRef`, one image event inside the job, `BadRecord`, what a source held instead of one, and `Arrival`, either of
them with the time at which it came to a source that is followed.

Plain typed tuples with registered Beam coders: deterministic (equal tuples, equal bytes), never pickled. A reference
travels through shuffles instead of the image; only an event that came with inline data carries bytes.
"""

import json
import struct
from hashlib import blake2b
from typing import NamedTuple

from apache_beam import coders


class ImageRef(NamedTuple):
    """One event: where it came from, whose it is, when it was taken and how its bytes are reached.

    ``uri`` or ``data`` is given, not both. A ``uri`` may point at the line of a manifest that holds the bytes (see
    `adapters.storage.manifest`).
    """

    coordinate: str
    """Where the event came from, unique: ``path@version``, ``manifest@version#Lline``, ``topic-partition-offset``."""
    id: str
    """The producer's name for the image; two events may share one."""
    stream: str
    event_time: int
    """Microseconds since the epoch, UTC."""
    uri: str | None = None
    data: bytes | None = None
    content_type: str | None = None
    attributes: tuple[tuple[str, str], ...] = ()
    """Sorted by name."""
    size: int = -1
    """Bytes of the image, -1 where the source does not say."""
    position: int = -1
    """Index in the source partition, -1 before the listing is sorted."""
    time_capped: bool = False
    """The event's own time lay too far in the future; ``event_time`` is the cap."""


class BadRecord(NamedTuple):
    """A record of a source that is not an event; it becomes a dead letter."""

    coordinate: str
    stage: str
    """As in `schemas.DeadLetter`."""
    error_class: str
    error_message: str
    event: str | None = None
    """The record as it came, cut to a bound."""
    position: int = -1


class Arrival(NamedTuple):
    """A file of a source that is followed."""

    record: ImageRef | BadRecord
    modified: int
    """Microseconds since the epoch, UTC."""


def seed_of(event_id: str) -> int:
    """63 bits of the id's hash, ``0 <= seed < 2**63``: the same draw of views for the same image, in every run."""
    digest = blake2b(event_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


_HEADER = struct.Struct(">BI")


class ImageRefCoder(coders.Coder):
    """A JSON array of the fields in order; inline data follows as raw bytes."""

    def encode(self, value: ImageRef) -> bytes:
        """The reference as bytes."""
        data = value.data
        fields = json.dumps((*value[:5], *value[6:]), separators=(",", ":")).encode()
        return _HEADER.pack(data is not None, len(fields)) + fields + (data or b"")

    def decode(self, encoded: bytes) -> ImageRef:
        """The inverse of `encode`."""
        has_data, length = _HEADER.unpack_from(encoded)
        end = _HEADER.size + length
        coordinate, event_id, stream, time, uri, content_type, attributes, *rest = json.loads(
            encoded[_HEADER.size : end]
        )
        data = encoded[end:] if has_data else None
        pairs = tuple([(name, text) for name, text in attributes])
        return ImageRef(coordinate, event_id, stream, time, uri, data, content_type, pairs, *rest)

    def is_deterministic(self) -> bool:
        """Equal references encode to equal bytes."""
        return True

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


class BadRecordCoder(coders.Coder):
    """A JSON array of the fields in order."""

    def encode(self, value: BadRecord) -> bytes:
        """The record as bytes."""
        return json.dumps(value, separators=(",", ":")).encode()

    def decode(self, encoded: bytes) -> BadRecord:
        """The inverse of `encode`."""
        return BadRecord(*json.loads(encoded))

    def is_deterministic(self) -> bool:
        """Equal records encode to equal bytes."""
        return True

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


coders.registry.register_coder(ImageRef, ImageRefCoder)
coders.registry.register_coder(BadRecord, BadRecordCoder)
