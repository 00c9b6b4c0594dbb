"""Consumers that a topic cannot make take more memory than a bound: what a producer compressed is decompressed up to a
bound, and a poll ends where its records are large.

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
    are larger than `MAX_POLL`: it takes one after another, for kafka-python decompresses a batch when its first record
    is taken."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._failed: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def seek(self, partition: Any, offset: int) -> None:
        """As kafka-python's."""
        self._failed = None
        self._consumer.seek(partition, offset)

    def poll(self, timeout_ms: int) -> dict[Any, list[Any]]:
        """As kafka-python's; an error behind records is raised by the next poll."""
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed
        found: dict[Any, list[Any]] = {}
        size = count = 0
        while count < MAX_RECORDS and size <= MAX_POLL:
            try:
                taken = self._consumer.poll(0 if found else timeout_ms, max_records=1)
            except Exception as error:
                if not found:
                    raise
                self._failed = error
                break
            if not taken:
                break
            for partition, records in taken.items():
                found.setdefault(partition, []).extend(records)
                count += len(records)
                size += sum(map(_size, records))
        return found


def _size(record: Any) -> int:
    headers = sum(len(name) + len(value or b"") for name, value in record.headers or ())
    return len(record.key or b"") + len(record.value or b"") + headers
