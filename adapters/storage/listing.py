"""The listing of a source: its events sorted by (event time, coordinate), written down once, and read by position.

`write_listing` sorts on local disk (chunks of ``chunk_rows`` rows, merged ``_FAN_IN`` at a time), so a source of any
size needs the memory of one chunk. The result is a few objects of compact JSON lines, ``part_rows`` rows each, and an
index that an exclusive create publishes last: the listing exists when its index does, and of racing writers one
listing stays. An event's position is its index. Bad records come first. The fingerprint is the SHA-256 of all rows.

A source that is followed (`adapters.storage.follow`) has a listing that grows: each index, named after its first
position, publishes a *segment*, sorted in itself, and positions run on from one to the next. A bounded source's listing
is one segment. Rows of a followed source also hold the modification time.

The index is sealed (`adapters.storage.sealed`) and holds a checksum of every 1,000 rows. A URI may hold a password or a
signature, so on a local disk a listing is for its owner's eyes alone.

Inline data is never in a listing; a manifest's events point into the manifest instead.
"""

import hashlib
import heapq
import json
import os
import re
import tempfile
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice, pairwise
from typing import Any, BinaryIO
from uuid import uuid4

from grpo_tta.adapters.events import Arrival, BadRecord, ImageRef
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.passed import PassedOver
from grpo_tta.adapters.storage.sealed import SealError, read_sealed, seal_json

FOLDER = "listing"
_SEGMENT = f"{FOLDER}/segment-"
_INDEX = re.compile(rf"{_SEGMENT}(\d{{12,}})\.json")
_FAN_IN = 64
_STRIDE = 1000
"""Rows between two byte offsets of the index: what is read at once, and at most for nothing."""

_Row = tuple[int, str, str]
"""Event time, coordinate, the row's text: sorts as the listing does, equal times and coordinates included."""


def _index_name(start: int) -> str:
    return f"{_SEGMENT}{start:012d}.json"


class Listing:
    """A written listing. Reads by position; holds only indexes (a byte offset for every 1,000 rows), those of the last
    segment and of segments that were read."""

    def __init__(self, store: ObjectStore, starts: list[int], before: "Listing | None" = None) -> None:
        self._store = store
        self._starts = starts
        known = before._indexes if before is not None else {}
        self._indexes: dict[int, dict[str, Any]] = {start: known[start] for start in starts if start in known}
        self._job: str | None = None
        last = self._index(starts[-1])
        self._job = last["job"]
        self._length: int = starts[-1] + last["rows"]
        self.fingerprint: str = last["fingerprint"]
        """SHA-256 of the last segment's rows, hexadecimal."""
        self.origin: str = last["origin"]
        """What was listed, in the caller's words."""
        self.cursor: int | None = last["cursor"]
        """Of a followed source; see `append_segment`."""
        self.passed_over: dict[str, int] = last.get("passed_over", {})
        """Of a bounded source: files that are no events by their names, by suffix."""

    def check_origin(self, origin: str, job: str = "") -> None:
        """Raises ValueError where it is of another source, and ``SealError`` where it is not of this ``job``."""
        if self.origin != origin:
            raise ValueError(
                f"the checkpoint in {self._store.url} is of the source and patterns {self.origin}, not {origin}: give "
                "this job another --out, and another --checkpoint where one is given "
                f"({_index_name(self._starts[-1])} says what was listed)"
            )
        if job and self._job != job:
            raise self._foreign(self._starts[-1])

    @classmethod
    def open(cls, store: ObjectStore, before: "Listing | None" = None) -> "Listing | None":
        """The store's listing, None where none was finished; ``before``: as it was opened last, so that less is read.
        Raises ``SealError``, also for one of another version."""
        found = map(_INDEX.fullmatch, store.names(_SEGMENT))  # not copies and backups, which others have put there
        starts = sorted(int(name[1]) for name in found if name)
        return cls(store, starts, before) if starts else None

    def __len__(self) -> int:
        return self._length

    def read(self, start: int, stop: int) -> Iterator[ImageRef | BadRecord]:
        """Records of the positions ``start <= p < stop`` in order, `ImageRef.position` set."""
        for position, fields in self._rows(start, stop):
            yield _from_row(fields, position)

    def taken(self, since: int, start: int = 0) -> Iterator[tuple[str, int]]:
        """(coordinate, modification time) of a followed source's records from the position ``start`` on; segments
        with none modified after ``since`` are passed over."""
        for first in self._starts:
            index = self._index(first)
            if first + index["rows"] > start and index["newest"] > since:
                for _, fields in self._rows(max(first, start), first + index["rows"]):
                    yield _coordinate(fields)

    def collect(self, position: int, since: int) -> None:
        """Delete segments that nobody needs any more: all before ``position``, and none modified after ``since``. The
        last one stays."""
        for first in self._starts[:-1]:
            index = self._index(first)
            if first + index["rows"] > position:
                return
            if index["newest"] <= since:
                for part in index["parts"]:
                    self._store.delete(part["name"])
                self._store.delete(_index_name(first))
                self._starts.remove(first)

    def _index(self, start: int) -> dict[str, Any]:
        if start not in self._indexes:
            index: dict[str, Any] = read_sealed(self._store, _index_name(start))
            if index["rows"] != sum(part["rows"] for part in index["parts"]):
                raise SealError(f"checkpoint file {_index_name(start)} counts other rows than its parts")
            if self._job not in (None, index["job"]):
                raise self._foreign(start)
            self._indexes[start] = index
        return self._indexes[start]

    def _foreign(self, start: int) -> SealError:
        name, url = _index_name(start), self._store.url
        return SealError(f"checkpoint file {name} is of another job than identity.json ({url})")

    def _rows(self, start: int, stop: int) -> Iterator[tuple[int, Any]]:
        if not 0 <= start <= stop <= self._length:
            raise ValueError(f"positions {start} to {stop} are not within a listing of {self._length} rows")
        for segment in self._starts[max(bisect_right(self._starts, start) - 1, 0) : bisect_left(self._starts, stop)]:
            first = segment
            for part in self._index(segment)["parts"]:
                last = first + part["rows"]
                if first <= start < last and start < stop:
                    yield from self._part_rows(part, first, start, min(stop, last))
                    start = min(stop, last)
                first = last
        if start < stop:
            raise ValueError(f"the position {start} is not in the listing any more: its segment was collected")

    def _part_rows(self, part: dict[str, Any], first: int, start: int, stop: int) -> Iterator[tuple[int, Any]]:
        offsets = part["offsets"]
        for block in range((start - first) // _STRIDE, len(offsets) - 1):
            position = first + block * _STRIDE
            if position >= stop:
                return
            data = self._store.read_range(part["name"], offsets[block], offsets[block + 1])
            if zlib.crc32(data) != part["checksums"][block]:
                raise SealError(
                    f"checkpoint file {part['name']} is damaged ({self._store.url}), from row {position} on"
                )
            for line in data.splitlines():
                if start <= position < stop:
                    yield position, json.loads(line)
                position += 1


@dataclass
class _Head:
    """What a segment's index says beside its parts."""

    start: int
    origin: str
    job: str
    cursor: int | None = None
    newest: int | None = None
    """Modification time; ``None`` of a bounded source."""
    passed: PassedOver = field(default_factory=PassedOver)

    def rows(self, arrivals: Iterable[Arrival], now: int) -> Iterator[_Row]:
        """The arrivals' rows; notes their times."""
        for record, modified in arrivals:
            capped = min(modified, now)
            self.newest = modified if self.newest is None else max(self.newest, modified)
            self.cursor = capped if self.cursor is None else max(self.cursor, capped)
            yield _to_row(record, modified)


def write_listing(
    store: ObjectStore,
    records: Iterable[ImageRef | BadRecord],
    *,
    origin: str = "",
    job: str = "",
    passed: PassedOver | None = None,
    chunk_rows: int = 100_000,
    part_rows: int = 50_000,
    scratch: str | None = None,
) -> Listing:
    """Sort the records of a bounded source and write them down; nothing is written before all of them are read.

    Returns the store's listing: this one, or that of a writer who was faster. ``origin`` and ``job``, whose it is, are
    kept with it, and what ``passed`` has counted when the last record was read. ``scratch``: where the local chunk
    files go, by default the system's folder for temporary files. Raises ValueError for a record with inline data.
    """
    if chunk_rows < 1 or part_rows < 1:
        raise ValueError(f"chunk_rows and part_rows must be >= 1, got {chunk_rows} and {part_rows}")
    head = _Head(0, origin, job, passed=passed or PassedOver())
    _write_segment(store, map(_to_row, records), head, chunk_rows, part_rows, scratch)
    listing = Listing.open(store)
    if listing is None:
        raise FileNotFoundError(f"the listing in {store.url} vanished while it was written")
    return listing


def append_segment(
    store: ObjectStore,
    arrivals: Iterable[Arrival],
    *,
    after: Listing | None,
    origin: str,
    job: str = "",
    now: int,
    chunk_rows: int = 100_000,
    part_rows: int = 50_000,
) -> bool:
    """Sort what came to a followed source and write it down behind the listing ``after``, as `write_listing` does.

    Whether the listing has grown by it: not where there are no arrivals, or another writer was faster. The listing's
    ``cursor`` is the newest modification time in it; one later than ``now`` (microseconds since the epoch) counts as
    ``now``, so that one clock that is fast makes nobody late.
    """
    head = _Head(len(after), origin, job, after.cursor) if after else _Head(0, origin, job)
    rows = head.rows(arrivals, now)
    first = next(rows, None)
    return first is not None and _write_segment(store, chain([first], rows), head, chunk_rows, part_rows, None)


def _write_segment(
    store: ObjectStore, rows: Iterator[_Row], head: _Head, chunk_rows: int, part_rows: int, scratch: str | None
) -> bool:
    """Whether this writer's segment stays."""
    token, stem = uuid4().hex, f"{FOLDER}/{head.start:012d}-"
    with tempfile.TemporaryDirectory(prefix="listing-", dir=scratch) as folder:
        digest, parts = _write_parts(store, _sorted_rows(rows, folder, chunk_rows), f"{stem}{token}", part_rows)
    index = {
        "rows": sum(part["rows"] for part in parts),
        "fingerprint": digest,
        "origin": head.origin,
        "job": head.job,
        "cursor": head.cursor,
        "newest": head.newest,
        "passed_over": head.passed.plain(),
        "parts": parts,
    }
    name = _index_name(head.start)
    won = store.create(name, seal_json(name, index), private=True)
    kept = {part["name"] for part in parts} if won else set()
    for name in store.names(stem):
        if name not in kept and (won or token in name):
            store.delete(name)
    return won


def _write_parts(
    store: ObjectStore, rows: Iterator[_Row], stem: str, part_rows: int
) -> tuple[str, list[dict[str, Any]]]:
    """The digest of all rows, and the index's entries."""
    digest, parts = hashlib.sha256(), list[dict[str, Any]]()
    while True:
        data, offsets, count = bytearray(), [], 0
        for _, _, text in islice(rows, part_rows):
            if count % _STRIDE == 0:
                offsets.append(len(data))
            data += text.encode() + b"\n"
            count += 1
        if not count:
            return digest.hexdigest(), parts
        name = f"{stem}-{len(parts):06d}.jsonl"
        store.write(name, bytes(data), private=True)
        digest.update(data)
        offsets.append(len(data))
        checksums = [zlib.crc32(data[start:stop]) for start, stop in pairwise(offsets)]
        parts.append({"name": name, "rows": count, "offsets": offsets, "checksums": checksums})


def _sorted_rows(rows: Iterator[_Row], folder: str, chunk_rows: int) -> Iterator[_Row]:
    """External merge sort. A source of one chunk never touches the disk."""
    chunk = sorted(islice(rows, chunk_rows))
    if len(chunk) < chunk_rows:
        return iter(chunk)
    paths: list[str] = []
    while chunk:
        paths.append(_write_chunk(folder, chunk))
        chunk = sorted(islice(rows, chunk_rows))
    while len(paths) > _FAN_IN:
        merged = [_write_chunk(folder, _merge(paths[i : i + _FAN_IN])) for i in range(0, len(paths), _FAN_IN)]
        for path in paths:
            os.unlink(path)
        paths = merged
    return _merge(paths)


def _merge(paths: list[str]) -> Iterator[_Row]:
    return heapq.merge(*[_read_chunk(path) for path in paths])


def _write_chunk(folder: str, rows: Iterable[_Row]) -> str:
    path = os.path.join(folder, uuid4().hex)
    with open(path, "wb") as file:
        _dump(file, rows)
    return path


def _dump(file: BinaryIO, rows: Iterable[_Row]) -> None:
    file.writelines(row[2].encode() + b"\n" for row in rows)


def _read_chunk(path: str) -> Iterator[_Row]:
    with open(path, "rb") as file:
        for line in file:
            yield _keyed(line.decode().rstrip("\n"))


_BEFORE_ALL = -(2**63)


def _keyed(text: str) -> _Row:
    fields = json.loads(text)
    if isinstance(fields, dict):
        return _BEFORE_ALL, fields["bad"][0], text
    return fields[3], fields[0], text


def _to_row(record: ImageRef | BadRecord, modified: int | None = None) -> _Row:
    """ASCII JSON: an array for an event, an object for a bad record; positions are not part of a row."""
    if isinstance(record, BadRecord):
        bad: dict[str, Any] = {"bad": record[:5]}
        if record.truncated:
            bad["truncated"] = True
        if modified is not None:
            bad["modified"] = modified
        return _BEFORE_ALL, record.coordinate, json.dumps(bad, separators=(",", ":"))
    if record.data is not None:
        raise ValueError(f"event {record.coordinate} carries inline data, which a listing does not hold")
    fields = [*record[:5], record.content_type, record.attributes, record.size]
    if modified is not None or record.guessed:
        fields.append(modified)
    if record.guessed:
        fields.append(record.guessed)
    return record.event_time, record.coordinate, json.dumps(fields, separators=(",", ":"))


def _from_row(fields: Any, position: int) -> ImageRef | BadRecord:
    if isinstance(fields, dict):
        return BadRecord._make((*fields["bad"], position, fields.get("truncated", False)))
    coordinate, event_id, stream, time, uri, content_type, attributes, size = fields[:8]
    pairs = tuple([(name, text) for name, text in attributes])
    guessed = fields[9] if len(fields) > 9 else ""
    return ImageRef(coordinate, event_id, stream, time, uri, None, content_type, pairs, size, position, guessed=guessed)


def _coordinate(fields: Any) -> tuple[str, int]:
    """Of a followed source's row, with the modification time."""
    return (fields["bad"][0], fields["modified"]) if isinstance(fields, dict) else (fields[0], fields[8])
