"""`ImageRef`, one image event inside the job, `BadRecord`, what a source held instead of one, and `Arrival`, either of
them with the time at which it came to a source that is followed.

Plain typed tuples; how they travel between steps says `adapters.coders`. A reference
travels through shuffles instead of the image; only an event that came with inline data carries bytes.
"""

from hashlib import blake2b
from typing import NamedTuple
from zlib import crc32


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
    guessed: str = ""
    """Which of ``stream_guessed`` and ``time_guessed`` hold, with a blank between: what its name did not tell."""


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
    truncated: bool = False
    """``event`` was cut, or inline data was left out of it."""


class Arrival(NamedTuple):
    """A file of a source that is followed."""

    record: ImageRef | BadRecord
    modified: int
    """Microseconds since the epoch, UTC."""


def seed_of(event_id: str) -> int:
    """63 bits of the id's hash, ``0 <= seed < 2**63``: the same draw of views for the same image, in every run."""
    digest = blake2b(event_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def group_of(stream: str, groups: int) -> int:
    """Which of so many groups of streams a stream is in: the same one on every machine, in every run."""
    return crc32(stream.encode("utf-8", "surrogatepass")) % groups
