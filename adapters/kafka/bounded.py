"""Consumers that a topic cannot make take more memory than a bound: what a producer compressed is decompressed up to a
bound, and a poll ends where its records are large.

kafka-python decompresses a batch whole, whatever comes of it; `bound_codecs` puts decoders in its place that stop.
"""

import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from kafka import codec, errors
from kafka.consumer.fetcher import Fetcher
from kafka.record import default_records, legacy_records

MAX_BATCH = 64 * 2**20
"""Bytes of a batch of records when it is decompressed; as of a manifest's line."""
MAX_POLL = 16 * 2**20
"""Bytes of the records of one poll after which it takes no further one."""
MAX_RECORDS = 500
"""Records of one poll."""


def bound_codecs() -> None:
    """For all of the process; calling it again does nothing."""
    for module in (default_records, legacy_records):
        for name, decode in _DECODERS.items():
            if hasattr(module, name):
                setattr(module, name, decode)


def _checked(data: bytes) -> bytes:
    if len(data) > MAX_BATCH:
        raise _too_large()
    return data


def _too_large() -> Exception:
    return errors.CorruptRecordError(f"a compressed batch of records holds more than {MAX_BATCH} bytes")


def _gzip(payload: Any) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(payload)) as stream:
        return _checked(stream.read(MAX_BATCH + 1))


def _zstd(payload: Any) -> bytes:
    reader = codec.zstd.ZstdDecompressor(max_window_size=2 * MAX_BATCH).stream_reader(
        io.BytesIO(payload), read_across_frames=True
    )
    with reader as stream:
        return _checked(stream.read(MAX_BATCH + 1))


def _lz4(payload: Any) -> bytes:
    return _checked(codec.lz4.LZ4FrameDecompressor().decompress(payload, max_length=MAX_BATCH + 1))


def _snappy(payload: bytes) -> bytes:
    """A block begins with its size."""
    blocks = [payload]
    if codec._detect_xerial_stream(payload):
        blocks, at = [], 16
        while at + 4 <= len(payload):
            size = int.from_bytes(payload[at : at + 4], "big")
            blocks.append(payload[at + 4 : at + 14])
            at += 4 + size
    if sum(map(_varint, blocks)) > MAX_BATCH:
        raise _too_large()
    return bytes(codec.snappy_decode(payload))


def _varint(data: bytes) -> int:
    value = 0
    for place, byte in enumerate(data[:5]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            break
    return value


_DECODERS: dict[str, Callable[[Any], bytes]] = {
    "gzip_decode": _gzip,
    "zstd_decode": _zstd,
    "lz4_decode": _lz4,
    "snappy_decode": _snappy,
}


class BoundedConsumer:
    """A `kafka.KafkaConsumer` of which a poll gives no more than `MAX_RECORDS`, and none behind the one with which they
    are larger than `MAX_POLL`: kafka-python decompresses a batch when its first record is taken."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._poll = _Poll()
        consumer._fetcher.PartitionRecords = partial(_Records, self._poll)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def poll(self, timeout_ms: int) -> dict[Any, list[Any]]:
        """As kafka-python's; an error behind records is raised by the next poll."""
        for _ in range(2):
            self._poll.size = 0
            try:
                found: dict[Any, list[Any]] = self._consumer.poll(timeout_ms, max_records=MAX_RECORDS)
            except _Enough:  # the end of the poll before
                continue
            return found
        return {}


@dataclass
class _Poll:
    """Bytes of the records that the present one has taken."""

    size: int = 0


class _Enough(Exception):
    """Ends a poll: what is raised behind records waits for the next one."""


class _Records(Fetcher.PartitionRecords):
    """Of a fetch."""

    def __init__(self, poll: _Poll, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._poll = poll

    def take(self, n: int) -> list[Any]:
        """As kafka-python's, up to the bound. Raises `_Enough` where it was reached before."""
        if self._poll.size > MAX_POLL:
            raise _Enough
        found: list[Any] = []
        while len(found) < n and self._poll.size <= MAX_POLL:
            try:
                taken = super().take(1)
            except Exception as error:
                if not found:
                    raise
                self._next_inline_exception = error
                break
            if not taken:
                break
            found += taken
            self._poll.size += _size(taken[0])
        return found


def _size(record: Any) -> int:
    headers = sum(len(name) + len(value or b"") for name, value in record.headers or ())
    return len(record.key or b"") + len(record.value or b"") + headers
