"""Batches that kafka-python cannot decode, read by its own parser: everything else in them is given, and the position
moves on."""

import inspect
import struct
from types import SimpleNamespace

import pytest
import zstandard
from kafka import errors as kafka_errors
from kafka.consumer.fetcher import Fetcher
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.util import calc_crc32c
from kafka_fakes import PARTITION, FakeConsumer

from grpo_tta.adapters.events import BadRecord
from grpo_tta.adapters.kafka.consumers import ConsumerCache
from grpo_tta.adapters.kafka.errors import CodecMissing
from grpo_tta.adapters.kafka.settings import KafkaSettings
from grpo_tta.adapters.kafka.source import ReadLimits, _decoded, _Reader
from grpo_tta.adapters.kafka.tolerant import tolerant

GZIP, ZSTD = 1, 4
MAGIC = 16
"""Of a batch's format, which its checksum is not over."""
BODY = 61
"""Where the records of a batch begin."""


def sealed(data):
    data = bytearray(data)
    data[8:12] = struct.pack(">i", len(data) - 12)
    data[17:21] = struct.pack(">I", calc_crc32c(memoryview(data)[21:]))
    return bytes(data)


def batch(*changes, codec=0, value=b"value", fits=True):
    """Four records with the header ``name``; ``changes``: pairs of bytes to put in the place of others."""
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=codec, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=2**30,
    )  # fmt: skip
    for offset in range(4):
        builder.append(offset, 1_000, b"key", b"%d-%s" % (offset, value), [(f"name{offset}", b"x")])
    data = bytearray(builder.build())
    for old, new in changes:
        assert data.count(old) == 1
        data[data.index(old) : data.index(old) + len(old)] = new
    return sealed(data) if fits else bytes(data)


class Log(FakeConsumer):
    """Batches, read as the client library reads it: by its own parser, what is before an error first."""

    def __init__(self, data):
        super().__init__(end=12)
        self.data, self._fetcher = data, SimpleNamespace(PartitionRecords=Fetcher.PartitionRecords)

    def seek(self, partition, offset):
        self.at, self.parsed = offset, None

    def poll(self, timeout_ms):
        if self.parsed is None:
            self.parsed = self._fetcher.PartitionRecords(self.at, PARTITION, MemoryRecords(self.data))
        records = self.parsed.take(2)
        self.at = self.parsed.next_fetch_offset
        return {PARTITION: records} if records else {}


def read(data, start=0, stop=4):
    cache = ConsumerCache(open_=lambda *_: Log(data))
    reader = _Reader(KafkaSettings(("h:1",)), "images-0", ReadLimits(stall_seconds=1.0), "fail", True, cache)
    return [(offset, _decoded(record)) for offset, record in reader.read(start, stop)]


def bad(data, start=0):
    """Offsets of what cannot be decoded, and the reason of the first."""
    found = read(data, start)
    assert [offset for offset, _ in found] == list(range(start, 4))
    lost = [(offset, one) for offset, one in found if one.error_class == "Undecodable"]
    assert all(one.coordinate == f"images-0-{offset:019d}" and one.position == offset for offset, one in lost)
    return [offset for offset, _ in lost], lost[0][1].error_message if lost else ""


@pytest.mark.parametrize(
    ("data", "lost", "reason"),
    [
        (batch((b"name1", b"\xff\xfeme1")), [1], "UnicodeDecodeError"),
        (batch((b"name0", b"\xff\xfeme0"), (b"name3", b"nam\xff3")), [0, 3], "UnicodeDecodeError"),
        (batch((b"\x0e2-value", b"\x7f2-value")), [2], "Invalid|IndexError|out of range|size"),
        (batch((b"0-value", b"0-valuf"), fits=False), [0, 1, 2, 3], "checksum"),
        (sealed(batch(codec=GZIP)[:BODY] + b"no gzip"), [0, 1, 2, 3], "decompressed"),
    ],
)
def test_what_cannot_be_decoded_is_a_bad_record_and_the_rest_is_read(data, lost, reason):
    found, message = bad(data)
    assert found == lost
    assert any(word in message for word in reason.split("|"))
    assert bad(data, start=2)[0] == [offset for offset in lost if offset >= 2]


@pytest.mark.parametrize("codec", [0, GZIP])
def test_whatever_is_damaged_in_a_batch_all_of_its_records_are_named_and_no_other(codec):
    """Each bit from the checksum on: kinds, lengths, counts and offsets of the header, and the records."""
    three = [bytearray(batch(codec=codec)) for _ in range(3)]
    for number, one in enumerate(three):
        one[:8] = struct.pack(">q", 4 * number)
    start = len(three[0])
    for at in [*range(MAGIC, BODY), *range(BODY, len(three[1]), 7)]:
        for bit in (0, 4, 7):
            data = bytearray().join(three)
            data[start + at] ^= 1 << bit
            found = read(bytes(data), stop=12)
            assert [offset for offset, _ in found] == list(range(12)), (at, bit)
            lost = [offset for offset, one in found if one.error_class == "Undecodable"]
            assert lost == list(range(4, 8)) or (at == MAGIC and lost == []), (at, bit)


def test_whatever_is_sealed_into_records_each_offset_is_given_once():
    """Each bit of the count and of the records, the checksum made to fit: lengths that lie, offsets that are another's.
    No broker takes the latter, so it is the tolerant reader alone that is asked."""
    data, consumer = batch(), Log(b"")
    with tolerant(consumer):
        for at in range(BODY - 4, len(data)):
            for bit in range(8):
                damaged = bytearray(data)
                damaged[at] ^= 1 << bit
                parsed = consumer._fetcher.PartitionRecords(0, PARTITION, MemoryRecords(sealed(damaged)))
                assert [record.offset for record in parsed.take(5)] == [0, 1, 2, 3], (at, bit)


def test_a_large_zstd_batch_whose_frame_does_not_tell_its_size_is_read():
    data = bytearray(batch(value=b"x" * 2**20))
    packer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    packed = bytearray(data[:BODY]) + packer.compress(bytes(data[BODY:])) + packer.flush()
    packed[22] |= ZSTD
    assert bad(sealed(packed)) == ([], "")


def test_a_codec_without_its_package_ends_at_once_and_is_named(monkeypatch):
    data = batch(codec=ZSTD)
    monkeypatch.setattr("kafka.codec.zstd", None)
    with pytest.raises(CodecMissing, match=r"zstd.*pip install 'kafka-python\[lz4,snappy,zstd\]'"):
        read(data)


def test_the_client_library_is_as_this_reader_expects():
    with pytest.raises(kafka_errors.CorruptRecordError):
        list(Fetcher.PartitionRecords(0, PARTITION, MemoryRecords(batch((b"name1", b"\xff\xfeme1")))).record_iterator)
    consumer = Log(b"")
    with tolerant(consumer):
        assert consumer._fetcher.PartitionRecords is not Fetcher.PartitionRecords
    assert consumer._fetcher.PartitionRecords is Fetcher.PartitionRecords
    assert "self.PartitionRecords(" in inspect.getsource(Fetcher)
    assert all(isinstance(one, BadRecord) for _, one in read(batch()))
