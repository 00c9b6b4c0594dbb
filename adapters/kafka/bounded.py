"""Consumers that a topic cannot make take more memory than a bound: what a producer compressed is decompressed up to a
bound, and records are taken a few at a time where they are large.

kafka-python decompresses a batch whole, whatever comes of it; `bound_codecs` puts decoders in its place that stop.
"""

import gzip
import io
from collections.abc import Callable
from typing import Any

from kafka import codec, errors
from kafka.record import default_records, legacy_records

MAX_BATCH = 64 * 2**20
"""Bytes of a batch of records when it is decompressed; as of a manifest's line."""
MAX_POLL = 16 * 2**20
"""Bytes of the records of one poll above which the next one takes a single record."""
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
    """A `kafka.KafkaConsumer` of which a poll gives as many records as their size allows: one at first, and twice as
    many as before while they are small."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._most = 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def poll(self, timeout_ms: int) -> dict[Any, list[Any]]:
        """As kafka-python's."""
        found: dict[Any, list[Any]] = self._consumer.poll(timeout_ms, max_records=self._most)
        size = sum(len(record.value or b"") for records in found.values() for record in records)
        self._most = 1 if size > MAX_POLL else min(2 * self._most, MAX_RECORDS)
        return found
