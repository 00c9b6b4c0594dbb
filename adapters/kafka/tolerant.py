"""Records that kafka-python cannot decode, given one by one instead of an error at the first.

kafka-python raises for a whole batch: for a header's name that is not UTF-8, a length that lies, a checksum that does
not fit, a compressed block that is none. `tolerant` makes one consumer give, in the place of each such record, a
record whose value is `Undecodable`; of a batch that cannot be opened at all one for each of its offsets.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import zstandard
from kafka.errors import UnsupportedCodecError
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch
from kafka.record.util import decode_varint

_MOST = 128 * 2**20
"""Bytes of a batch that is decompressed here."""


class Undecodable(bytes):
    """What lies at an offset instead of a record, as far as it is known; ``reason`` is the client library's."""

    reason: str = ""

    @classmethod
    def of(cls, data: bytes, reason: str) -> "Undecodable":
        """The bytes, with the reason."""
        made = cls(data)
        made.reason = reason
        return made


@contextmanager
def tolerant(consumer: Any) -> Iterator[None]:
    """Inside, what ``consumer`` fetches is read tolerantly."""
    fetcher = consumer._fetcher
    make = fetcher.PartitionRecords

    def parse(fetch_offset: int, partition: Any, records: Any, **options: Any) -> Any:
        return make(fetch_offset, partition, _Records(records), **options)

    fetcher.PartitionRecords = parse
    try:
        yield
    finally:
        fetcher.PartitionRecords = make


class _Records:
    """kafka-python's ``MemoryRecords`` with other batches."""

    def __init__(self, records: Any) -> None:
        self._records = records

    def next_batch(self) -> Any:
        data = self._records._next_slice
        batch = self._records.next_batch()
        if batch is None:
            return None
        if not batch.validate_crc():  # also what says that it is of an old format
            return _BrokenBatch(DefaultRecordBatch(data), self._records._next_slice)
        plain = isinstance(batch, DefaultRecordBatch) and not batch.is_control_batch
        return _Batch(batch) if plain else batch


class _Batch:
    """A batch that gives something for each of its records, and raises nothing."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch
        self._next = batch.base_offset
        self._left = min(batch.records_count, batch.last_offset - batch.base_offset + 1)
        self._broken: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        if self._broken is None:
            try:
                self._uncompress()
            except UnsupportedCodecError:
                raise
            except Exception as error:  # each codec has errors of its own
                self._broken = f"the batch cannot be decompressed: {error!r}"
        return self

    def _uncompress(self) -> None:
        """kafka-python takes no zstd batch over 1 MiB whose frame does not tell its size, as Java's do not."""
        batch = self._batch
        try:
            batch._maybe_uncompress()
        except zstandard.ZstdError:
            packed = bytes(memoryview(batch._buffer)[batch._pos :])
            with zstandard.ZstdDecompressor(max_window_size=_MOST).stream_reader(packed) as stream:
                found = stream.read(_MOST + 1)
            if len(found) > _MOST:
                raise ValueError(f"it is larger than {_MOST} bytes") from None
            batch._buffer, batch._pos, batch._decompressed = bytearray(found), 0, True

    def __next__(self) -> Any:
        if self._broken is not None:
            if self._next > self.last_offset:
                raise StopIteration
            return self._lost(self._next, b"", self._broken)
        data, start = self._batch._buffer, self._batch._pos
        if self._left <= 0:
            if start >= len(data) or self._next > self.last_offset:
                raise StopIteration
            self._broken = "the batch holds more records than it says"
            return self._lost(self._next, bytes(data[start:]), self._broken)
        self._left -= 1
        try:
            record = self._batch._read_msg()
        except Exception as error:
            return self._passed_over(start, f"{error!r}")
        if not self._may_be(record.offset):
            reason = f"its offset, {record.offset}, is another record's"
            return self._lost(self._next, bytes(data[start : self._batch._pos]), reason)
        self._next = record.offset + 1
        return record

    def _may_be(self, offset: int) -> bool:
        """Offsets rise and leave one to each record that follows; in a compacted topic some are missing."""
        return self._next <= offset <= self.last_offset - self._left

    def _passed_over(self, start: int, reason: str) -> Any:
        """By its own length; where that lies, the rest of the batch is lost."""
        data = self._batch._buffer
        try:
            length, begin = decode_varint(data, start)
            position = begin
            for _ in range(3):  # attributes, time, offset
                delta, position = decode_varint(data, position)
        except Exception:
            length = begin = delta = 0
        offset = self._batch.base_offset + delta
        if length <= 0 or begin + length > len(data) or not self._may_be(offset):
            self._broken = f"a record before it has a wrong length: {reason}"
            return self._lost(self._next, bytes(data[start:]), reason)
        self._batch._pos = begin + length
        return self._lost(offset, bytes(data[begin : begin + length]), reason)

    def _lost(self, offset: int, data: bytes, reason: str) -> Any:
        self._next = offset + 1
        return DefaultRecord(len(data), offset, -1, 0, None, Undecodable.of(data, reason), [])


class _BrokenBatch(_Batch):
    """One that fails its checksum: nothing that it says of itself is taken, but for its first offset, over which the
    checksum is not. It reaches to the batch that follows."""

    magic = 2
    is_control_batch = is_transactional = False

    def __init__(self, batch: Any, following: Any) -> None:
        super().__init__(batch)
        self._broken = "the batch fails its checksum"
        self.last_offset = batch.last_offset if following is None else struct.unpack_from(">q", following)[0] - 1

    @property
    def next_offset(self) -> int:
        """Behind it."""
        return self.last_offset + 1

    def validate_crc(self) -> bool:
        """True: it is given as broken."""
        return True

    def has_producer_id(self) -> bool:
        """No transaction decides about it."""
        return False
