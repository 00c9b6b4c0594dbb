"""`Follower`: takes up the files that come to a folder or bucket, each version once, into a listing that grows.

Each `poll` lists the source and appends what is new as one segment of the listing (`adapters.storage.listing`). What is
in the listing will be labelled, and only that; who dies before the segment's index exists has taken up nothing.

- The **cursor** is the newest modification time taken up so far; it lies in the listing.
- **Settled** is a file that is at least ``settle`` old, by its modification time or, where that lies in the future, by
  how long this process has seen it unchanged. A file that is being written waits.
- Files modified within ``look_back`` before the cursor are compared with the coordinates taken up in that time, so the
  order in which files appear need not be that of their times. A restart reads those coordinates from the listing.
- A file that is **older** than that and was not there at the poll before comes too late: nobody could say after a
  restart whether it had been taken up. It becomes a `BadRecord`, in the listing as any other, so that the report is a
  record that counts. What is older at a process's first poll is taken for known.
- A file that is **overwritten** is another version, so another coordinate: it is taken up once more.

Memory: the coordinates of the look-back, those that are not settled, and 8 bytes for each older file of the source.
"""

import logging
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

from grpo_tta.adapters.events import Arrival, BadRecord, ImageRef
from grpo_tta.adapters.storage.listing import Listing, append_segment
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.passed import PassedOver
from grpo_tta.adapters.storage.source import list_arrivals

_log = logging.getLogger(__name__)
_NEVER = -(2**63)


class Follower:
    """Of one source and one store. ``settle`` and ``look_back`` in microseconds.

    Raises ValueError for a bad URL or pattern, and where the store's listing has another ``origin``.
    """

    def __init__(
        self,
        store: ObjectStore,
        url: str,
        *,
        stream_pattern: str | None = None,
        time_pattern: str | None = None,
        origin: str = "",
        job: str = "",
        settle: int = 5_000_000,
        look_back: int = 3_600_000_000,
    ) -> None:
        list_arrivals(url, stream_pattern=stream_pattern, time_pattern=time_pattern)
        self._store = store
        self._source = (url, stream_pattern, time_pattern)
        self._origin = origin
        self._job = job
        self._settle = settle
        self._look_back = look_back
        self._load()

    def _load(self) -> None:
        """What a process knows that has just begun."""
        self.listing = Listing.open(self._store)
        if self.listing is not None:
            self.listing.check_origin(self._origin, self._job)
        self._seen: dict[str, int] = {}
        self._waiting: dict[str, int] = {}
        self._older: array[int] | None = None  # before this process's first poll
        self.passed = PassedOver()
        """What the last poll passed over."""
        if self.listing is not None:
            self._seen = {name: time for name, time in self.listing.taken(self._since) if time > self._since}

    @property
    def _since(self) -> int:
        """What was modified later is compared with what was seen."""
        cursor = self.listing.cursor if self.listing is not None else None
        return _NEVER if cursor is None else cursor - self._look_back

    def __len__(self) -> int:
        return 0 if self.listing is None else len(self.listing)

    def poll(self, now: int) -> None:
        """Take up what is new. ``now`` in microseconds since the epoch.

        Raises ``SourceError`` where the source cannot be listed; nothing is taken up then.
        """
        look, before = _Look(), len(self)
        passed_before, self.passed = self.passed, PassedOver()
        ours = append_segment(
            self._store, self._new(look, now), after=self.listing, origin=self._origin, job=self._job, now=now
        )
        if look.taken and not ours:
            self._load()  # another process was faster, and has taken up what it saw
            return
        if ours:
            self.listing = Listing.open(self._store, self.listing)
            self._remember(look, before)
        self.passed.say(self._source[0], passed_before)
        self._waiting, self._older = look.waiting, array("Q", sorted(look.older))
        if look.late:
            _log.warning("%d files came later than source.look_back allows, like %s", len(look.late), look.late[0])

    def collect(self, position: int) -> None:
        """Delete what the listing holds from before ``position`` and before the look-back."""
        if self.listing is not None:
            self.listing.collect(position, self._since)

    def _new(self, look: "_Look", now: int) -> Iterator[Arrival]:
        url, stream_pattern, time_pattern = self._source
        arrivals = list_arrivals(url, stream_pattern=stream_pattern, time_pattern=time_pattern, passed=self.passed)
        for record, modified in arrivals:
            coordinate = record.coordinate
            if coordinate in self._seen:
                continue
            if modified <= self._since:
                look.older.append(_key(coordinate))
                if self._is_known(look.older[-1]):
                    continue
                look.late.append(coordinate)
                record = _too_late(record)
            else:
                first_seen = self._waiting.get(coordinate, now)
                if min(modified, first_seen) > now - self._settle:
                    look.waiting[coordinate] = first_seen
                    continue
            look.taken += 1
            yield Arrival(record, modified)

    def _is_known(self, key: int) -> bool:
        if self._older is None:
            return True
        at = bisect_left(self._older, key)
        return at < len(self._older) and self._older[at] == key

    def _remember(self, look: "_Look", before: int) -> None:
        """The coordinates from the position ``before`` on; of the look-back they are kept, of others their keys."""
        if self.listing is None:
            return
        self._seen |= dict(self.listing.taken(_NEVER, before))
        old = [coordinate for coordinate, modified in self._seen.items() if modified <= self._since]
        for coordinate in old:
            look.older.append(_key(coordinate))
            del self._seen[coordinate]


@dataclass
class _Look:
    """What one poll finds."""

    waiting: dict[str, int] = field(default_factory=dict)
    """Not settled: coordinate -> when this process saw it first."""
    older: "array[int]" = field(default_factory=lambda: array("Q"))
    """Keys of what is older than the look-back."""
    late: list[str] = field(default_factory=list)
    taken: int = 0


def _key(coordinate: str) -> int:
    return int.from_bytes(blake2b(coordinate.encode(errors="backslashreplace"), digest_size=8).digest(), "big")


def _too_late(record: ImageRef | BadRecord) -> BadRecord:
    return BadRecord(
        record.coordinate,
        "source",
        "ArrivedTooLate",
        "the file was modified longer than source.look_back before the newest one and came after it; touch it, or "
        "label it by a job of its own",
        record.uri if isinstance(record, ImageRef) else record.event,
    )
