"""What a topic's compressed batches and large records may take."""

import tracemalloc
import types

import pytest
from kafka import errors
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka_fakes import PARTITION, Record

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


class Records:
    """Of these sizes, an error or nothing, one a poll."""

    def __init__(self, *sizes):
        self.sizes = iter(sizes)
        self.sought = []

    def poll(self, timeout_ms, max_records):
        assert max_records == 1
        size = next(self.sizes, None)
        if isinstance(size, Exception):
            raise size
        return {} if size is None else {PARTITION: [Record(value=b"x" * size)]}

    def seek(self, partition, offset):
        self.sought.append((partition, offset))


def polled(consumer, polls):
    return [len(consumer.poll(500).get(PARTITION, ())) for _ in range(polls)]


def test_a_poll_ends_at_a_large_record_and_at_its_bounds():
    large = MAX_POLL + 1
    consumer = BoundedConsumer(Records(*[1] * 600, large, large, 1, MAX_POLL // 2, 1, MAX_POLL // 2, 1, None, 1))
    assert polled(consumer, 6) == [MAX_RECORDS, 101, 1, 4, 1, 1]
    headers = [("name", b"x" * large)]
    consumer = BoundedConsumer(types.SimpleNamespace(poll=lambda *_, **__: {PARTITION: [Record(headers=headers)]}))
    assert polled(consumer, 1) == [1]


def test_an_error_comes_behind_the_records_before_it_unless_they_are_read_again():
    consumer = BoundedConsumer(Records(1, 1, errors.CorruptRecordError("one"), 1, errors.CorruptRecordError("two"), 1))
    assert polled(consumer, 1) == [2]
    with pytest.raises(errors.CorruptRecordError, match="one"):
        consumer.poll(500)
    assert polled(consumer, 1) == [1]
    consumer.seek(PARTITION, 3)
    assert polled(consumer, 1) == [1]
    assert consumer.sought == [(PARTITION, 3)]
