"""What a topic's compressed batches and large records may take."""

import struct
import tracemalloc
from types import SimpleNamespace

import pytest
from kafka import errors
from kafka.consumer.fetcher import Fetcher
from kafka.consumer.subscription_state import SubscriptionState
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka_fakes import PARTITION

from grpo_tta.adapters.kafka import bounded
from grpo_tta.adapters.kafka.bounded import MAX_POLL, MAX_RECORDS, BoundedConsumer, bound_codecs

CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
PACKAGES = {"snappy": "snappy", "lz4": "lz4.frame", "zstd": "zstandard"}


def batch(codec, value):
    if codec in PACKAGES:
        pytest.importorskip(PACKAGES[codec])
    made = DefaultRecordBatchBuilder(2, CODECS[codec], False, -1, -1, -1, 2**30)
    made.append(0, 0, None, value, [])
    data = bytes(made.build())
    assert len(data) < len(value)
    return DefaultRecordBatch(data)


@pytest.mark.parametrize("codec", CODECS)
def test_a_batch_that_holds_too_much_is_refused(codec, monkeypatch):
    bound_codecs()
    value = b"\0" * 300_000
    (record,) = batch(codec, value)
    assert record.value == value
    monkeypatch.setattr(bounded, "MAX_BATCH", 299_000)
    with pytest.raises(errors.CorruptRecordError, match="holds more than 299000 bytes"):
        list(batch(codec, value))


def test_no_more_than_the_bound_is_decompressed(monkeypatch):
    bound_codecs()
    monkeypatch.setattr(bounded, "MAX_BATCH", 2**21)
    bomb = batch("gzip", b"\0" * 2**26)
    tracemalloc.start()
    try:
        with pytest.raises(errors.CorruptRecordError):
            list(bomb)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**21
    finally:
        tracemalloc.stop()


class Log:
    """A consumer whose fetches, each a batch of records of some sizes, came in; kafka-python's own from there on. A
    batch whose last size is None fails its checksum."""

    def __init__(self, *fetches):
        self._subscriptions = SubscriptionState()
        self._subscriptions.assign_from_user([PARTITION])
        self._fetcher = Fetcher(SimpleNamespace(_manager=SimpleNamespace(_net=None)), self._subscriptions)
        self._fetcher._parse_fetched_data = self._parsed
        self.seek(PARTITION, 0)
        start = 0
        for sizes in fetches:
            data = bytearray(of_sizes(sizes, start))
            data[-1] ^= sizes[-1] is None
            came = SimpleNamespace(topic_partition=PARTITION, fetched_offset=start, data=bytes(data))
            self._fetcher._completed_fetches.append(came)
            start += len(sizes)

    def _parsed(self, came):
        return self._fetcher.PartitionRecords(came.fetched_offset, PARTITION, MemoryRecords(came.data))

    def poll(self, timeout_ms, max_records):
        return self._fetcher.fetched_records(max_records)[0]

    def seek(self, partition, offset):
        self._subscriptions.seek(partition, offset)


def of_sizes(sizes, start):
    made = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 2**30)
    for number, size in enumerate(sizes):
        made.append(number, 0, None, bytes(size or 1), [])
    data = bytearray(made.build())
    data[:8] = struct.pack(">q", start)
    return data


def polled(consumer, polls):
    return [len(consumer.poll(500).get(PARTITION, ())) for _ in range(polls)]


def test_a_poll_ends_at_a_large_record_and_at_its_bounds():
    large, half = MAX_POLL + 1, MAX_POLL // 2
    consumer = BoundedConsumer(Log([1] * 350, [1] * 250, [large], [large, 1, half, 1], [half, 1], [1]))
    assert polled(consumer, 6) == [MAX_RECORDS, 101, 1, 4, 2, 0]
    assert consumer._subscriptions.position(PARTITION).offset == 608


def test_a_record_s_headers_count():
    made = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 2**30)
    for number in range(2):
        made.append(number, 0, None, b"", [("name", bytes(MAX_POLL))])
    log = Log([1])
    log._fetcher._completed_fetches[0].data = bytes(made.build())
    assert polled(BoundedConsumer(log), 3) == [1, 1, 0]


def test_an_error_comes_behind_the_records_before_it_unless_they_are_read_again():
    consumer = BoundedConsumer(Log([1, 1], [1, None]))
    assert polled(consumer, 1) == [2]
    with pytest.raises(errors.CorruptRecordError, match="offset 2"):
        consumer.poll(500)
    consumer = BoundedConsumer(Log([1, 1], [1, None]))
    assert polled(consumer, 1) == [2]
    consumer.seek(PARTITION, 4)
    assert polled(consumer, 1) == [0]


def test_one_poll_of_the_client_is_one_poll():
    """Each takes a turn of its network thread."""
    log, calls = Log([1] * MAX_RECORDS), []
    poll, log.poll = log.poll, lambda *given, **named: calls.append(1) or poll(*given, **named)
    assert polled(BoundedConsumer(log), 1) == [MAX_RECORDS]
    assert len(calls) == 1
