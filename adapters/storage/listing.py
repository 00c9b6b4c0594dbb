"""The listing of a bounded source: its events sorted by (event time, coordinate), written down once.

`write_listing` sorts on local disk (chunks of ``chunk_rows`` rows, merged ``_FAN_IN`` at a time), so a source of any
size needs the memory of one chunk. The result is a few objects of compact JSON lines, ``part_rows`` rows each, and an
index that an exclusive create publishes last: the listing exists when its index does, and of racing writers one
listing stays. An event's position is its index. Bad records come first. The fingerprint is the SHA-256 of all rows.

Inline data is never in a listing; a manifest's events point into the manifest instead.
"""

import hashlib
import heapq
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, BinaryIO
from uuid import uuid4

from adapters.events import BadRecord, ImageRef
from adapters.storage.objects import ObjectStore

FOLDER = "listing"
_INDEX = f"{FOLDER}/index.json"
_VERSION = 1
_FAN_IN = 64
_STRIDE = 1000
"""Rows between two byte offsets of the index: what is read at once, and at most for nothing."""

_Row = tuple[int, str, str]
"""Event time, coordinate, the row's text: sorts as the listing does, equal times and coordinates included."""


class Listing:
    """A written listing. Reads by position; holds only the index (a byte offset for every 1,000 rows)."""

    def __init__(self, store: ObjectStore, index: dict[str, Any]) -> None:
        self._store = store
        self._parts: list[dict[str, Any]] = index["parts"]
        self._length = sum(part["rows"] for part in self._parts)
        self.fingerprint: str = index["fingerprint"]
        """SHA-256 of all rows, hexadecimal."""
        self.bad_records: int = index["bad_records"]
        self.origin: str = index["origin"]
        """What was listed, in the caller's words."""

    @classmethod
    def open(cls, store: ObjectStore) -> "Listing | None":
        """The store's listing, None where none was finished. Raises ValueError for one of another format version."""
        try:
            index = json.loads(store.read(_INDEX))
        except FileNotFoundError:
            return None
        if index.get("version") != _VERSION:
            raise ValueError(
                f"the listing in {store.url} has format version {index.get('version')!r}, this is {_VERSION}: "
                "use another checkpoint"
            )
        return cls(store, index)

    def __len__(self) -> int:
        return self._length

    def read(self, start: int, stop: int) -> Iterator[ImageRef | BadRecord]:
        """Records of the positions ``start <= p < stop`` in order, `ImageRef.position` set."""
        if not 0 <= start <= stop <= self._length:
            raise ValueError(f"positions {start} to {stop} are not within a listing of {self._length} rows")
        first = 0
        for part in self._parts:
            last = first + part["rows"]
            if first < stop and start < last:
                yield from self._read_part(part, first, max(start, first), min(stop, last))
            first = last

    def _read_part(self, part: dict[str, Any], first: int, start: int, stop: int) -> Iterator[ImageRef | BadRecord]:
        offsets = part["offsets"]
        for block in range((start - first) // _STRIDE, len(offsets) - 1):
            position = first + block * _STRIDE
            if position >= stop:
                return
            data = self._store.read_range(part["name"], offsets[block], offsets[block + 1])
            for line in data.splitlines():
                if start <= position < stop:
                    yield _from_row(json.loads(line), position)
                position += 1


def write_listing(
    store: ObjectStore,
    records: Iterable[ImageRef | BadRecord],
    *,
    origin: str = "",
    chunk_rows: int = 100_000,
    part_rows: int = 50_000,
    scratch: str | None = None,
) -> Listing:
    """Sort the records and write them down; nothing is written before all of them are read.

    Returns the store's listing: this one, or that of a writer who was faster. ``origin`` is kept with it. ``scratch``:
    where the local chunk files go, by default the system's folder for temporary files. Raises ValueError for a record
    with inline data.
    """
    if chunk_rows < 1 or part_rows < 1:
        raise ValueError(f"chunk_rows and part_rows must be >= 1, got {chunk_rows} and {part_rows}")
    token = uuid4().hex
    with tempfile.TemporaryDirectory(prefix="listing-", dir=scratch) as folder:
        rows = _sorted_rows(records, folder, chunk_rows)
        index = {**_write_parts(store, rows, token, part_rows), "origin": origin}
    won = store.create(_INDEX, json.dumps(index, separators=(",", ":")).encode())
    listing = Listing.open(store)
    if listing is None:
        raise FileNotFoundError(f"the listing in {store.url} vanished while it was written")
    kept = {part["name"] for part in listing._parts} | {_INDEX}
    for name in store.names(f"{FOLDER}/"):
        if name not in kept and (won or token in name):
            store.delete(name)
    return listing


def _write_parts(store: ObjectStore, rows: Iterator[_Row], token: str, part_rows: int) -> dict[str, Any]:
    digest, bad_records = hashlib.sha256(), 0
    parts: list[dict[str, Any]] = []
    while True:
        data, offsets, count = bytearray(), [], 0
        for _, _, text in islice(rows, part_rows):
            if count % _STRIDE == 0:
                offsets.append(len(data))
            data += text.encode() + b"\n"
            bad_records += text.startswith(_BAD)
            count += 1
        if not count:
            break
        name = f"{FOLDER}/{token}-{len(parts):06d}.jsonl"
        store.write(name, bytes(data))
        digest.update(data)
        parts.append({"name": name, "rows": count, "offsets": [*offsets, len(data)]})
    return {"version": _VERSION, "fingerprint": digest.hexdigest(), "bad_records": bad_records, "parts": parts}


def _sorted_rows(records: Iterable[ImageRef | BadRecord], folder: str, chunk_rows: int) -> Iterator[_Row]:
    """External merge sort. A source of one chunk never touches the disk."""
    rows = map(_to_row, records)
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


_BAD = '{"bad"'
_BEFORE_ALL = -(2**63)


def _keyed(text: str) -> _Row:
    fields = json.loads(text)
    if isinstance(fields, dict):
        return _BEFORE_ALL, fields["bad"][0], text
    return fields[3], fields[0], text


def _to_row(record: ImageRef | BadRecord) -> _Row:
    """ASCII JSON: an array for an event, an object for a bad record; positions are not part of a row."""
    if isinstance(record, BadRecord):
        return _BEFORE_ALL, record.coordinate, json.dumps({"bad": record[:-1]}, separators=(",", ":"))
    if record.data is not None:
        raise ValueError(f"event {record.coordinate} carries inline data, which a listing does not hold")
    fields = (*record[:5], record.content_type, record.attributes, record.size)
    return record.event_time, record.coordinate, json.dumps(fields, separators=(",", ":"))


def _from_row(fields: Any, position: int) -> ImageRef | BadRecord:
    if isinstance(fields, dict):
        return BadRecord._make((*fields["bad"], position))
    coordinate, event_id, stream, time, uri, content_type, attributes, size = fields
    pairs = tuple([(name, text) for name, text in attributes])
    return ImageRef(coordinate, event_id, stream, time, uri, None, content_type, pairs, size, position)
